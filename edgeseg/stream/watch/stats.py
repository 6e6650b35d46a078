"""How long each stage took, over any number of frames, in memory that does not grow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

_FLOOR_MS = 1e-3
_RATIO = 1.01
_BINS = 2_100  # from 1 us up to 1.2e6 ms (20 minutes)


class Timings:
    """Durations of one stage. Mean, least, greatest and total are exact; percentiles are within 1 % of a
    measured value.

    A histogram with logarithmic bins, so the tail of frame one million is as well known as that of frame one
    hundred. One thread adds; others may read meanwhile.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.min_ms = float("inf")
        self.max_ms = 0.0
        self._bins: npt.NDArray[np.int64] = np.zeros(_BINS, np.int64)

    def add(self, duration_ms: float) -> None:
        """Count one duration, from 0 up."""
        position = np.log(max(duration_ms, _FLOOR_MS) / _FLOOR_MS) / np.log(_RATIO)
        self._bins[min(int(position), _BINS - 1)] += 1
        self.count += 1
        self.total_ms += duration_ms
        self.min_ms = min(self.min_ms, duration_ms)
        self.max_ms = max(self.max_ms, duration_ms)

    def add_since(self, start_s: float) -> float:
        """Count and return the ms since `start_s`, a reading of `time.perf_counter()`."""
        duration_ms = 1e3 * (time.perf_counter() - start_s)
        self.add(duration_ms)
        return duration_ms

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count the time spent inside the `with` block; a block left by an exception is not counted."""
        start_s = time.perf_counter()
        yield
        self.add_since(start_s)

    def percentile_ms(self, share: float) -> float:
        """The duration that `share` (0..1) of the frames did not exceed (nearest rank); NaN where nothing was
        counted.
        """
        if not self.count:
            return float("nan")
        rank = max(1, int(np.ceil(share * self.count)))
        bin_index = int(np.searchsorted(np.cumsum(self._bins), rank))
        middle_ms = _FLOOR_MS * _RATIO ** (bin_index + 0.5)
        return float(min(max(middle_ms, self.min_ms), self.max_ms))

    def to_json(self) -> dict[str, Any]:
        """Count, mean, p50, p90, p99 and max in ms; null where nothing was counted."""
        if not self.count:
            return {
                "count": 0,
                "mean_ms": None,
                "p50_ms": None,
                "p90_ms": None,
                "p99_ms": None,
                "max_ms": None,
            }
        return {
            "count": self.count,
            "mean_ms": self.total_ms / self.count,
            "p50_ms": self.percentile_ms(0.50),
            "p90_ms": self.percentile_ms(0.90),
            "p99_ms": self.percentile_ms(0.99),
            "max_ms": self.max_ms,
        }


def merged(parts: Iterable[Timings]) -> Timings:
    """The durations of several as if one had counted them all. From any thread."""
    total = Timings()
    for part in parts:
        total.count += part.count
        total.total_ms += part.total_ms
        total.min_ms = min(total.min_ms, part.min_ms)
        total.max_ms = max(total.max_ms, part.max_ms)
        total._bins += part._bins
    return total
