"""What a run leaves to read: metrics.jsonl, TensorBoard events where it is installed, sample predictions as
PNG.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.contracts import SegDataset
from edgeseg.errors import BuildError
from edgeseg.files import Target, refusals, replace_file
from edgeseg.images import colour_mask, encode_png, overlay
from edgeseg.journal import read_rows
from edgeseg.models.reference import TorchReference
from edgeseg.specs import ImageU8

WAY_OUT = "free disk space, or choose another folder with --out; the same command continues"
"""What to do where a run cannot write its files."""

_SAMPLES = 4


class TrainLog:
    """Appends one JSON object a line. Lines past the step that a run resumes from are dropped, so that the
    curve has no fork.

    Raises:
        BuildError: it cannot be written. DataError: the file holds something else.
    """

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self.path = run_dir / "metrics.jsonl"
        if self.path.exists():
            kept = [row for row in read_rows(self.path) if row["step"] <= first_step]
            with refusals(self.path, BuildError, WAY_OUT):
                replace_file(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._board = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            with refusals(run_dir / "tensorboard", BuildError, WAY_OUT):
                self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, **figures: Any) -> None:
        with refusals(self.path, BuildError, WAY_OUT):
            with self.path.open("ab") as file:
                file.write((json.dumps({"step": step, **figures}) + "\n").encode())
            if self._board is not None:
                for name, value in figures.items():
                    if isinstance(value, (int, float)):
                        self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def sample_sheet(reference: TorchReference, dataset: SegDataset) -> ImageU8:
    """A few evenly spread validation samples, one a row: image, label colours, prediction overlaid. RGB
    uint8.
    """
    rows = []
    for index in np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).astype(int):
        image, mask = dataset.load(int(index))
        predicted = overlay(image, reference.segment(image), dataset.labels, opacity=0.6)
        rows.append(np.concatenate([image, colour_mask(mask, dataset.labels), predicted], axis=1))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    sheet: ImageU8 = np.concatenate(padded, axis=0)
    return sheet


def write_samples(path: Path, reference: TorchReference, dataset: SegDataset) -> None:
    """Write `sample_sheet` as PNG. Raises BuildError where it cannot be written."""
    picture = encode_png(sample_sheet(reference, dataset))
    Target(path, BuildError, WAY_OUT).write(picture)
