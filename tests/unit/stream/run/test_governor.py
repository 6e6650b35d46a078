"""The governor on a scripted clock: what it does in a given case, and what it never does whatever happens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.run.governor import Decision, Governor, Target

MEASURED_MS = (30.0, 20.0, 15.0)
LIMIT_MS = 40.0
FRAME_S = 0.04

Load = Callable[[float], float]


def governor(measured_ms: Sequence[float] = MEASURED_MS, **options: object) -> Governor:
    return Governor(measured_ms, Target("deadline", LIMIT_MS), **options)  # type: ignore[arg-type]


def play(
    subject: Governor,
    load: Load,
    seconds: float,
    *,
    true_ms: Sequence[float] = MEASURED_MS,
    other_ms: float = 0.0,
    start_s: float = 0.0,
) -> list[Decision]:
    """Frames at 25 per s, or as fast as they go; `load(t)` multiplies the inference's true time."""
    now_s, decisions = start_s, []
    while now_s < start_s + seconds:
        infer_ms = true_ms[subject.level] * load(now_s - start_s)
        now_s += max(FRAME_S, (infer_ms + other_ms) / 1e3)
        decision = subject.observe(subject.level, infer_ms, other_ms, now_s)
        if decision:
            decisions.append(decision)
    return decisions


def constant(load: float) -> Load:
    return lambda now_s: load


# given cases


def test_no_load_no_switch() -> None:
    subject = governor()
    assert play(subject, constant(1.0), 60) == []
    assert subject.level == 0


def test_a_phase_of_load_is_followed_down_and_back() -> None:
    subject = governor()
    decisions = play(subject, lambda now_s: 1.8 if 10 <= now_s < 20 else 1.0, 40)
    assert [(d.from_level, d.to_level, d.reason) for d in decisions] == [(0, 1, "late"), (1, 0, "headroom")]
    down, up = decisions
    assert 10 < down.at_s < 10.5
    assert (down.p90_ms, down.expected_ms) == (pytest.approx(54), pytest.approx(36))
    assert 20 < up.at_s < 21.5
    assert (up.p90_ms, up.expected_ms) == (pytest.approx(20), pytest.approx(30))


def test_a_heavy_load_jumps_levels_and_so_does_the_way_back() -> None:
    subject = governor()
    decisions = play(subject, lambda now_s: 2.5 if 10 <= now_s < 20 else 1.0, 40)
    assert [(d.from_level, d.to_level) for d in decisions] == [(0, 2), (2, 0)]


def test_a_fit_without_headroom_is_not_enough_to_return() -> None:
    subject = governor()
    play(subject, constant(1.8), 5)
    assert play(subject, constant(1.2), 60, start_s=5) == []
    assert [d.expected_ms for d in play(subject, constant(1.1), 5, start_s=65)] == [pytest.approx(33)]


def test_a_level_measured_slower_than_a_more_exact_one_counts_as_equally_fast() -> None:
    subject = governor(measured_ms=(30.0, 35.0, 15.0), first=1)
    down, up = play(subject, lambda now_s: 2.0 if now_s < 2 else 1.0, 10, true_ms=(30.0, 30.0, 15.0))
    assert (down.to_level, up.to_level, up.expected_ms) == (2, 1, pytest.approx(30))


def test_single_late_frames_are_forgiven() -> None:
    hiccups = itertools.cycle([5.0] + [1.0] * 14)
    assert play(governor(), lambda now_s: next(hiccups), 60) == []


def test_what_no_level_changes_counts_for_a_deadline_and_is_not_scaled() -> None:
    subject = governor()
    (down,) = play(subject, constant(1.0), 10, other_ms=15.0)
    assert (down.to_level, down.p90_ms, down.expected_ms) == (1, pytest.approx(45), pytest.approx(35))


def test_only_the_inference_counts_for_a_rate() -> None:
    subject = Governor(MEASURED_MS, Target.fps(25))
    assert subject.target.limit_ms == 40
    assert play(subject, constant(1.0), 10, other_ms=500.0) == []
    assert play(subject, constant(1.5), 10, start_s=1000)[0].p90_ms == pytest.approx(45)


def test_frames_under_way_at_a_switch_are_left_out() -> None:
    subject = governor()
    play(subject, constant(1.8), 1)
    assert subject.level == 1
    for step in range(100):
        assert subject.observe(0, 500.0, 0.0, 2 + FRAME_S * step) is None


def test_below_the_first_level_allowed_there_is_nothing() -> None:
    subject = governor(first=1)
    assert subject.level == 1
    assert [d.to_level for d in play(subject, constant(2.5), 10)] == [2]
    assert [d.to_level for d in play(subject, constant(0.1), 10, start_s=10)] == [1]


def test_failed_returns_are_tried_ever_more_rarely() -> None:
    """The engines were measured to be closer than they are under this load: every return fails."""
    subject = governor(measured_ms=(20.0, 19.0))
    decisions = play(subject, constant(1.0), 300, true_ms=(50.0, 30.0))
    returns = [d.at_s for d in decisions if d.reason == "headroom"]
    waits = [b - a for a, b in itertools.pairwise(returns)]
    assert 5 <= len(returns) <= 8
    assert all(later > 1.6 * earlier for earlier, later in itertools.pairwise(waits))


def test_after_failed_returns_an_eased_load_is_followed_at_once() -> None:
    subject = governor(measured_ms=(20.0, 19.0))
    play(subject, constant(1.0), 120, true_ms=(50.0, 30.0))
    if subject.level == 0:
        play(subject, constant(1.0), 2, true_ms=(50.0, 30.0), start_s=120)
    (up,) = play(subject, constant(0.6), 5, true_ms=(50.0, 30.0), start_s=122)
    assert (up.to_level, up.reason) == (0, "headroom")


def test_a_return_that_held_wipes_the_failures_out() -> None:
    subject = governor()
    first = play(subject, lambda t: 2.0 if t < 1 or 4 < t < 4.4 else 1.0, 60)
    waits_s = [up.at_s - down.at_s for down, up in zip(first[::2], first[1::2], strict=True)]
    assert waits_s == [pytest.approx(2, abs=0.1), pytest.approx(4, abs=0.1)]
    down, up = play(subject, lambda t: 2.0 if 10 < t < 10.4 else 1.0, 30, start_s=60)
    assert up.at_s - down.at_s == pytest.approx(2, abs=0.1)


def test_returns_that_hold_correct_what_a_level_is_expected_to_take() -> None:
    """Measured 2 : 1, in truth 1.4 : 1. The load that level 0 is expected to fit in is met sooner the second
    time.
    """
    subject = governor(measured_ms=(40.0, 20.0))
    first = play(subject, lambda t: 2.0 if t < 5 else 0.8, 20, true_ms=(28.0, 20.0))
    second = play(subject, lambda t: 2.0 if t < 5 else 0.8, 20, true_ms=(28.0, 20.0), start_s=20)
    assert first[-1].expected_ms == pytest.approx(32.0)
    assert second[-1].expected_ms == pytest.approx(16 * 1.7)


def test_a_load_that_comes_with_a_return_does_not_make_it_shy() -> None:
    """Level 0 takes 39 ms after the return, and still fits: twice what level 1 took before, where 1.5 times
    was measured.
    """
    subject, now_s = governor(measured_ms=(30.0, 20.0)), 0.0
    play(subject, constant(2.0), 1, true_ms=(30.0, 20.0))
    while subject.level == 1:
        now_s += 1
        play(subject, lambda t: 1.0 if subject.level else 1.3, 1, true_ms=(30.0, 20.0), start_s=now_s)
    phases = play(
        subject,
        lambda t: 2.0 if 20 < t < 21 else 1.3 if t < 20 else 1.0,
        40,
        true_ms=(30.0, 20.0),
        start_s=now_s + 1,
    )
    assert [(d.to_level, d.expected_ms) for d in phases] == [(1, pytest.approx(40)), (0, pytest.approx(30))]


# whatever happens

levels_ms = st.lists(st.floats(1, 200), min_size=2, max_size=6).map(lambda times: sorted(times, reverse=True))
frames = st.tuples(st.floats(0.01, 500), st.floats(0, 50), st.floats(0, 0.3))


@given(levels_ms, st.lists(st.lists(frames, min_size=1, max_size=8), max_size=12), st.integers(1, 60))
def test_any_times_keep_to_the_levels_and_to_the_stays(
    measured_ms: list[float], phases: list[list[tuple[float, float, float]]], repeat: int
) -> None:
    subject, now_s, since_s = governor(measured_ms), 0.0, None
    for infer_ms, other_ms, step_s in (frame for phase in phases for frame in phase * repeat):
        now_s += step_s
        since_s = now_s if since_s is None else since_s
        before = subject.level
        decision = subject.observe(before, infer_ms, other_ms, now_s)
        assert subject.level in subject.levels
        if decision is None:
            assert subject.level == before
            continue
        assert (decision.from_level, decision.to_level, decision.at_s) == (before, subject.level, now_s)
        assert now_s - since_s >= 0.5
        if decision.reason == "late":
            assert decision.to_level > before
            assert decision.p90_ms > LIMIT_MS
        else:
            assert decision.to_level < before
            assert now_s - since_s >= 2.0
            assert decision.p90_ms <= decision.expected_ms <= 0.85 * LIMIT_MS
        since_s = now_s


@given(levels_ms, st.floats(0.05, 20), st.floats(0, 20))
def test_a_constant_load_ends_at_the_most_exact_level_that_fits(
    measured_ms: list[float], load: float, other_ms: float
) -> None:
    subject = governor(measured_ms)
    decisions = play(subject, constant(load), 40, true_ms=measured_ms, other_ms=other_ms)
    times_ms = [ms * load + other_ms for ms in measured_ms]
    fitting = [level for level, ms in enumerate(times_ms) if ms <= LIMIT_MS * (1 - 1e-9)]
    assert len(decisions) <= 1
    if fitting:
        assert subject.level == fitting[0] or times_ms[subject.level] == pytest.approx(LIMIT_MS)
    else:
        assert subject.level == len(measured_ms) - 1 or times_ms[subject.level] == pytest.approx(LIMIT_MS)


@given(levels_ms, st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.2, 8)), max_size=6))
def test_whatever_was_before_a_light_load_ends_at_level_0(
    measured_ms: list[float], past: list[tuple[float, float]]
) -> None:
    subject, now_s = governor(measured_ms), 0.0
    for load, seconds in past:
        play(subject, constant(load), seconds, true_ms=measured_ms, start_s=now_s)
        now_s += seconds + 1
    light = 0.84 * LIMIT_MS / measured_ms[0]
    play(subject, constant(light), 60, true_ms=measured_ms, start_s=now_s)
    assert subject.level == 0


@given(levels_ms, levels_ms, st.floats(0.2, 5))
def test_a_constant_load_switches_a_bounded_number_of_times(
    measured_ms: list[float], true_ms: list[float], load: float
) -> None:
    """However wrong the engines' measured times are."""
    count = min(len(measured_ms), len(true_ms))
    subject = governor(measured_ms[:count])
    seconds = 60.0
    decisions = play(subject, constant(load), seconds, true_ms=true_ms[:count])
    per_level = math.log2(seconds / 2) + 2
    assert len(decisions) <= 2 * per_level * (count - 1)


@given(st.floats(1, 60), st.floats(1, 60), st.integers(0, 1))
def test_slower_frames_never_lead_to_a_more_exact_level(one_ms: float, other_ms: float, first: int) -> None:
    reached = []
    for infer_ms in sorted((one_ms, other_ms)):
        subject = governor(first=first)
        for step in range(30):
            if subject.level != first:
                break
            subject.observe(subject.level, infer_ms, 0.0, step * FRAME_S)
        reached.append(subject.level)
    assert reached == sorted(reached)


@given(levels_ms, st.floats(0.1, 10), st.floats(1, 2), st.floats(0, 1))
def test_noise_on_a_constant_load_does_not_make_it_flap(
    measured_ms: list[float], load: float, noise: float, at: float
) -> None:
    period = itertools.cycle([1 + (noise - 1) * ((number * 0.618 + at) % 1) ** 3 for number in range(97)])
    decisions = play(governor(measured_ms), lambda now_s: load * next(period), 60, true_ms=measured_ms)
    assert len(decisions) <= len(measured_ms) + 2


# arguments


@pytest.mark.parametrize("limit_ms", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_is_a_positive_number(limit_ms: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Target("deadline", limit_ms)


@pytest.mark.parametrize("rate", [0.0, -5.0, math.nan])
def test_a_rate_is_a_positive_number(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Target.fps(rate)


@pytest.mark.parametrize(
    ("measured_ms", "options", "said"),
    [
        ((30.0,), {}, "no faster one"),
        ((30.0, 20.0), {"first": 1}, "no faster one"),
        ((30.0, 20.0), {"first": -1}, "no faster one"),
        ((30.0, 0.0), {}, "positive"),
        ((30.0, math.nan), {}, "positive"),
        ((30.0, 20.0), {"window_frames": 9}, "at least 10"),
        ((30.0, 20.0), {"headroom": 1.0}, "headroom"),
        ((30.0, 20.0), {"min_stay_s": 3.0}, "min_stay_s"),
    ],
)
def test_arguments_out_of_range(
    measured_ms: tuple[float, ...], options: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        governor(measured_ms, **options)
