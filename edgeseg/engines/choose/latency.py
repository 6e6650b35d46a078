"""Latency, measured the same way for every runtime: calls in turns, so that whatever else the machine does
hits all of them.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from edgeseg.devices.power import PowerMeter

Name = TypeVar("Name")

_RISE_S = 0.5
"""Readings before this are partly of the time before the first call."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall-clock figures of one call over several rounds.

    Attributes:
        median_ms, p10_ms, p90_ms, p99_ms: quantiles over `runs`; of 30 runs, the last one is all but the
        slowest of them. spread: (p90 - p10) / median; a fraction. Beyond about 0.2 something else was using
        the machine. speedup: the first call's time over this one's, the median over rounds: both times of a
        round were taken close together. runs, warmup: rounds that count, and rounds before them that do not.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    spread: float
    speedup: float
    runs: int
    warmup: int

    def to_json(self) -> dict[str, Any]:
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def measure_together(
    calls: Mapping[Name, Callable[[], object]], runs: int = 30, warmup: int = 5, seed: int = 0
) -> dict[Name, Latency]:
    """Time calls on a monotonic clock: in every round each once, in an order drawn anew.

    Args:
        calls: at least one; speed-ups refer to the first.
        runs: rounds that count, at least 1.
    """
    order, draw = list(calls), random.Random(seed)
    times_ms: dict[Name, list[float]] = {name: [] for name in calls}
    for number in range(-warmup, runs):
        draw.shuffle(order)
        for name in order:
            started = time.perf_counter()
            calls[name]()
            elapsed_ms = 1000 * (time.perf_counter() - started)
            if number >= 0:
                times_ms[name].append(elapsed_ms)
    first = times_ms[next(iter(calls))]
    return {name: _latency(own, first, warmup) for name, own in times_ms.items()}


def measure_latency(call: Callable[[], object], runs: int = 30, warmup: int = 5) -> Latency:
    """Time one call after another. `runs` is at least 1."""
    return measure_together({"it": call}, runs, warmup)["it"]


def measure_power(
    call: Callable[[], object],
    meter: PowerMeter,
    seconds: float = 1.5,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Measure what the machine draws while it calls again and again: {"power_w": mean watts by rail}; {}
    where no meter can be read.

    Args:
        meter: was read a moment ago: some meters tell only what was drawn since.
    """
    if not meter.read():
        return {}
    samples: dict[str, list[float]] = {}
    begun_s, elapsed_s = clock(), 0.0
    while elapsed_s < seconds:
        call()
        drawn, elapsed_s = meter.read(), clock() - begun_s
        for rail, watts in drawn.items() if elapsed_s >= _RISE_S else ():
            samples.setdefault(rail, []).append(watts)
    return {"power_w": {rail: round(statistics.fmean(watts), 2) for rail, watts in samples.items()}}


def _latency(own_ms: list[float], first_ms: list[float], warmup: int) -> Latency:
    p10, median, p90, p99 = (float(q) for q in np.quantile(own_ms, (0.1, 0.5, 0.9, 0.99)))
    speedup = statistics.median(
        first / own if own else 1.0 for first, own in zip(first_ms, own_ms, strict=True)
    )
    return Latency(
        median, p10, p90, p99, (p90 - p10) / median if median else 0.0, speedup, len(own_ms), warmup
    )
