"""Percentiles of a run of any length are right within one percent, in memory that does not grow."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.watch.stats import Timings


def filled(durations_ms: list[float]) -> Timings:
    timings = Timings()
    for duration_ms in durations_ms:
        timings.add(duration_ms)
    return timings


@given(
    st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0])
)
def test_percentiles_are_those_of_the_sorted_list(durations_ms: list[float], share: float) -> None:
    exact = sorted(durations_ms)[max(1, int(np.ceil(share * len(durations_ms)))) - 1]
    assert filled(durations_ms).percentile_ms(share) == pytest.approx(exact, rel=0.01)


def test_mean_extremes_and_count_are_exact() -> None:
    figures = filled([1.0, 2.0, 6.0]).to_json()
    assert figures["count"] == 3
    assert figures["mean_ms"] == 3.0
    assert figures["max_ms"] == 6.0
    assert figures["p50_ms"] == pytest.approx(2.0, rel=0.01)


def test_durations_beyond_the_scale_count_at_its_ends() -> None:
    timings = filled([0.0, 1e9])
    assert timings.percentile_ms(0.5) <= 0.0011
    assert timings.percentile_ms(1.0) > 1e6
    assert timings.max_ms == 1e9


def test_nothing_counted_gives_null() -> None:
    timings = Timings()
    assert np.isnan(timings.percentile_ms(0.5))
    assert timings.to_json() == {
        "count": 0,
        "mean_ms": None,
        "p50_ms": None,
        "p90_ms": None,
        "p99_ms": None,
        "max_ms": None,
    }


def test_measure_counts_a_block_and_not_one_that_fails() -> None:
    timings = Timings()
    with timings.measure():
        time.sleep(0.02)
    with pytest.raises(ValueError, match="broken"), timings.measure():
        raise ValueError("broken")
    assert timings.count == 1
    assert 15 < timings.total_ms < 2000
