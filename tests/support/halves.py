"""A data set of two classes, side by side, that counts what is read of it."""

from __future__ import annotations

import numpy as np

from edgeseg.specs import ImageU8, LabelSpace, MaskU8

LABELS = LabelSpace(("left", "right"), ((0, 0, 0), (255, 255, 255)))
SIZE_HW = (32, 64)


class Data:
    """A SegDataset."""

    labels = LABELS

    def __init__(self, count: int = 5, void: bool = False) -> None:
        self.count, self.void, self.loads = count, void, 0

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"val/{index}"

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        self.loads += 1
        mask = np.zeros(SIZE_HW, np.uint8)
        mask[:, 32:] = 255 if self.void else 1
        return np.repeat(np.where(mask, 200, index)[..., None], 3, 2).astype(
            np.uint8
        ), mask if not self.void else mask | 255
