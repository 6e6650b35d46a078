"""Latency of one call, measured the same way for every runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall-clock figures of one call after another, nothing in between.

    Attributes:
        median_ms, p10_ms, p90_ms: quantiles over `runs`.
        spread: (p90 - p10) / median; a fraction. Beyond about 0.2 something else was using the machine.
        runs, warmup: calls that count, and calls before them that do not.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    spread: float
    runs: int
    warmup: int

    def to_json(self) -> dict[str, Any]:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def measure_latency(call: Callable[[], object], runs: int = 30, warmup: int = 5) -> Latency:
    """Time `call` on a monotonic clock. `runs` is at least 1."""
    for _ in range(warmup):
        call()
    times_ms = np.empty(runs)
    for index in range(runs):
        started = time.perf_counter()
        call()
        times_ms[index] = 1000 * (time.perf_counter() - started)
    p10, median, p90 = (float(q) for q in np.quantile(times_ms, (0.1, 0.5, 0.9)))
    return Latency(median, p10, p90, (p90 - p10) / median if median else 0.0, runs, warmup)
