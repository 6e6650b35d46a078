"""Several ways to do one job, timed in turns: a busy moment of the machine hits all of them, so their ratios
can be trusted.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

WARMUP = 5


def interleave(
    calls: Mapping[str, Callable[[], object]], rounds: int, over: Mapping[str, str] | None = None
) -> dict[str, dict[str, float]]:
    """Time each call once a round.

    Args:
        over: name -> the name that its ratios are taken over; default: the first of all.
    Returns:
        For each name, milliseconds: `median_ms`, `q25_ms`, `q75_ms` by the wall clock; `cpu_ms`, the median
        of processor time over all threads, which other programs disturb less; `ratio` and `cpu_ratio`, the
        medians over rounds of this call's time over that of the call named by `over` in the same round.
    """
    wall_ms: dict[str, list[float]] = {name: [] for name in calls}
    cpu_ms: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(-WARMUP, rounds):
        for name, call in calls.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            call()
            if round_number >= 0:
                wall_ms[name].append(1000 * (time.perf_counter() - wall_s))
                cpu_ms[name].append(1000 * (time.process_time() - cpu_s))
    first = next(iter(calls))
    result = {}
    for name in calls:
        beside = over[name] if over else first
        q25, median, q75 = statistics.quantiles(wall_ms[name], n=4)
        figures = {
            "median_ms": median,
            "q25_ms": q25,
            "q75_ms": q75,
            "cpu_ms": statistics.median(cpu_ms[name]),
            "ratio": statistics.median(a / b for a, b in zip(wall_ms[name], wall_ms[beside], strict=True)),
            "cpu_ratio": statistics.median(a / b for a, b in zip(cpu_ms[name], cpu_ms[beside], strict=True)),
        }
        result[name] = {key: round(value, 3) for key, value in figures.items()}
    return result


def table(title: str, result: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as text, one row a name."""
    columns = list(next(iter(result.values())))
    width = max(len(title), *map(len, result))
    head = f"{title:<{width}}" + "".join(f"{column:>11}" for column in columns)
    return "\n".join(
        [
            head,
            *(
                f"{name:<{width}}" + "".join(f"{row[c]:>11.2f}" for c in columns)
                for name, row in result.items()
            ),
        ]
    )


def openvino_hints() -> list[str]:
    """Of float32 and bfloat16, what OpenVINO computes in here: for what is not there it takes float32 and
    says nothing.
    """
    if not importlib.util.find_spec("openvino"):
        return []
    from edgeseg.engines.openvino import OpenVino

    here = [variant["precision_hint"] for variant in OpenVino().variants()]
    return [hint for hint in ("f32", "bf16") if hint in here]
