"""From what was seen of a tensor to the range that INT8 covers: histograms of absolute values, and four ways
to read them.

Own and not modelopt's: its mse takes the number of bits for a bias (0.47), its entropy takes seconds a
tensor. Besides, this histogram keeps its resolution when a later image reaches further, and counts exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Method = Literal["max", "percentile", "mse", "entropy"]
LEVELS = 128
"""Absolute values that a symmetric INT8 code can take."""
BINS = 4096
_FIRST_BIN, _STRIDE = LEVELS, 8
"""Candidates for a range: the upper edges of every eighth bin, from the one on that holds one bin a level."""


class Histogram:
    """Counts of |x| in `BINS` equal bins from 0 to `top`.

    Where a value lies beyond, `top` doubles and bins merge in pairs.

    So at least half of the bins lie inside of the largest value seen, whatever the order of the images.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.top = 0.0
        self.largest = 0.0

    def fit(self, largest: float) -> None:
        """Make room for values up to `largest`, which is finite."""
        self.largest = max(self.largest, largest)
        if self.top == 0.0:  # nothing but zeros so far; they are in the first bin at any width
            self.top = largest
        while self.top < largest:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([merged, np.zeros(BINS - len(merged), np.int64)])
            self.top *= 2.0

    def add(self, counts: npt.NDArray[np.int64]) -> None:
        """Add the counts of one tensor, in bins from 0 to `top`."""
        self.counts += counts

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """(BINS + 1,)"""
        return np.linspace(0.0, self.top, BINS + 1)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """(BINS,)"""
        edges = self.edges
        return (edges[1:] + edges[:-1]) / 2


def range_of(histogram: Histogram, method: Method, percentile: float = 99.99) -> float:
    """The largest absolute value that INT8 shall hold; values beyond are clipped to it. 0 where nothing but
    zeros was seen.

    Args:
        method: "max": all that was seen. "percentile": that share, in percent, of all values. "mse": the
            least mean squared error of rounding and clipping. "entropy": the least Kullback-Leibler
            divergence of the rounded distribution from the seen one (Migacz, 8-bit Inference with TensorRT,
            2017).
    """
    if histogram.largest == 0.0:
        return 0.0
    if method == "percentile":
        share = np.cumsum(histogram.counts) / histogram.counts.sum()
        found = float(histogram.edges[1:][np.searchsorted(share, percentile / 100.0)])
    elif method == "mse":
        found = _least(histogram, _squared_error)
    elif method == "entropy":
        found = _least(histogram, _divergence)
    else:
        found = histogram.largest
    return min(found, histogram.largest)


def clipped_share(histogram: Histogram, amax: float) -> float:
    """Share of the values seen that lie beyond a range, to the resolution of the histogram."""
    beyond = histogram.counts[histogram.edges[:-1] >= amax].sum()
    return float(beyond / max(1, histogram.counts.sum()))


def _least(histogram: Histogram, cost: Callable[[Histogram, int], float]) -> float:
    """The upper edge of the bin with the least cost; the larger range of two with the same."""
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    ends = sorted({*range(_FIRST_BIN, last, _STRIDE), max(last, _FIRST_BIN)})
    costs = [cost(histogram, end) for end in ends]
    best = len(costs) - 1 - int(np.argmin(costs[::-1]))
    return float(histogram.edges[ends[best]])


def _squared_error(histogram: Histogram, end: int) -> float:
    """Sum of squared errors of rounding and clipping at the upper edge of bin `end` - 1."""
    scale = histogram.edges[end] / (LEVELS - 1)
    centres = histogram.centres
    rounded = np.minimum(np.rint(centres / scale), LEVELS - 1) * scale
    return float((histogram.counts * (rounded - centres) ** 2).sum())


def _divergence(histogram: Histogram, end: int) -> float:
    """Kullback-Leibler divergence: the first `end` bins, with all that lies beyond in the last of them,
    against their groups.

    The first bin holds the zeros, which any range keeps exactly; it counts as much as its neighbour.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    seen = counts[:end].copy()
    group = np.arange(end) * LEVELS // end
    filled = seen > 0
    members = np.bincount(group, filled, LEVELS)
    rounded = np.where(filled, (np.bincount(group, seen, LEVELS) / np.maximum(members, 1.0))[group], 0.0)
    seen[-1] += counts[end:].sum()
    if seen.sum() == 0.0 or rounded.sum() == 0.0 or (seen[-1] > 0 and rounded[-1] == 0):
        return float("inf")
    seen, rounded = seen / seen.sum(), rounded / rounded.sum()
    return float((seen[filled] * np.log(seen[filled] / rounded[filled])).sum())
