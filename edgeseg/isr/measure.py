"""Accuracy and time of plans, through engines of this device.

Accuracy: mIoU of the engine on a fixed subset, a plan at a time. It does not vary; it is measured once.

Time: plans are timed in sittings of a few. A sitting opens their engines, and the base plan's engine twice;
    in every round each
of them segments the same image once, in an order drawn anew. A plan's figure is its time over the base plan's
in the same round, so that a busy or hot machine slows both alike. The base plan's second engine, its twin,
tells what the method cannot: its ratio is 1 but for noise. `PlanMeter.noise` is how far from 1 the 95 %
interval of the twin's median reaches, the median over sittings. Times that were taken in another
power mode, or at other limits of the clocks, are taken anew.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from edgeseg.contracts import NoProgress, Session
from edgeseg.data.evaluate import evaluate
from edgeseg.data.subset import Subset
from edgeseg.devices.local import clocks_here
from edgeseg.devices.probe import Fingerprint
from edgeseg.errors import BuildError
from edgeseg.files import json_digest
from edgeseg.images import resize_image
from edgeseg.isr.plans import PlanSpace
from edgeseg.journal import Journal
from edgeseg.specs import IsrPlan, Program

SITTING = 8
"""Plans timed together: their engines, and two of the base plan, are in memory at once."""
WARMUP = 2
BUILD_TICKS = 30
"""For the time left: making an engine takes about as long as so many inferences."""
_TWIN = "twin"


@dataclass(frozen=True, slots=True)
class Built:
    """An engine's files on disk."""

    program: Program
    files: Sequence[Path]


class Engines(Protocol):
    """Where engines come from; see engines.PlanEngines.

    Attributes:
        space: the legal plans.
        device: what the engines are for.
        identity: all but the plan that a mIoU depends on, as JSON values.
        options: what else a time depends on: the runtime's options.
    """

    space: PlanSpace
    device: Fingerprint
    identity: Mapping[str, Any]
    options: Mapping[str, Any]

    def build(self, plan: IsrPlan, folder: Path) -> Built:
        """Make the engine of a plan, in `folder`, which is new or empty."""
        ...

    def open(self, built: Built) -> Session: ...

    def macs(self, plan: IsrPlan) -> int: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one plan over all rounds, milliseconds, and their ratios to the base plan's in the same
    round.
    """

    ms: tuple[float, float, float]
    ratio: tuple[float, float, float]
    """Both: quantiles 0.1, 0.5, 0.9."""


class PlanMeter:
    """Measures plans, and remembers: what the journal holds for this setting is not measured again. A context
    manager.

    Args:
        rounds: rounds of a sitting.
        tick: called with the ticks of work that was done, or found in the journal; a plan has `ticks` of
            them.
        clock: seconds; monotonic.
    """

    def __init__(
        self,
        engines: Engines,
        subset: Subset,
        journal: Journal,
        rounds: int,
        *,
        tick: Callable[[int], None] = lambda count: None,
        clock: Callable[[], float] = time.perf_counter,
        seed: int = 0,
    ) -> None:
        self._engines, self._subset, self._journal, self._rounds = engines, subset, journal, rounds
        self._tick, self._clock, self._random = tick, clock, random.Random(seed)
        accuracy = {**engines.identity, "subset": subset.sha256}
        self._keys = {
            "miou": json_digest(accuracy),
            "times_ms": json_digest(
                {**accuracy, **engines.options, "clocks": clocks_here(), "rounds": rounds, "warmup": WARMUP}
            ),
        }
        self._mious: dict[IsrPlan, float] = {}
        self._sittings: list[dict[str, list[float]]] = []
        self._cleanup = ExitStack()
        self._base: Built | None = None
        for row in journal.rows:
            self._take(row)

    def __enter__(self) -> PlanMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def measure(self, plans: Sequence[IsrPlan]) -> int:
        """Measure what is not known yet of these plans; returns how many were known.

        Raises:
            BuildError: an engine could not be made, or failed; what was measured before is in the journal.
        """
        todo = [plan for plan in plans if plan not in self._mious or not self._is_timed(plan)]
        self._tick((len(plans) - len(todo)) * self.ticks)
        for start in range(0, len(todo), SITTING):
            self._measure_together(todo[start : start + SITTING])
        return len(plans) - len(todo)

    @property
    def ticks(self) -> int:
        """Work of one plan: about one tick an inference."""
        return BUILD_TICKS + len(self._subset) + self._rounds

    def miou(self, plan: IsrPlan) -> float:
        return self._mious[plan]

    def measure_miou(self, plan: IsrPlan) -> float:
        """The accuracy of a plan alone, measured if it is not known yet. Raises BuildError."""
        if plan not in self._mious:
            with TemporaryDirectory(prefix="edgeseg-isr-") as folder:
                self._evaluate(plan, self._engines.build(plan, Path(folder)))
        return self._mious[plan]

    def timing(self, plan: IsrPlan) -> Timing:
        name, base = str(plan), str(self._engines.space.base)
        pairs = [pair for s in self._sittings if name in s for pair in zip(s[name], s[base], strict=True)]
        times = np.array(pairs)
        return Timing(_quantiles(times[:, 0]), _quantiles(times[:, 0] / times[:, 1]))

    @property
    def noise(self) -> float:
        """The smallest difference that counts, as a share of the base plan's time."""
        base = str(self._engines.space.base)
        reach = []
        for sitting in self._sittings:
            low, high = median_interval(
                [twin / own for twin, own in zip(sitting[_TWIN], sitting[base], strict=True)]
            )
            reach.append(max(abs(low - 1), abs(high - 1)))
        return float(np.median(reach))

    def _is_timed(self, plan: IsrPlan) -> bool:
        return any(str(plan) in sitting for sitting in self._sittings)

    def _measure_together(self, plans: Sequence[IsrPlan]) -> None:
        with TemporaryDirectory(prefix="edgeseg-isr-") as folder:
            built = {}
            for number, plan in enumerate(plans):
                built[plan] = self._build(plan, Path(folder) / str(number))
                self._tick(BUILD_TICKS)
                if plan in self._mious:
                    self._tick(len(self._subset))
                else:
                    self._evaluate(plan, built[plan])
            untimed = [plan for plan in plans if not self._is_timed(plan)]
            self._tick((len(plans) - len(untimed)) * self._rounds)
            if untimed:
                self._record({"times_ms": self._sitting(untimed, built)}, "times_ms")

    def _evaluate(self, plan: IsrPlan, built: Built) -> None:
        with _failing(plan), self._engines.open(built) as session:
            confusion = evaluate(session.segment, self._subset, progress=_Ticks(self._tick))
        self._record({"plan": str(plan), "miou": confusion.miou()}, "miou")

    def _build(self, plan: IsrPlan, folder: Path) -> Built:
        """The base plan's engine is needed in every sitting: it stays."""
        if plan != self._engines.space.base:
            return self._engines.build(plan, folder)
        if self._base is None:
            kept = self._cleanup.enter_context(TemporaryDirectory(prefix="edgeseg-isr-base-"))
            self._base = self._engines.build(plan, Path(kept))
        return self._base

    def _sitting(self, plans: Sequence[IsrPlan], built: Mapping[IsrPlan, Built]) -> dict[str, list[float]]:
        base = self._engines.space.base
        base_built = self._build(base, Path())
        with ExitStack() as stack:
            timed = {str(base): base, _TWIN: base, **{str(plan): plan for plan in plans}}
            sessions: dict[str, Session] = {}
            for name, plan in timed.items():
                with _failing(plan):
                    sessions[name] = stack.enter_context(
                        self._engines.open(base_built if plan == base else built[plan])
                    )
            image = resize_image(self._subset.load(0)[0], base_built.program.image.size_hw)
            times_ms: dict[str, list[float]] = {name: [] for name in timed}
            for number in range(-WARMUP, self._rounds):
                order = list(timed)
                self._random.shuffle(order)
                for name in order:
                    with _failing(timed[name]):
                        started_s = self._clock()
                        sessions[name].infer(image)
                        elapsed_ms = 1000 * (self._clock() - started_s)
                    if number >= 0:
                        times_ms[name].append(round(elapsed_ms, 4))
                if number >= 0:
                    self._tick(len(plans))
        return times_ms

    def _record(self, row: dict[str, Any], kind: str) -> None:
        row["key"] = self._keys[kind]
        self._journal.append(row)
        self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        if "miou" in row and row["key"] == self._keys["miou"]:
            self._mious[IsrPlan.parse(row["plan"])] = row["miou"]
        if "times_ms" in row and row["key"] == self._keys["times_ms"]:
            self._sittings.append(row["times_ms"])


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median, by order statistics: no assumption on the distribution.

    With fewer than six values, which cannot give that much confidence, their range. `values` is not empty.
    """
    ordered, n = sorted(values), len(values)
    tails = accumulate(math.comb(n, below) / 2**n for below in range(n // 2))
    first = max(sum(tail <= 0.025 for tail in tails) - 1, 0)
    return ordered[first], ordered[n - 1 - first]


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9)))
    return low, middle, high


@contextmanager
def _failing(plan: IsrPlan) -> Iterator[None]:
    """A device that vanishes shows as whatever its runtime raises; runtimes raise these where they do not
    wrap them.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise BuildError(
            f"the engine of plan {plan} failed: {error}",
            hint=(
                "see whether the device is still there (edgeseg doctor); the same command continues where"
                " this stopped"
            ),
        ) from error


class _Ticks(NoProgress):
    def __init__(self, tick: Callable[[int], None]) -> None:
        self._tick = tick

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self._tick(steps)
