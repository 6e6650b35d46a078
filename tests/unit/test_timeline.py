"""Frames of several connections lie on one line of time, and what was held up on the way is as old as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.timeline import Timeline


def test_a_steady_source_is_on_time() -> None:
    line = Timeline()
    for index in range(100):
        assert line.stamp(7.0 + index / 25, 1000.0 + index / 25) == pytest.approx((index / 25, 1000.0 + index / 25))


def test_a_burst_after_a_freeze_is_as_old_as_it_is() -> None:
    line = Timeline()
    for index in range(50):
        line.stamp(index / 25, 100.0 + index / 25)
    # Frames 50 to 99 were made on time, and all came at once two seconds late.
    for index in range(50, 100):
        pts_s, due_s = line.stamp(index / 25, 104.0)
        assert (pts_s, due_s) == pytest.approx((index / 25, 100.0 + index / 25))


def test_a_connection_goes_on_where_the_clock_is() -> None:
    line = Timeline()
    line.stamp(0.0, 50.0)
    line.stamp(1.0, 51.0)
    line.connected()
    assert line.stamp(900.0, 60.0) == pytest.approx((10.0, 60.0))
    assert line.stamp(900.5, 60.5) == pytest.approx((10.5, 60.5))


def test_a_clock_that_was_set_back_starts_anew() -> None:
    line = Timeline()
    line.stamp(100.0, 0.0)
    line.stamp(101.0, 1.0)
    assert line.stamp(3.0, 2.0) == pytest.approx((2.0, 2.0))


def test_a_clock_that_runs_slow_is_not_a_source_that_falls_behind() -> None:
    """A camera's quartz, 100 ppm slow, for ten hours: a lag of 3.6 s if it were taken for one."""
    line = Timeline()
    lag_s = [at_s - line.stamp(at_s * (1 - 1e-4), float(at_s))[1] for at_s in range(36_000)]
    assert max(lag_s) < 0.01


def test_latency_that_grows_is_seen() -> None:
    """A second a second, as users tell of players that queue."""
    line = Timeline()
    lag_s = [at_s / 10 - line.stamp(at_s / 20, at_s / 10)[1] for at_s in range(400)]
    assert lag_s[50] == pytest.approx(5 / 2)
    assert 4 < lag_s[-1] < 6  # half of what came in the ten seconds that are looked back on


@given(st.lists(st.tuples(st.floats(-5, 1e4), st.floats(0, 10), st.booleans()), max_size=50))
def test_time_goes_on_and_nothing_comes_from_the_future(frames: list[tuple[float, float, bool]]) -> None:
    line, now_s, last_s = Timeline(), 0.0, -1.0
    for pts_s, step_s, connected in frames:
        now_s += step_s
        if connected:
            line.connected()
        time_s, due_s = line.stamp(pts_s, now_s)
        assert time_s > last_s
        assert due_s <= now_s + 1e-6
        last_s = time_s
