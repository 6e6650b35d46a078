"""Accuracy of anything that segments, over any data set: torch model and compiled engine go through the same
lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgeseg.contracts import NoProgress, Progress, SegDataset
from edgeseg.metrics import ConfusionMatrix
from edgeseg.specs import ImageU8, MaskU8


def evaluate(
    segment: Callable[[ImageU8], MaskU8],
    dataset: SegDataset,
    indices: Iterable[int] | None = None,
    progress: Progress | None = None,
) -> ConfusionMatrix:
    """Confusion over a data set at the labels' own resolution.

    Args:
        segment: (H, W, 3) uint8 -> (H, W) uint8 class indices, e.g. `session.segment`.
        indices: samples to use; all by default.
    """
    progress = progress or NoProgress()
    chosen = list(range(len(dataset)) if indices is None else indices)
    confusion = ConfusionMatrix(dataset.labels.num_classes, dataset.labels.ignore_index)
    progress.start("evaluate", len(chosen))
    for index in chosen:
        image, mask = dataset.load(index)
        confusion.update(mask, segment(image))
        progress.advance("evaluate", miou=confusion.miou())
    progress.finish("evaluate")
    return confusion
