"""The whole of `edgeseg sensitivity`: sweep, budget, and what is left behind: sensitivity.json,
sensitivity.png, report.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.datasets import open_dataset
from edgeseg.data.subset import Subset
from edgeseg.errors import BuildError, GateFailed, require
from edgeseg.files import refusals, replace_file
from edgeseg.int8.sensitivity import Mode
from edgeseg.int8_study import budget as budgets
from edgeseg.int8_study import sensitivity as layers
from edgeseg.int8_study.context import Setting, set_up
from edgeseg.int8_study.times import engine_times
from edgeseg.recipe.schema import Recipe
from edgeseg.report.html import sensitivity_page
from edgeseg.report.sensitivity import draw_sensitivity
from edgeseg.text import json_document

IMAGES = 16
"""Validation images of a sweep, unless another number is asked for."""


@dataclass(frozen=True, slots=True)
class SensitivityOptions:
    """How to sweep.

    Attributes:
        mode: one layer INT8 and all others float, or the reverse.
        rank: what harm is, when layers are sorted and reverted: logit noise, or mIoU.
        limit: sweep on so many validation images, evenly spread; None: all.
        budget: then revert layers until the loss is within `quant.max_miou_drop`.
        budget_limit: judge the budget on so many validation images; None: all.
        runtime: of the engines that are timed; default: the recipe's first target.
        threads: of these engines; default: the physical cores that this process may use.
        rounds: times that each engine is timed; 0: none is built.
        force: forget what was measured before.
    """

    mode: Mode = "quantize-one"
    rank: layers.Rank = "noise"
    limit: int | None = IMAGES
    budget: bool = False
    budget_limit: int | None = None
    runtime: str | None = None
    threads: int | None = None
    rounds: int = 30
    force: bool = False


@dataclass(frozen=True, slots=True)
class SensitivityResult:
    """What was found.

    Attributes:
        table: the content of sensitivity.json.
        known: images that an earlier sweep had measured.
    """

    table: dict[str, Any]
    known: int
    out: Path


def run_sensitivity(
    recipe: Recipe,
    checkpoint: Path,
    data_root: Path,
    out: Path,
    options: SensitivityOptions,
    *,
    progress: Progress | None = None,
) -> SensitivityResult:
    """Measure what each layer costs in INT8, and with `options.budget` which must stay float.

    Args:
        out: folder for the results. What was measured there for the same setting is not measured again.
    Raises:
        RecipeError, DataError, BuildError, MissingDependency: see `set_up`, and calibration.
        GateFailed: the budget would take more layers than `quant.min_coverage` allows; sensitivity.json is
            written.
        KeyboardInterrupt: what was measured is kept.
    """
    require("matplotlib.figure", extra="report", purpose="draw the layers that INT8 hurts most")
    progress = progress or NoProgress()
    setting = set_up(recipe, checkpoint, data_root, options.limit, progress)
    setting.calibrate(progress)
    if options.force:
        for name in (layers.JOURNAL, budgets.JOURNAL):
            (out / name).unlink(missing_ok=True)
    swept = layers.measure_layers(setting, options.mode, options.rank, out, progress)
    table = table_of(setting, swept)
    if options.budget:
        judge = (
            setting.subset
            if options.budget_limit == options.limit
            else _judge(setting, data_root, options.budget_limit)
        )
        try:
            held = budgets.hold_budget(setting, swept.ranked, judge, out, progress)
        except GateFailed as failure:
            _leave({**table, "budget": failure.report}, out)
            raise
        times = None if options.rounds == 0 else _times(setting, held, options, progress)
        table["budget"] = {**held.to_json(), "times": times}
    _leave(table, out)
    return SensitivityResult(table, swept.known, out)


def table_of(setting: Setting, swept: layers.Sensitivity) -> dict[str, Any]:
    """The content of sensitivity.json; `budget` is null until there is one."""
    return {
        **setting.facts(),
        "mode": swept.mode,
        "rank": swept.rank,
        "float_miou": swept.float_score.miou,
        "int8_miou": swept.int8_score.miou,
        "int8_sqnr_db": swept.int8_score.figures()["sqnr_db"],
        "layers": [asdict(row) for row in swept.rows],
        "budget": None,
    }


def _judge(setting: Setting, data_root: Path, limit: int | None) -> Subset:
    return Subset(open_dataset(setting.recipe.data, "val", data_root), limit)


def _times(
    setting: Setting, held: budgets.Budget, options: SensitivityOptions, progress: Progress
) -> Mapping[str, Any]:
    variants: dict[str, tuple[str, ...] | None] = {"float": None, "int8": ()}
    if held.reverted:
        variants["budget"] = held.reverted
    runtime = options.runtime or setting.recipe.targets[0].runtime
    return engine_times(setting, variants, runtime, options.threads, options.rounds, progress)


def _leave(table: Mapping[str, Any], out: Path) -> None:
    picture = draw_sensitivity(table)
    files = {
        "sensitivity.json": json_document(table),
        "sensitivity.png": picture,
        "report.html": sensitivity_page(table, picture),
    }
    with refusals(out, BuildError, "free disk space; the same command continues"):
        for name, content in files.items():
            replace_file(out / name, content)
