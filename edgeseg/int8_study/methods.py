"""Calibration methods side by side: each on the same images, judged against the float model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from edgeseg.contracts import NoProgress, Progress
from edgeseg.errors import RecipeError
from edgeseg.int8.calibrate import set_ranges
from edgeseg.int8.ranges import Method
from edgeseg.int8.rules import quantizers
from edgeseg.int8.sensitivity import LayerSwitch
from edgeseg.int8_study.context import Setting, set_up
from edgeseg.int8_study.score import Score, score
from edgeseg.recipe.schema import Quant, Recipe

METHODS: tuple[Method, ...] = get_args(Method)
_TASK = "methods"


@dataclass(frozen=True, slots=True, eq=False)
class MethodRow:
    """One method: its score, and the mean share of values beyond the ranges that it chose."""

    method: Method
    percentile: float | None
    score: Score
    clipped: float


@dataclass(frozen=True, slots=True, eq=False)
class MethodSweep:
    """All methods, by mIoU, and the float model they are compared with."""

    setting: Setting
    float_score: Score
    rows: tuple[MethodRow, ...]

    def to_json(self) -> dict[str, Any]:
        chosen = self.setting.quant.calibration.method
        return {
            **{name: value for name, value in self.setting.facts().items() if name != "method"},
            "recipe_method": chosen,
            "float_miou": self.float_score.miou,
            "methods": [
                {
                    "method": row.method,
                    "percentile": row.percentile,
                    **row.score.figures(),
                    "drop": self.float_score.miou - row.score.miou,
                    "clipped_share": row.clipped,
                    "classes": dict(zip(self.setting.trained.labels.names, row.score.iou, strict=True)),
                }
                for row in self.rows
            ],
            "float_classes": dict(zip(self.setting.trained.labels.names, self.float_score.iou, strict=True)),
        }


def sweep_methods(
    recipe: Recipe,
    checkpoint: Path,
    data_root: Path,
    *,
    methods: Sequence[Method] = METHODS,
    limit: int | None = None,
    progress: Progress | None = None,
) -> MethodSweep:
    """Calibrate by each method and measure mIoU, logit SQNR and mask agreement of the fake-quantized torch
    model.

    The calibration images are looked at once, as ranges by every method follow from the same counts.

    Args:
        limit: judge on so many validation images, evenly spread; None: all.
    Raises:
        RecipeError, DataError, BuildError, MissingDependency: as `set_up` and calibration.
    """
    progress = progress or NoProgress()
    setting = set_up(recipe, checkpoint, data_root, limit, progress)
    seen = setting.observed(progress)
    ranges, clipped = {}, {}
    for method in dict.fromkeys(methods):
        report = set_ranges(setting.model, seen, _by(setting.quant, method))
        clipped[method] = sum(found.clipped for found in report.ranges.values()) / len(report.ranges)
        ranges[method] = _Ranges(setting)
    scores = _judge(setting, ranges, progress)
    rows = [
        MethodRow(
            method,
            setting.quant.calibration.percentile if method == "percentile" else None,
            scores[method],
            clipped[method],
        )
        for method in ranges
    ]
    return MethodSweep(setting, scores[None], tuple(sorted(rows, key=lambda row: -row.score.miou)))


def parse_methods(text: str | None) -> tuple[Method, ...]:
    """Names with commas between; None: all. Raises RecipeError."""
    if text is None:
        return METHODS
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise RecipeError(
            f"no calibration method is named {', '.join(map(repr, unknown))}",
            hint=f"known: {', '.join(METHODS)}",
        )
    return tuple(method for method in METHODS if method in names)


class _Ranges:
    """The ranges that a model has now, to be put in force again."""

    def __init__(self, setting: Setting) -> None:
        self._held = [(q, q.amax.clone()) for _, _, q in quantizers(setting.model) if q.amax is not None]

    def restore(self) -> None:
        for quantizer, amax in self._held:
            quantizer.amax = amax


@torch.no_grad()
def _judge(
    setting: Setting, ranges: Mapping[Method, _Ranges], progress: Progress
) -> dict[Method | None, Score]:
    """Scores by method; of the float model under None. Images are the outer loop, so that each is read and
    run in float once.
    """
    switch = LayerSwitch(setting.model)
    totals: dict[Method | None, Score] = {}
    progress.start(_TASK, len(setting.subset) * (1 + len(ranges)))
    for index in range(len(setting.subset)):
        x, mask = setting.sample(index)
        with switch.only(()):
            reference = setting.at_mask(setting.model(x))
        logits: dict[Method | None, Tensor] = {None: reference}
        progress.advance(_TASK)
        for method, held in ranges.items():
            held.restore()
            logits[method] = setting.at_mask(setting.model(x))
            progress.advance(_TASK)
        for name, values in logits.items():
            own = score(values, reference, mask, setting.trained.labels)
            totals[name] = totals[name] + own if name in totals else own
    progress.finish(_TASK)
    return totals


def _by(quant: Quant, method: Method) -> Quant:
    return quant.model_copy(update={"calibration": quant.calibration.model_copy(update={"method": method})})
