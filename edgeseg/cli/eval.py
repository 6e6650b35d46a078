"""edgeseg eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import options, render
from edgeseg.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.specs import Precision


@click.command("eval")
@click.argument("bundle", type=click.Path(path_type=Path))
@options.data_root()
@click.option(
    "--level",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="ISR level; 0 is the most exact.",
)
@options.precision
@options.checkpoint("Also measure this torch checkpoint, on the same images.")
@options.limit("Use N images, evenly spread.")
@options.threads("Threads of the engine.")
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE", help="Write the figures here as JSON."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the bundle's recipe."
)
@render.json_option
def eval_(
    bundle: Path,
    data_root: Path,
    level: int,
    precision: Precision | None,
    checkpoint: Path | None,
    limit: int | None,
    threads: int | None,
    report: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure BUNDLE's engine on a validation set: mIoU, per class, at the labels' own resolution."""
    from edgeseg.bundle import open_bundle
    from edgeseg.pipeline.evaluate import evaluate_bundle
    from edgeseg.recipe.load import load_kept
    from edgeseg.stream.sinks.disk import prepare
    from edgeseg.text import json_document

    opened = open_bundle(bundle)
    recipe = load_kept(opened.file(opened.manifest.recipe), overrides)
    report_to = prepare(report) if report is not None else None
    with render.RichProgress() as progress:
        measured = evaluate_bundle(
            opened,
            recipe,
            data_root,
            level=level,
            precision=precision,
            checkpoint=checkpoint,
            limit=limit,
            threads=threads,
            progress=progress,
        )
    data = {
        "bundle": str(opened.path),
        "level": level,
        "isr": opened.manifest.levels[level].isr,
        **measured.to_json(),
    }
    if report_to is not None:
        report_to.write(json_document(plain(data)))

    def human() -> list[RenderableType]:
        engine, torch = data["engine"], data["torch"]
        rows = [
            [
                name,
                render.percent(row["pixel_share"]),
                render.percent(row["iou"], 2),
                *([render.percent(torch["classes"][name]["iou"], 2)] if torch else []),
            ]
            for name, row in engine["classes"].items()
        ]
        both = [render.percent(torch["miou"], 2)] if torch else []
        rows.append(["mean", "", render.percent(engine["miou"], 2), *both])
        columns = [
            "class",
            "pixels",
            f"IoU {measured.precision} engine",
            *(["IoU float torch"] if torch else []),
        ]
        lines = f"pixel accuracy {render.percent(engine['pixel_accuracy'], 2)}"
        return [
            render.table(
                f"{opened.name}, level {level} ({data['isr']}), on {measured.images} images", columns, rows
            ),
            lines,
        ]

    render.result(data, as_json, human, file=report)
