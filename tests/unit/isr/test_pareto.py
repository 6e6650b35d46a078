"""edgeseg.isr.pareto: nothing on the front is dominated, the chosen level keeps the rule, levels spread
evenly.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import GateFailed
from edgeseg.isr.pareto import Candidate, best_step, choose, pareto_front, pick_levels
from edgeseg.recipe.schema import Choose
from edgeseg.specs import IsrPlan


def candidate(number: int, miou: float, ms: float) -> Candidate:
    return Candidate(IsrPlan((number + 1,), ()), "grid", 1000, miou, 1.0, 1.0, 1.0, ms, ms, ms, ms)


def candidates(*points: tuple[float, float]) -> list[Candidate]:
    return [candidate(number, miou, ms) for number, (miou, ms) in enumerate(points)]


def points(found: list[Candidate]) -> list[tuple[float, float]]:
    return [(c.miou, c.ms) for c in found]


point = st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.integers(1, 40).map(float))
measured = st.lists(point, min_size=1, max_size=25).map(lambda drawn: candidates(*drawn))
noises = st.sampled_from([0.0, 0.5, 1.0, 5.0])


@given(measured, noises)
def test_no_dominated_plan_is_on_the_front(found: list[Candidate], noise_ms: float) -> None:
    front = pareto_front(found, noise_ms)
    for kept in front:
        assert not any(
            (c.miou >= kept.miou and c.ms < kept.ms - noise_ms) or (c.miou > kept.miou and c.ms <= kept.ms)
            for c in found
        )


@given(measured, noises)
def test_each_step_along_the_front_is_faster_by_more_than_the_noise(
    found: list[Candidate], noise_ms: float
) -> None:
    front = pareto_front(found, noise_ms)
    assert front[0].miou == max(c.miou for c in found)
    for exact, fast in pairwise(front):
        assert fast.miou < exact.miou and fast.ms < exact.ms - noise_ms


@given(measured, noises)
def test_what_is_left_out_has_an_equal_or_better_plan_on_the_front(
    found: list[Candidate], noise_ms: float
) -> None:
    front = pareto_front(found, noise_ms)
    for c in found:
        assert c in front or any(kept.miou >= c.miou and kept.ms <= c.ms + noise_ms for kept in front)


@given(measured, noises, st.randoms(use_true_random=False))
def test_the_order_of_measuring_does_not_matter(
    found: list[Candidate], noise_ms: float, random: object
) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert pareto_front(shuffled, noise_ms) == pareto_front(found, noise_ms)


@given(measured, noises, st.integers(0, 20).map(lambda n: n / 20))
def test_max_miou_drop_gives_the_fastest_within_it(
    found: list[Candidate], noise_ms: float, drop: float
) -> None:
    front, base = pareto_front(found, noise_ms), found[0]
    chosen = choose(front, base.miou, Choose(max_miou_drop=drop))
    assert base.miou - chosen.miou <= drop
    assert all(c.ms >= chosen.ms for c in front if base.miou - c.miou <= drop)


@given(measured, noises, st.integers(1, 40).map(float))
def test_latency_gives_the_most_exact_within_it_or_says_why_not(
    found: list[Candidate], noise_ms: float, limit_ms: float
) -> None:
    front = pareto_front(found, noise_ms)
    rule = Choose(latency_ms=limit_ms)
    if front[-1].ms > limit_ms:
        with pytest.raises(GateFailed, match=f"the fastest, {front[-1].plan}, takes") as caught:
            choose(front, 0.5, rule)
        assert len(caught.value.report["front"]) == len(front)
        return
    chosen = choose(front, 0.5, rule)
    assert chosen.ms <= limit_ms
    assert all(c.miou <= chosen.miou for c in front if c.ms <= limit_ms)


def test_knee() -> None:
    front = candidates((0.64, 60), (0.638, 50), (0.63, 42), (0.5, 40))
    assert choose(front, 0.64, Choose(knee=True)) is front[2]
    assert choose(front[:2], 0.64, Choose(knee=True)) is front[0]
    assert choose(front[:1], 0.64, Choose(knee=True)) is front[0]
    concave = candidates((0.64, 60), (0.5, 59), (0.48, 40))
    assert choose(concave, 0.64, Choose(knee=True)) is concave[0]


@given(measured, st.integers(1, 8), st.data())
def test_levels_run_from_the_chosen_to_the_fastest(
    found: list[Candidate], count: int, data: st.DataObject
) -> None:
    front = pareto_front(found, 0.0)
    first = data.draw(st.sampled_from(front))
    levels = pick_levels(front, first, count)
    rest = front[front.index(first) :]
    assert len(levels) == min(count, len(rest))
    assert levels[0] is first
    assert count == 1 or levels[-1] is front[-1]
    assert levels == [c for c in front if c in levels]


def test_levels_are_spread_evenly_in_time() -> None:
    front = candidates((0.9, 100), (0.8, 95), (0.7, 90), (0.6, 61), (0.5, 30), (0.4, 20))
    assert points(pick_levels(front, front[0], 3)) == [(0.9, 100), (0.6, 61), (0.4, 20)]
    assert points(pick_levels(front, front[1], 2)) == [(0.8, 95), (0.4, 20)]


def test_the_walk_takes_the_cheapest_step_that_saves_more_than_the_noise() -> None:
    here = candidate(0, 0.60, 50.0)
    cheap, dear, tiny, free = candidates((0.59, 45.0), (0.50, 40.0), (0.599, 49.9), (0.60, 47.0))
    assert best_step(here, [dear, tiny, cheap], 0.5) is cheap
    assert best_step(here, [cheap, free], 0.5) is free
    assert best_step(here, [tiny], 0.5) is None
    assert best_step(here, [], 0.5) is None
