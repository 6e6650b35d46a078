"""The training curve of a run, drawn from its metrics.jsonl."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edgeseg.errors import DataError, require
from edgeseg.files import Target
from edgeseg.journal import read_rows


def read_curve(metrics: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a metrics.jsonl: those with a training loss, and those with a validation mIoU, by step.

    Raises:
        DataError: no such file, a line within that is no JSON, or nothing to draw.
    """
    rows = read_rows(metrics)
    losses, validations = [r for r in rows if "loss" in r], [r for r in rows if "miou" in r]
    if not losses:
        raise DataError(f"{metrics}: no steps yet", hint="wait for the first 50 steps")
    return losses, validations


def draw_curve(run_dir: Path, out: Path | Target) -> None:
    """Draw loss and validation mIoU over optimiser steps as PNG; `out` appears whole or not at all.

    Raises:
        DataError: see `read_curve`; or `out` cannot be written.
        MissingDependency: matplotlib is not installed.
    """
    losses, validations = read_curve(run_dir / "metrics.jsonl")
    figure_module = require("matplotlib.figure", extra="report", purpose="draw curves")
    figure = figure_module.Figure(figsize=(8, 4), dpi=120, layout="constrained")
    left = figure.subplots()
    left.plot(
        [r["step"] for r in losses], [r["loss"] for r in losses], color="tab:gray", label="training loss"
    )
    left.set(xlabel="optimiser step", ylabel="loss", ylim=(0, None))
    left.grid(alpha=0.3)
    right = left.twinx()
    right.plot(
        [r["step"] for r in validations], [100 * r["miou"] for r in validations], "o-", color="tab:blue"
    )
    right.set(ylabel="validation mIoU, %", ylim=(0, 100))
    left.set_title(run_dir.resolve().name)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    Target.of(out, DataError, "choose another place with -o").write(picture.getvalue())
