"""Options that several commands take, declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Any], Any]

_PATH = click.Path(path_type=Path)


def data_root(
    help: str = "Folder that the recipe's data paths start from.", required: bool = True
) -> Decorator:
    """Declare --data-root."""
    return click.option("--data-root", type=_PATH, required=required, help=help)


def checkpoint(help: str) -> Decorator:
    """Declare --checkpoint."""
    return click.option("--checkpoint", type=_PATH, help=help)


weights = checkpoint("Weights; default best.safetensors of the run.")
float_weights = checkpoint("Float weights; default best.safetensors of the run.")

overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one recipe value; repeatable."
)
run_folder = click.option("-o", "--out", type=_PATH, help="Run folder; default runs/NAME.")
workers = click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(0), help="Loader processes."
)
device = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])
)
precision = click.option(
    "--precision",
    type=click.Choice(["float", "fp16", "int8"]),
    help="Default: whatever a build found fastest.",
)
levels = click.option(
    "--levels", type=_PATH, metavar="PLAN.json", help="One level for each that a search kept."
)
plans = click.option(
    "--level",
    "plans",
    multiple=True,
    metavar="PLAN",
    help="A level at this ISR plan, as 2,2,1,1-2,2,2; repeatable.",
)


def limit(help: str = "Use N validation images, evenly spread.") -> Decorator:
    """Declare --limit."""
    return click.option("--limit", type=click.IntRange(1), metavar="N", help=help)


def threads(help: str) -> Decorator:
    """Declare --threads."""
    return click.option("--threads", type=click.IntRange(1), help=help)
