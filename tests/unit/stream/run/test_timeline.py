"""Frames lie on one line of time whatever their stamps say, and what was held up on the way is as old as it
is.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.run.timeline import LONGEST_STILL_S, MOST_LATE_S, TOLD_S, RecordedTimeline, Timeline
from edgeseg.stream.sinks.muxer import VideoClock, exact_rate
from edgeseg.stream.watch.alarms import Alarm
from edgeseg.stream.watch.regions import parse_threshold

FPS = 25
WRAP_S = 2**33 / 90_000


def test_a_steady_source_is_on_time() -> None:
    line = Timeline()
    for index in range(100):
        assert line.stamp(7.0 + index / 25, 1000.0 + index / 25) == pytest.approx(
            (index / 25, 1000.0 + index / 25, 0)
        )


def test_a_burst_after_a_freeze_is_as_old_as_it_is() -> None:
    line = Timeline()
    for index in range(50):
        line.stamp(index / 25, 100.0 + index / 25)
    # Frames 50 to 99 were made on time, and all came at once two seconds late.
    for index in range(50, 100):
        assert line.stamp(index / 25, 104.0) == pytest.approx((index / 25, 100.0 + index / 25, 0))


def test_a_connection_goes_on_where_the_clock_is() -> None:
    line = Timeline()
    line.stamp(0.0, 50.0)
    line.stamp(1.0, 51.0)
    line.connected()
    assert line.stamp(900.0, 60.0) == pytest.approx((10.0, 60.0, 0))
    assert line.stamp(900.5, 60.5) == pytest.approx((10.5, 60.5, 0))


def test_a_clock_that_was_set_back_starts_anew() -> None:
    line = Timeline()
    line.stamp(100.0, 0.0)
    line.stamp(101.0, 1.0)
    assert line.stamp(3.0, 2.0) == pytest.approx((2.0, 2.0, -99.0))


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
    assert 5 < lag_s[-1] <= MOST_LATE_S + 1e-6


def presented(frames: list[tuple[float | None, float]]) -> tuple[list[float], list[float]]:
    """Presentation times of (stamp, arrival) pairs, and the jumps that are told."""
    line = Timeline()
    placed = [line.stamp(pts_s, 1000.0 + arrival_s) for pts_s, arrival_s in frames]
    return [one.time_s for one in placed], [one.jump_s for one in placed if one.jump_s]


def camera(change: object, count: int = 1000, jitter_s: float = 0.0) -> list[tuple[float, float]]:
    """A steady camera whose stamps are changed: a function of the frame's number and time."""
    dice = random.Random(0)
    return [(change(index, index / FPS), index / FPS + dice.random() * jitter_s) for index in range(count)]  # type: ignore[operator]


@pytest.mark.parametrize("jitter_s", [0.0, 0.03])
@pytest.mark.parametrize(
    ("change", "jumps_s"),
    [
        pytest.param(lambda index, at_s: at_s + 37_600 * (index == 20), [37_600], id="a frame hours ahead"),
        pytest.param(lambda index, at_s: at_s - 37_600 * (index == 20), [-37_600], id="a frame hours back"),
        pytest.param(lambda index, at_s: at_s + 0.9 * (index == 20), [], id="a frame a little ahead"),
        pytest.param(
            lambda index, at_s: at_s + 30_000 * (75 <= index < 100), [30_000], id="a second hours ahead"
        ),
        pytest.param(lambda index, at_s: at_s + 1_800 * (index >= 20), [1_800], id="a clock set ahead"),
        pytest.param(lambda index, at_s: at_s - 1_800 * (index >= 20), [-1_800], id="a clock set back"),
        pytest.param(lambda index, at_s: (at_s + WRAP_S - 10) % WRAP_S, [-WRAP_S], id="a counter that wraps"),
        pytest.param(
            lambda index, at_s: at_s + WRAP_S * (index >= 20), [WRAP_S], id="a counter that is unwrapped"
        ),
        pytest.param(lambda index, at_s: at_s + 500 * (index % 2), [500], id="two clocks in turn"),
        pytest.param(lambda index, at_s: at_s * 1000, [40 * 0.999] * 999, id="milliseconds for seconds"),
        pytest.param(lambda index, at_s: at_s / 1000, [], id="seconds for milliseconds"),
        pytest.param(lambda index, at_s: at_s * 2, [], id="twice as fast"),
        pytest.param(lambda index, at_s: 7.0, [], id="stamps that stand"),
        pytest.param(
            lambda index, at_s: at_s if index < 300 else max(12.0, at_s - 2),
            [],
            id="stamps that stand for a while",
        ),
        pytest.param(lambda index, at_s: math.nan, [], id="no stamps"),
        pytest.param(lambda index, at_s: at_s if index % 3 else None, [], id="some without a stamp"),
        pytest.param(lambda index, at_s: at_s * 1.01, [], id="a fast clock"),
        pytest.param(lambda index, at_s: at_s * 0.99, [], id="a slow clock"),
        pytest.param(
            lambda index, at_s: at_s + [0.0, 0.08, -0.04, -0.04][index % 4], [], id="in the order of decoding"
        ),
    ],
)
def test_time_goes_on_at_the_rate_of_arrival(change: object, jumps_s: list[float], jitter_s: float) -> None:
    frames = camera(change, jitter_s=jitter_s)
    times_s, told_s = presented(frames)
    gaps_s = [after - before for before, after in pairwise(times_s)]
    assert min(gaps_s) >= 1e-3 and max(gaps_s) < 1 / FPS + 2 * jitter_s + 0.005
    assert times_s[-1] - times_s[0] == pytest.approx(frames[-1][1] - frames[0][1], abs=0.12 + 2 * jitter_s)
    assert told_s == pytest.approx(jumps_s, abs=0.05)


steps_s = st.floats(1e-3, 12)
stamps_s = st.none() | st.floats() | st.floats(-5, 60)


@given(st.lists(st.tuples(stamps_s, steps_s, st.booleans()), max_size=80))
def test_whatever_is_stamped_time_goes_on_and_stays_near_arrival(
    frames: list[tuple[float | None, float, bool]],
) -> None:
    line, now_s, last_s = Timeline(), 0.0, -1.0
    for number, (pts_s, step_s, connected) in enumerate(frames):
        now_s += step_s if number else 0.0
        if connected:
            line.connected()
        time_s, due_s, _ = line.stamp(pts_s, 50.0 + now_s)
        assert time_s > last_s
        assert now_s - MOST_LATE_S - 1e-6 <= time_s <= now_s + 1e-6
        assert due_s == pytest.approx(50.0 + time_s) and due_s <= 50.0 + now_s
        last_s = time_s


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1)), min_size=1, max_size=300))
def test_frames_that_come_at_once_keep_their_order(frames: list[tuple[float, float]]) -> None:
    line = Timeline()
    times_s = [line.stamp(pts_s, 50.0 + (step_s > 0.9) * step_s)[0] for pts_s, step_s in frames]
    assert all(after - before >= 1e-4 - 1e-9 for before, after in pairwise(times_s))


jumps = st.dictionaries(st.integers(1, 499), st.floats(-1e6, 1e6), max_size=8)


@given(jumps, st.integers(0, 2**32), st.sampled_from([0.0, 0.03]), st.floats(0.99, 1.01))
def test_random_jumps_make_no_holes_and_lose_no_time(
    jumps: dict[int, float], seed: int, jitter_s: float, rate: float
) -> None:
    dice, offset_s, frames = random.Random(seed), 0.0, []
    for index in range(500):
        offset_s += jumps.get(index, 0.0)
        frames.append((offset_s + rate * index / FPS, index / FPS + dice.random() * jitter_s))
    times_s, told_s = presented(frames)  # type: ignore[arg-type]
    gaps_s = [after - before for before, after in pairwise(times_s)]
    # What is not believed costs the jitter of a frame at most.
    assert max(gaps_s) < 1 / FPS + 2 * jitter_s + 0.3
    assert all(
        arrival_s - 0.15 - 0.3 <= time_s + frames[0][1] <= arrival_s + 1e-6
        for time_s, (_, arrival_s) in zip(times_s, frames, strict=True)
    )
    assert len(told_s) <= len(jumps)


@given(jumps, st.sampled_from([1.0, 2.0, 5.0]))
def test_an_alarm_takes_its_seconds_and_a_recording_lasts_as_long_as_it_took(
    jumps: dict[int, float], for_s: float
) -> None:
    offset_s, line, clock, ticks = 0.0, Timeline(), VideoClock(exact_rate(FPS)), [0]
    alarm, raised_at_s = Alarm(parse_threshold(f"blocked=lane:road>50%@{for_s}s")), None
    for index in range(500):
        offset_s += jumps.get(index, 0.0)
        time_s = line.stamp(offset_s + index / FPS, index / FPS)[0]
        ticks.append(clock.ticks(time_s))
        if alarm.update(0.9 if index >= 250 else 0.1, time_s):
            raised_at_s = index / FPS
    assert raised_at_s == pytest.approx(10 + for_s, abs=0.3)
    assert float(ticks[-1] * clock.time_base) == pytest.approx(499 / FPS, abs=0.3)


def test_a_burst_that_begins_with_a_jump_is_as_old_as_it_is() -> None:
    """The server was restarted while it was frozen: its clock counts anew, and what it held comes all at
    once.
    """
    line = Timeline()
    for index in range(50):
        line.stamp(index / FPS, index / FPS)
    for index in range(50, 75):
        line.stamp(index / FPS, 4.0)
    for index in range(75, 100):
        due_s = line.stamp(9_000 + index / FPS, 4.0)[1]
        assert due_s == pytest.approx(index / FPS, abs=1 / FPS + 1e-6)
    assert line.stamp(9_000 + 4.0, 4.04)[1] == pytest.approx(4.0, abs=1 / FPS + 1e-6)


def test_a_server_that_stood_still_with_its_clock_is_caught_up_without_a_hole() -> None:
    frames = [(index / FPS, index / FPS + 3 * (index > 250)) for index in range(2000)]
    times_s, told_s = presented(frames)  # type: ignore[arg-type]
    assert max(after - before for before, after in pairwise(times_s)) < 0.05
    assert times_s[-1] == pytest.approx(frames[-1][1], abs=0.01)
    assert told_s == []


@pytest.mark.parametrize("read_s", [0.002, 1e-5])
def test_segments_that_come_in_bursts_keep_their_spacing(read_s: float) -> None:
    """HLS: three segments at once, then one every six seconds."""
    frames = [
        (index / FPS, max(0, index // 150 - 2) * 6 + 0.3 * min(index // 150, 2) + index % 150 * read_s)
        for index in range(1500)
    ]
    times_s, told_s = presented(frames)  # type: ignore[arg-type]
    assert told_s == []
    assert all(after - before == pytest.approx(1 / FPS) for before, after in pairwise(times_s[600:]))
    assert times_s[-1] == pytest.approx(frames[-1][1], abs=0.01)


def test_what_is_told_is_what_is_beyond_the_bound() -> None:
    for jump_s in (TOLD_S - 0.1, TOLD_S + 0.1):
        for sign in (1, -1):
            _, told_s = presented(
                [(index / FPS + sign * jump_s * (index >= 20), index / FPS) for index in range(50)]
            )
            assert told_s == ([pytest.approx(sign * jump_s)] if jump_s > TOLD_S else [])


def recorded(stamps_s: list[float | None], may_jump: bool) -> tuple[list[float], list[float]]:
    line = RecordedTimeline(1 / FPS, may_jump)
    placed = [line.stamp(pts_s) for pts_s in stamps_s]
    return [time_s for time_s, _ in placed], [jump_s for _, jump_s in placed if jump_s]


def test_a_still_of_twenty_minutes_is_meant_where_stamps_do_not_jump() -> None:
    stamps_s: list[float | None] = [0.0, 0.04, 1_200.0, 1_200.04]
    assert recorded(stamps_s, may_jump=False) == (stamps_s, [])
    times_s, jumps_s = recorded(stamps_s, may_jump=True)
    assert times_s == pytest.approx([0.0, 0.04, 0.08, 0.12]) and jumps_s == pytest.approx([1_199.92])


@pytest.mark.parametrize("may_jump", [False, True])
def test_joined_files_are_joined_on(may_jump: bool) -> None:
    times_s, jumps_s = recorded(
        [*(index / FPS for index in range(50)), *(index / FPS for index in range(50))], may_jump
    )
    assert times_s == pytest.approx([index / FPS for index in range(100)])
    assert jumps_s == pytest.approx([-2.0])


def test_missing_and_repeated_stamps_are_a_step_on() -> None:
    assert recorded([None] * 4, False)[0] == pytest.approx([0.0, 0.04, 0.08, 0.12])
    assert recorded([3.0] * 4, False) == (pytest.approx([3.0, 3.04, 3.08, 3.12]), [])
    assert recorded([0.0, math.nan, 0.08, 0.08, 0.16], False)[0] == pytest.approx(
        [0.0, 0.04, 0.08, 0.12, 0.16]
    )


@given(st.lists(st.none() | st.floats() | st.floats(-5, 60), max_size=60), st.booleans())
def test_recorded_time_goes_on_whatever_is_stamped(stamps_s: list[float | None], may_jump: bool) -> None:
    times_s, _ = recorded(stamps_s, may_jump)
    assert all(after > before for before, after in pairwise(times_s))
    if may_jump:
        assert all(after - before <= LONGEST_STILL_S + 1e-6 for before, after in pairwise(times_s))
