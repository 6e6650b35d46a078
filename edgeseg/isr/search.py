"""The search: which plans to measure, in which order, and what is left behind.

    presets   the paper's plans, and those that the recipe and the caller name
    greedy    these; then a walk from the training ratios that takes, step by step, the raise of one
              multiplier that loses least mIoU per millisecond saved; then the neighbours of the front,
              until it holds or the budget is spent
    grid      every legal plan

Left behind: search.jsonl (all measurements), table.json, pareto.png, report.html, and plan.json with the
chosen levels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edgeseg.checkpoints.models import load_trained
from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.datasets import open_dataset
from edgeseg.data.subset import Subset
from edgeseg.errors import EdgesegError, RecipeError, Unsupported, require
from edgeseg.isr.engines import PlanEngines
from edgeseg.isr.measure import SITTING, Engines, PlanMeter
from edgeseg.isr.pareto import Candidate, best_step, pareto_front
from edgeseg.isr.plans import PlanSpace
from edgeseg.isr.programs import Int8Programs
from edgeseg.isr.results import leave
from edgeseg.journal import Journal
from edgeseg.recipe.labels import require_same
from edgeseg.recipe.schema import Choose, Recipe
from edgeseg.specs import IsrPlan

Strategy = Literal["greedy", "grid", "presets"]
Seeds = Sequence[tuple[IsrPlan, str]]
"""Plans, each with its origin."""
WALK_SHARE = 0.75
"""Of the budget; the rest is for the neighbours of the front."""
_TASK = "isr"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    Attributes:
        plans: further candidates.
        limit: evaluate on so many validation images, evenly spread; None: all.
        rounds: rounds of timing, see measure.
        levels: how many plans of the front to keep.
        max_plans: at most so many candidates.
        runtime: a row of the engine table; by default, the recipe's first target.
        threads: of the engines; default: the physical cores that this process may use.
        force: forget what was measured before.
        quantized: search through INT8 engines of this quantized checkpoint; None: through float engines.
    """

    strategy: Strategy = "greedy"
    plans: tuple[IsrPlan, ...] = ()
    limit: int | None = None
    rounds: int = 30
    levels: int = 1
    max_plans: int = 64
    runtime: str | None = None
    threads: int | None = None
    force: bool = False
    quantized: Path | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        table: the content of table.json.
        levels: level 0 first; fewer than asked for where the front ends before.
        known: how many candidates were measured by an earlier search.
    """

    table: dict[str, Any]
    levels: list[Candidate]
    known: int
    out: Path


def search(
    recipe: Recipe,
    checkpoint: Path,
    data_root: Path,
    out: Path,
    options: SearchOptions,
    *,
    progress: Progress | None = None,
) -> SearchResult:
    """Measure candidates for a trained model on this device, and choose by the recipe's `isr.choose`.

    In INT8, one set of scales serves every plan, accuracy lost is against the INT8 base plan, and the float
    base plan's accuracy is told beside it.

    Args:
        checkpoint: float weights; of INT8 engines, those that were quantized.
        out: folder for the results; what an earlier search of the same setting measured there is not measured
            again.
    Raises:
        DataError: checkpoint or data do not fit the recipe, or the validation set is empty.
        Unsupported: the model has no ISR, or there is no such runtime.
        RecipeError: a plan that is not legal, a grid or a list of plans beyond `max_plans`, an unknown
            strategy.
        BuildError: an engine failed; what was measured is kept.
        GateFailed: no plan satisfies the rule; the table is written, plan.json is not.
        MissingDependency: matplotlib is not installed, or modelopt where the search is in INT8.
        KeyboardInterrupt: what was measured is kept.
    """
    require("matplotlib.figure", extra="report", purpose="draw the front")
    trained = load_trained(recipe, checkpoint)
    programs = Int8Programs(recipe, trained, options.quantized) if options.quantized is not None else None
    setting = (trained, recipe.export, options.runtime or recipe.targets[0].runtime, options.threads)
    engines, float_engines = PlanEngines(*setting, programs), PlanEngines(*setting) if programs else None
    seeds = seeds_of(engines.space, recipe.isr.plan(), options)
    dataset = open_dataset(recipe.data, "val", data_root)
    mend = "search on data of the checkpoint's classes"
    require_same(dataset.labels.names, trained.labels.names, "the data", str(checkpoint), hint=mend)
    subset = Subset(dataset, options.limit)
    facts = {
        "recipe": recipe.name,
        "arch": trained.arch,
        "checkpoint_sha256": trained.sha256,
        "size_hw": list(recipe.export.size_hw),
        "mask_stride": recipe.export.mask_stride,
        "precision": "float",
    }
    if programs:
        facts |= {
            "precision": "int8",
            "quantized_sha256": programs.sha256,
            "calibrated_at": str(programs.home),
        }
    rule, progress = recipe.isr.choose, progress or NoProgress()
    return search_plans(
        engines, subset, seeds, rule, out, options, facts, progress, float_engines=float_engines
    )


def search_plans(
    engines: Engines,
    subset: Subset,
    seeds: Seeds,
    rule: Choose,
    out: Path,
    options: SearchOptions,
    facts: Mapping[str, Any],
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
    float_engines: Engines | None = None,
) -> SearchResult:
    """The search itself, on engines and data that are there.

    Args:
        facts: go into table.json.
        float_engines: where `engines` are not float: of these the base plan's accuracy is told beside it.
    """
    journal_path = out / "search.jsonl"
    if options.force:
        journal_path.unlink(missing_ok=True)

    def tick(count: int) -> None:
        progress.advance(_TASK, count)

    journal, float_base = Journal(journal_path), {}
    with PlanMeter(engines, subset, journal, options.rounds, tick=tick, clock=clock) as meter:
        walk = _Search(engines, meter, options.max_plans, progress)
        most = len(seeds) if options.strategy != "greedy" else min(options.max_plans, len(engines.space))
        progress.start(_TASK, most * meter.ticks)
        try:
            if float_engines is not None:
                float_meter = PlanMeter(float_engines, subset, journal, options.rounds)
                float_base = {"float_base_miou": float_meter.measure_miou(float_engines.space.base)}
            walk.run(seeds, options.strategy)
        except (KeyboardInterrupt, EdgesegError):
            progress.message(
                f"what was measured is kept in {journal_path}; the same command continues from there"
            )
            raise
        progress.finish(_TASK)
        setting = {
            **facts,
            **float_base,
            "runtime": engines.device.runtime,
            "runtime_version": engines.device.runtime_version,
            "device": str(engines.device),
            **engines.options,
            "strategy": options.strategy,
            "rounds": options.rounds,
            "images": len(subset),
            "image_names": subset.names,
            "subset_sha256": subset.sha256,
            "legal_plans": len(engines.space),
            "noise": round(meter.noise, 5),
            "noise_ms": round(walk.noise_ms, 4),
        }
        table, levels = leave(list(walk.found.values()), walk.front, setting, rule, options.levels, out)
        return SearchResult(table, levels, walk.known, out)


def seeds_of(space: PlanSpace, recipe_plan: IsrPlan, options: SearchOptions) -> Seeds:
    """The plans that are measured in any case, with their origin. Raises RecipeError, Unsupported."""
    if not space.choices:
        raise Unsupported(
            "this model has no inference spatial reduction: nothing in it pools keys and values",
            hint="edgeseg models lists the models that have it",
        )
    if options.strategy not in get_args(Strategy):
        raise RecipeError(
            f"there is no search named {options.strategy!r}", hint=f"known: {', '.join(get_args(Strategy))}"
        )
    given = [(space.check(plan), "given") for plan in options.plans]
    if options.strategy == "grid" and len(space) > options.max_plans:
        raise RecipeError(
            f"the grid has {len(space)} plans, more than --max-plans {options.max_plans}",
            hint=f"--max-plans {len(space)}, or --search greedy",
        )
    every = [(space.base, "base"), (space.check(recipe_plan), "recipe"), *given]
    every += [(plan, "preset") for plan in space.presets()]
    every += [(plan, "grid") for plan in space] if options.strategy == "grid" else []
    origins: dict[IsrPlan, str] = {}
    for plan, origin in every:
        origins.setdefault(plan, origin)
    if len(origins) > options.max_plans:
        raise RecipeError(
            f"{len(origins)} plans are named, the paper's among them, more than --max-plans"
            f" {options.max_plans}",
            hint=f"--max-plans {len(origins)} or more",
        )
    return list(origins.items())


@dataclass
class _Search:
    """The candidates so far."""

    engines: Engines
    meter: PlanMeter
    max_plans: int
    progress: Progress
    found: dict[IsrPlan, Candidate] = field(default_factory=dict)
    known: int = 0

    @property
    def base(self) -> Candidate:
        return self.found[self.engines.space.base]

    @property
    def noise_ms(self) -> float:
        return self.meter.noise * self.base.ms

    @property
    def front(self) -> list[Candidate]:
        return pareto_front(self.found.values(), self.noise_ms)

    def run(self, seeds: Seeds, strategy: Strategy) -> None:
        for start in range(0, len(seeds), SITTING):
            self.visit(seeds[start : start + SITTING])
        if strategy == "greedy":
            self.walk()
            self.refine()

    def visit(self, plans: Seeds) -> None:
        """Measure plans that are new, as far as the budget goes."""
        new = [(plan, origin) for plan, origin in plans if plan not in self.found][
            : self.max_plans - len(self.found)
        ]
        if not new:
            return
        self.known += self.meter.measure([plan for plan, _ in new])
        base_ms = self.meter.timing(self.engines.space.base).ms[1]
        origins = {plan: found.origin for plan, found in self.found.items()} | dict(new)
        # All anew: the base plan's median has moved with the rounds that came to it.
        self.found = {plan: self._candidate(plan, origin, base_ms) for plan, origin in origins.items()}
        front = self.front
        shown = "  ".join(f"{c.plan} {c.miou:.4f} {c.ms:.1f} ms" for c in front)
        self.progress.advance(_TASK, 0, plans=len(self.found), front=len(front))
        self.progress.message(f"front of {len(self.found)} plans: {shown}")

    def walk(self) -> None:
        here: Candidate | None = self.base
        while here is not None and len(self.found) < WALK_SHARE * self.max_plans:
            steps = self.engines.space.lighter(here.plan)
            self.visit([(plan, "walk") for plan in steps])
            here = best_step(
                self.found[here.plan],
                [self.found[plan] for plan in steps if plan in self.found],
                self.noise_ms,
            )

    def refine(self) -> None:
        while len(self.found) < self.max_plans:
            beside = (plan for c in self.front for plan in self.engines.space.neighbours(c.plan))
            new = list(dict.fromkeys(plan for plan in beside if plan not in self.found))
            if not new:
                return
            self.visit([(plan, "refine") for plan in new[:SITTING]])

    def _candidate(self, plan: IsrPlan, origin: str, base_ms: float) -> Candidate:
        timing, known = self.meter.timing(plan), self.found.get(plan)
        ratio_p10, ratio, ratio_p90 = timing.ratio
        p10_ms, median_ms, p90_ms = timing.ms
        return Candidate(
            plan=plan,
            origin=origin,
            macs=known.macs if known else self.engines.macs(plan),
            miou=self.meter.miou(plan),
            ratio=ratio,
            ratio_p10=ratio_p10,
            ratio_p90=ratio_p90,
            ms=ratio * base_ms,
            median_ms=median_ms,
            p10_ms=p10_ms,
            p90_ms=p90_ms,
        )
