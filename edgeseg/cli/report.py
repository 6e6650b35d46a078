"""edgeseg report."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli import render


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Picture to write; default curve.png in the run."
)
@render.json_option
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Draw the training curve of RUN, a folder that `edgeseg train` made: loss and validation mIoU over
    steps.
    """
    from edgeseg.errors import DataError
    from edgeseg.files import Target
    from edgeseg.report.curve import draw_curve, read_curve

    out = out or run / "curve.png"
    draw_curve(run, Target(out, DataError, "choose another place with -o"))
    losses, validations = read_curve(run / "metrics.jsonl")
    best = max(validations, key=lambda row: float(row["miou"]), default=None)
    told = f"; best mIoU {render.percent(best['miou'], 2)} at step {best['step']}" if best else ""
    render.result(
        {"curve": out, "steps": losses[-1]["step"], "best": best},
        as_json,
        lambda: f"curve  {out}\n       {losses[-1]['step']} steps{told}",
        file=out,
    )
