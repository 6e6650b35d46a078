"""edgeseg train."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli import options, render
from edgeseg.text import quoted


@click.command()
@click.argument("recipe")
@options.data_root()
@options.run_folder
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Checkpoint to start from (train.init_skip names what not to load).",
)
@options.device
@options.workers
@click.option("--fresh", is_flag=True, help="Set an earlier run in the folder aside and start anew.")
@options.overrides
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
