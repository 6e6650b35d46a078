"""edgeseg quantize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import options, render
from edgeseg.text import quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.pipeline.quantize import Quantization

_SHOWN = 12
_NAMES = {"float": "float", "ptq": "INT8 calibrated", "qat": "INT8 trained"}


@click.command()
@click.argument("recipe")
@options.float_weights
@options.data_root()
@options.levels
@options.plans
@click.option(
    "--ptq-only", is_flag=True, help="Calibrate only; leave out the training that quant.qat asks for."
)
@options.run_folder
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="To train on.",
)
@options.workers
@options.threads("Threads of the engines; default: all cores.")
@click.option("--fresh", is_flag=True, help="Repeat every stage; an earlier training is kept aside.")
@options.overrides
@render.json_option
def quantize(
    recipe: str,
    checkpoint: Path | None,
    data_root: Path,
    levels: Path | None,
    plans: tuple[str, ...],
    ptq_only: bool,
    out: Path | None,
    device: str,
    workers: int,
    threads: int | None,
    fresh: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn a float checkpoint of RECIPE into an INT8 bundle: calibrate, train on, export, build, measure.

    RECIPE is a YAML file, a catalogue name, a run folder of `edgeseg train`, or a checkpoint; its quant
    section says how. The bundle holds the float program beside the INT8 one. Both engines are measured on the
    whole validation split, and the bundle appears only when INT8 loses no more than quant.max_miou_drop.

    With several ISR levels, calibration covers all of them with one set of scales; a level that loses too
    much with it gets activation scales of its own. Training is at level 0.

    Run it again to continue: what is unchanged is not done twice.
    """
    from edgeseg.api import open_run

    if levels is not None and plans:
        raise click.UsageError(
            "--levels takes the plans of a search, --level plans by hand: give one of the two"
        )
    run = open_run(recipe, checkpoint=checkpoint, overrides=overrides)
    with render.RichProgress() as progress:
        made = run.quantize(
            data=data_root,
            out=out,
            levels=levels or plans,
            ptq_only=ptq_only,
            fresh=fresh,
            device=device,
            workers=workers,
            threads=threads,
            progress=progress,
        )
    data = {"checkpoint": made.checkpoint, "bundle": made.bundle.path, "kept": made.kept, **made.report}
    render.result(data, as_json, lambda: _shown(made))


def _shown(made: Quantization) -> list[RenderableType]:
    report = made.report
    accuracy: dict[str, Any] = report["accuracy"]
    first = accuracy["float"]
    rows: list[list[object]] = [
        [name, render.percent(row["pixel_share"])]
        + [render.percent(measured["classes"][name]["iou"], 2) for measured in accuracy.values()]
        for name, row in first["classes"].items()
    ]
    rows.append(["mean", "", *(render.percent(measured["miou"], 2) for measured in accuracy.values())])
    engines = f"{first['engine']}; {accuracy[report['best']]['engine']}"
    title = (
        f"{report['recipe']}, ISR {report['isr']}, {first['images']} images: IoU through the engines"
        f" ({engines})"
    )
    paths = {
        "checkpoint": made.checkpoint,
        "bundle": made.bundle.path,
        "report": made.checkpoint.parent / "quant" / "quant.json",
    }
    return [
        render.table(title, ["class", "pixels", *(_NAMES[kind] for kind in accuracy)], rows),
        _coverage(report["coverage"]),
        render.table(
            "", ["engine", "median ms", "p90 ms", "size", ""], [_engine(row) for row in report["engines"]]
        ),
        *_levels(report),
        *_told(report),
        *([f"kept, as nothing changed: {', '.join(made.kept)}"] if made.kept else []),
        *(f"{name:<12}{path}" for name, path in paths.items()),
        f"next        edgeseg run {quoted(made.bundle.path)} --source VIDEO",
    ]


def _coverage(coverage: dict[str, Any]) -> RenderableType:
    """What stays float, and why."""
    left = sorted(
        (row for row in coverage["layers"] if row["precision"] == "float"), key=lambda row: -int(row["macs"])
    )
    rows = [
        [row["name"], row["kind"], render.percent(row["macs"] / coverage["macs"], 2), row["reason"]]
        for row in left[:_SHOWN]
    ]
    if more := left[_SHOWN:]:
        share = render.percent(sum(row["macs"] for row in more) / coverage["macs"], 2)
        rows.append([f"and {len(more)} more", "", share, "see quant.json"])
    title = (
        f"{render.percent(coverage['share'])} of the multiply-adds are in INT8; float: {len(left)} of"
        f" {len(coverage['layers'])}"
    )
    return render.table(title, ["layer", "kind", "MACs", "why"], rows)


def _levels(report: Mapping[str, Any]) -> list[RenderableType]:
    """Where there are several: what INT8 costs at each, and whose scales it has."""
    if len(report["levels"]) == 1:
        return []
    rows = [
        [
            row["level"],
            row["isr"],
            *(render.percent(row[key], 2) for key in ("float_miou", "int8_miou")),
            *(f"{ms:.1f}" if ms else None for ms in row["median_ms"].values()),
            row["scales"],
        ]
        for row in report["levels"]
    ]
    columns = ["level", "isr", "float mIoU", "INT8 mIoU", "float ms", "INT8 ms", "scales"]
    told = [
        f"level {row['level']} has activation scales of its own: {row['why']}"
        for row in report["levels"]
        if row["why"]
    ]
    return [render.table("levels", columns, rows), *told]


def _engine(row: dict[str, Any]) -> list[object]:
    milliseconds = [f"{row[name]:.1f}" if row[name] else None for name in ("median_ms", "p90_ms")]
    size = render.size(row["bytes"]) if row["bytes"] else None
    return [f"{row['runtime']} {row['kind']}", *milliseconds, size, "default" if row["default"] else ""]


def _told(report: Mapping[str, Any]) -> list[str]:
    """What decides, in sentences."""
    drop, allowed = 100 * report["miou_drop"], 100 * report["quant"]["max_miou_drop"]
    lines = [
        f"INT8 {'lost' if drop >= 0 else 'gained'} {abs(drop):.2f} points of mIoU; a loss of {allowed:.2f} is"
        " allowed"
    ]
    qat, faster = report["qat"], report["speedup"]
    if qat is not None and not qat["best_step"]:
        lines.append(
            f"training was no better than calibration ({render.percent(qat['miou_trained'], 2)} against "
            f"{render.percent(qat['miou_ptq'], 2)} in torch): the calibrated checkpoint was taken"
        )
    if faster is not None and faster <= 1.0:
        lines.append(
            f"INT8 IS NOT FASTER HERE: its best engine takes {1 / faster:.2f} times as long as the best float"
            " engine"
        )
    elif faster is not None:
        lines.append(f"the best INT8 engine is {faster:.2f} times as fast as the best float engine")
    return lines
