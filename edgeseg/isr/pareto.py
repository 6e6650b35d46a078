"""From measured candidates to deployed levels: the front, the recipe's rule, a spread of levels. Pure
functions.

A search's `noise_ms` is the difference of time that its measurement cannot tell from none (see
measure.PlanMeter). Times closer than that count as equal, and of plans that are equally fast only the most
exact is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeseg.errors import GateFailed
from edgeseg.isr.plans import Level
from edgeseg.recipe.schema import Choose
from edgeseg.specs import IsrPlan, Precision


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan with what was measured of it.

    Attributes:
        origin: what proposed it: base, recipe, given, preset, walk, refine or grid.
        macs: multiply-adds.
        miou: through the engine on the validation subset, a fraction.
        ratio, ratio_p10, ratio_p90: time over the base plan's time in the same round: median and quantiles
        over rounds. ms: `ratio` times the base plan's median over the whole search: what all plans' times are
        compared by, since rounds of
            different minutes may have met a machine of different speed.
        median_ms, p10_ms, p90_ms: the times themselves.
    """

    plan: IsrPlan
    origin: str
    macs: int
    miou: float
    ratio: float
    ratio_p10: float
    ratio_p90: float
    ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float

    def level(self, precision: Precision) -> Level:
        return Level(self.plan, self.miou, round(self.ms, 3), self.macs, precision)


def pareto_front(candidates: Iterable[Candidate], noise_ms: float) -> list[Candidate]:
    """The candidates worth having, from the most exact to the fastest.

    Each is faster by more than `noise_ms` than every one before it, and less exact. Each that is left out has
    one on the front that is at least as exact and slower by no more than the noise, so that nothing on the
    front is dominated.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.miou, c.ms, str(c.plan))):
        if not front or candidate.ms < front[-1].ms - noise_ms:
            front.append(candidate)
    return front


def choose(front: Sequence[Candidate], base_miou: float, rule: Choose) -> Candidate:
    """The candidate of the front that becomes level 0.

    `max_miou_drop`: the fastest that loses no more against the base plan. `latency_ms`: the most exact that
    is as fast. `knee`: the one farthest from the straight line between the ends of the front, both axes
    scaled to it; the most exact where the front has no more than two.

    Source (knee): Satopaa et al., Finding a "Kneedle" in a haystack, ICDCSW 2011, section III.
    Raises:
        GateFailed: none is as fast as `latency_ms`; the report holds the front.
    """
    if rule.max_miou_drop is not None:
        # Never empty: the front begins with the most exact candidate of all, and the base plan is one of
        # them.
        return [c for c in front if base_miou - c.miou <= rule.max_miou_drop][-1]
    first, last = front[0], front[-1]
    if rule.latency_ms is None:
        return max(
            front,
            key=lambda c: (
                (first.ms - c.ms) * (first.miou - last.miou) - (first.miou - c.miou) * (first.ms - last.ms)
            ),
        )
    fit = [c for c in front if c.ms <= rule.latency_ms]
    if not fit:
        raise GateFailed(
            f"no plan satisfies isr.choose.latency_ms {rule.latency_ms:g}: the fastest, {last.plan}, takes"
            f" {last.ms:.1f} ms",
            hint="raise isr.choose.latency_ms, search further with --max-plans, or give more --threads",
            report={"front": [{"plan": str(c.plan), "miou": c.miou, "ms": round(c.ms, 3)} for c in front]},
        )
    return fit[0]


def pick_levels(front: Sequence[Candidate], first: Candidate, count: int) -> list[Candidate]:
    """At most `count` candidates of the front: `first`, the fastest, and between them those nearest to an
    even spread in time.

    Fewer where the front has fewer from `first` on.
    """
    rest = list(front[front.index(first) :])
    if count >= len(rest):
        return rest
    if count == 1:
        return [first]
    span_ms = first.ms - rest[-1].ms
    picked = [0]
    for number in range(1, count - 1):
        wanted_ms = first.ms - span_ms * number / (count - 1)
        # So many must remain for the levels to come.
        open_to = range(picked[-1] + 1, len(rest) - (count - 1 - number))
        picked.append(min(open_to, key=lambda index: abs(rest[index].ms - wanted_ms)))
    return [rest[index] for index in (*picked, len(rest) - 1)]


def best_step(here: Candidate, steps: Iterable[Candidate], noise_ms: float) -> Candidate | None:
    """The step of a greedy walk: least mIoU lost per millisecond saved; what loses nothing comes first, by
    time saved.

    None where no step saves more than the noise.
    """

    def cost(step: Candidate) -> tuple[bool, float]:
        lost, saved_ms = here.miou - step.miou, here.ms - step.ms
        return (True, lost / saved_ms) if lost > 0 else (False, -saved_ms)

    return min((step for step in steps if here.ms - step.ms > noise_ms), key=cost, default=None)
