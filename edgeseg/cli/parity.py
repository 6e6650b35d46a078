"""edgeseg parity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import options, render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.export.parity.ladder import Rung
    from edgeseg.pipeline.parity import Ladder
    from edgeseg.specs import Precision


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@options.checkpoint("The float checkpoint: for P0, P1 and P4.")
@click.option(
    "--quantized", type=click.Path(path_type=Path), help="The quantized checkpoint: for P0 and P1 of INT8."
)
@options.data_root("Folder that the recipe's data paths start from: for P4.", required=False)
@options.limit("With --data-root: use N images, evenly spread.")
@click.option("--level", type=click.IntRange(0), help="This ISR level only.")
@click.option(
    "--precision", type=click.Choice(["float", "fp16", "int8"]), help="Programs of this precision only."
)
@options.threads("Threads of the engine in P4.")
@render.json_option
def parity(
    bundle: Path,
    checkpoint: Path | None,
    quantized: Path | None,
    data_root: Path | None,
    limit: int | None,
    level: int | None,
    precision: Precision | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find where a BUNDLE's program stops saying what its model said: from the checkpoint to the engine, rung
    by rung.

    P0 the torch model gives the golden masks; P1 the exported graph computes what torch does, of INT8 with
    the same integers on both sides; P2 so does the graph as ONNX Runtime optimises it, in every form; P3 so
    does another runtime; P4 the engine loses no more mIoU against the float checkpoint than the recipe's gate
    allows. The bundle is only read.
    """
    from edgeseg.bundle import open_bundle
    from edgeseg.pipeline.parity import Inputs, check, climb

    opened = open_bundle(bundle)
    given = Inputs(checkpoint, quantized, data_root, limit, threads)
    with render.RichProgress() as progress:
        ladders = climb(opened, given, level=level, precision=precision, progress=progress)
    if as_json:
        check(
            opened, ladders
        )  # before anything is printed: an error is the one document then, and holds all rungs
    data = {"bundle": opened.path, "ladders": [ladder.to_json() for ladder in ladders]}
    render.result(data, as_json, lambda: _shown(ladders))
    check(opened, ladders)


def _shown(ladders: list[Ladder]) -> list[RenderableType]:
    columns = ("rung", "compares", "measured", "wanted", "")
    parts: list[RenderableType] = []
    for ladder in ladders:
        rows = [row for rung in ladder.rungs for row in _rows(rung)]
        parts.append(render.table(f"level {ladder.level} ({ladder.isr}), {ladder.precision}", columns, rows))
    return parts


def _rows(rung: Rung) -> list[tuple[object, ...]]:
    """A line for each figure."""
    if rung.skipped or rung.problem:
        return [
            (
                rung.name,
                rung.compares,
                "-",
                "-",
                f"skipped: {rung.skipped}" if rung.skipped else f"BROKEN: {rung.problem}",
            )
        ]
    return [
        (
            rung.name if first else "",
            rung.compares if first else "",
            f"{name} {rung.figures[name]:.5g}",
            str(limit),
            "passed" if limit.holds(rung.figures[name]) else "BROKEN",
        )
        for first, (name, limit) in zip(
            [True, *[False] * len(rung.limits)], rung.limits.items(), strict=False
        )
    ]
