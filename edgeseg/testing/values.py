"""Checks of data sets and power meters."""

from __future__ import annotations

import math
import pickle

import numpy as np

from edgeseg.contracts import Meter, SegDataset
from edgeseg.testing.expect import expect, refused


def check_dataset(dataset: SegDataset, *, at_most: int = 4) -> None:
    """Check that a data set keeps its contract (`contracts.SegDataset`).

    Args:
        at_most: so many samples are read.
    Raises:
        AssertionError: it does not.
    """
    count = len(dataset)
    expect(count > 0, "a data set holds samples")
    names = [dataset.name(index) for index in range(count)]
    expect(len(set(names)) == count, "no two samples share a name")
    expect(names == [dataset.name(index) for index in range(count)], "names stay the same")
    allowed = {*range(dataset.labels.num_classes), dataset.labels.ignore_index}
    copy: SegDataset = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - what a loader process does
    for index in range(min(at_most, count)):
        image, mask = dataset.load(index)
        expect(
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, "an image is (H, W, 3) uint8"
        )
        expect(mask.dtype == np.uint8 and mask.shape == image.shape[:2], "a class map is (H, W) uint8")
        expect(set(np.unique(mask).tolist()) <= allowed, "a class map holds known values")
        for again in (dataset, copy):
            same = all(np.array_equal(*pair) for pair in zip(again.load(index), (image, mask), strict=True))
            expect(same, "a sample is the same whenever, and by whichever process, it is read")
    for call in (dataset.load, dataset.name):
        with refused(IndexError, "an index behind the last is an IndexError"):
            call(count)


def check_meter(meter: Meter, *, readings: int = 3) -> None:
    """Check that a power meter keeps its contract (`contracts.Meter`). Raises AssertionError."""
    for _ in range(readings):
        watts = meter.read()
        expect(all(isinstance(rail, str) and rail for rail in watts), "rails have names")
        expect(
            all(math.isfinite(value) and value >= 0 for value in watts.values()),
            "a rail draws no negative power",
        )
