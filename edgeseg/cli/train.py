"""edgeseg train."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli import render
from edgeseg.text import quoted


@click.command()
@click.argument("recipe")
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that the recipe's data paths start from.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Run folder; default runs/NAME.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Checkpoint to start from (train.init_skip names what not to load).",
)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0), help="Loader processes.")
@click.option("--fresh", is_flag=True, help="Set an earlier run in the folder aside and start anew.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one recipe value; repeatable."
)
@render.json_option
def train(
    recipe: str,
    data_root: Path,
    out: Path | None,
    init: Path | None,
    device: str,
    workers: int,
    fresh: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train RECIPE, a YAML file or a catalogue name.

    Run it again to continue where it stopped: Ctrl-C, a crash and a power cut keep all but the last few
    steps.
    """
    from edgeseg.api import train as run_training

    with render.RichProgress() as progress:
        run = run_training(
            recipe,
            data=data_root,
            out=out,
            init=init,
            device=device,
            workers=workers,
            fresh=fresh,
            progress=progress,
            overrides=overrides,
        )
    result = run.result
    figures = {
        "checkpoint": str(result.best),
        "miou": result.miou,
        "best_step": result.best_step,
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        "run_dir": str(run.folder),
    }
    render.result(
        figures,
        as_json,
        lambda: (
            f"best mIoU {result.miou:.4f} at step {result.best_step} of {result.step}"
            f" ({result.seconds / 60:.0f} min)\ncheckpoint  {result.best}\nnext        edgeseg export"
            f" {quoted(run.folder)}"
        ),
    )
