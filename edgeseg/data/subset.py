"""A fixed part of a data set that is evaluated many times: read once, known by its content."""

from __future__ import annotations

import hashlib

import numpy as np

from edgeseg.contracts import SegDataset
from edgeseg.errors import DataError
from edgeseg.specs import ImageU8, MaskU8

_KEPT_BYTES = 1 << 30


class Subset:
    """Samples of a data set, evenly spread over it. A SegDataset.

    All are read at the start: a damaged file shows before hours of work, and `sha256` covers names, images
    and labels. What fits into `kept_bytes` stays in memory; the rest is read again when it is asked for.

    Args:
        limit: at most so many samples; None: all.
    Raises:
        DataError: the data set is empty, a file cannot be read, or no pixel of the samples counts.
    """

    def __init__(self, dataset: SegDataset, limit: int | None = None, kept_bytes: int = _KEPT_BYTES) -> None:
        if not len(dataset):
            raise DataError(
                "the validation set is empty",
                hint="edgeseg data check RECIPE --data-root DIR; correct data.val",
            )
        count = len(dataset) if limit is None else min(limit, len(dataset))
        self.labels = dataset.labels
        self.indices = [int(index) for index in np.linspace(0, len(dataset) - 1, count)]
        self.names = [dataset.name(index) for index in self.indices]
        self._dataset = dataset
        self._kept: dict[int, tuple[ImageU8, MaskU8]] = {}
        digest = hashlib.sha256(repr((self.labels, self.names)).encode())
        held_bytes, counted = 0, False
        for number, index in enumerate(self.indices):
            image, mask = dataset.load(index)
            for values in (image, mask):
                digest.update(repr(values.shape).encode())
                digest.update(np.ascontiguousarray(values).data)
            counted = counted or bool((mask != self.labels.ignore_index).any())
            held_bytes += image.nbytes + mask.nbytes
            if held_bytes <= kept_bytes:
                self._kept[number] = (image, mask)
        if not counted:
            raise DataError(
                f"no pixel of the {count} validation images has a label that counts",
                hint="edgeseg data check RECIPE --data-root DIR",
            )
        self.sha256 = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.names[index]

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        return self._kept.get(index) or self._dataset.load(self.indices[index])
