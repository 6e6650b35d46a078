"""The accuracy budget: the fewest layers back to float that keep the loss within what the recipe allows, and
what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.evaluate import evaluate
from edgeseg.data.subset import Subset
from edgeseg.errors import GateFailed
from edgeseg.files import json_digest
from edgeseg.int8.coverage import Coverage, coverage
from edgeseg.int8.sensitivity import LayerSwitch, fewest
from edgeseg.int8_study.context import Setting
from edgeseg.journal import Journal
from edgeseg.models.reference import TorchReference

JOURNAL = "budget.jsonl"
_TASK = "budget"


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """What was reverted, and what it changed.

    Attributes:
        allowed: mIoU that may be lost, `quant.max_miou_drop`.
        reverted: layers that must stay float, the most harmful first; none where the budget holds as it is.
        float_miou, int8_miou, miou: of the float model, with every layer INT8, with `reverted` float; torch,
        on `images` images. coverage_before, coverage_after: of multiply-adds in INT8. trials: how many layers
        were float, and the mIoU then, of every trial. keep_float: what the recipe must say: what it says
        already, and `reverted`.
    """

    allowed: float
    reverted: tuple[str, ...]
    float_miou: float
    int8_miou: float
    miou: float
    images: int
    coverage_before: Coverage
    coverage_after: Coverage
    trials: tuple[tuple[int, float], ...]
    keep_float: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "allowed": self.allowed,
            "reverted": list(self.reverted),
            "float_miou": self.float_miou,
            "int8_miou": self.int8_miou,
            "miou": self.miou,
            "drop_before": self.float_miou - self.int8_miou,
            "drop": self.float_miou - self.miou,
            "images": self.images,
            "coverage_before": self.coverage_before.share,
            "coverage": self.coverage_after.share,
            "trials": [{"float_layers": count, "miou": miou} for count, miou in self.trials],
            "keep_float": list(self.keep_float),
        }


def hold_budget(
    setting: Setting, ranked: Sequence[str], judge: Subset, out: Path, progress: Progress
) -> Budget:
    """Revert the most harmful layers of a calibrated setting until the loss is within `quant.max_miou_drop`.

    Args:
        ranked: INT8 layers, the most harmful first.
        judge: the images on which the loss is measured; other than those that gave the ranking, or more.
        out: folder of the journal: trials of an earlier call are not repeated.
    Raises:
        GateFailed: coverage would fall below `quant.min_coverage`; the report says what holding the budget
            would take.
        DataError, BuildError: the journal holds something else, or cannot be written.
    """
    trials = _Trials(setting, judge, Journal(out / JOURNAL), progress)
    switch, quant = trials.switch, setting.quant
    progress.start(_TASK, None)
    floating = trials.miou(switch.names)
    found = fewest(list(ranked), lambda reverted: floating - trials.miou(reverted) <= quant.max_miou_drop)
    if found is None:  # the layers that the ranking does not name are those that the model does not run
        raise RuntimeError("with every layer that runs in float, the model is not the float model")
    progress.finish(_TASK)
    size_hw = setting.image.size_hw
    before = coverage(setting.model, setting.hints, quant, size_hw)
    with switch.only(name for name in switch.names if name not in found):
        after = coverage(setting.model, setting.hints, quant, size_hw)
    budget = Budget(
        allowed=quant.max_miou_drop,
        reverted=tuple(found),
        float_miou=floating,
        int8_miou=trials.miou(()),
        miou=trials.miou(found),
        images=len(judge),
        coverage_before=before,
        coverage_after=after,
        trials=tuple(
            sorted(
                (len(layers), miou)
                for layers, miou in trials.known.items()
                if len(layers) < len(switch.names)
            )
        ),
        keep_float=(*quant.keep_float, *found),
    )
    if found and after.share < quant.min_coverage:
        raise GateFailed(
            f"to lose no more than {quant.max_miou_drop} mIoU, {len(found)} layers would stay float;"
            f" {after.share:.1%} of the multiply-adds would be in INT8, quant.min_coverage asks for"
            f" {quant.min_coverage:.1%}",
            hint=(
                "train with the quantizers in force (quant.qat), try edgeseg calib sweep, or lower"
                " quant.min_coverage"
            ),
            report=budget.to_json(),
        )
    return budget


class _Trials:
    """mIoU by the layers that are float, measured once each.

    Attributes:
        known: of this call and, where the setting is the same, of earlier ones.
    """

    def __init__(self, setting: Setting, judge: Subset, journal: Journal, progress: Progress) -> None:
        self.switch = LayerSwitch(setting.model)
        self._judge, self._journal, self._progress = judge, journal, progress
        self._reference = TorchReference(setting.model, setting.image, setting.mask_stride)
        identity = {**setting.identity, "judge": judge.sha256}
        self._key = json_digest(identity)
        self.known: dict[frozenset[str], float] = {}
        for row in journal.rows:
            self._take(row)

    def miou(self, floats: Sequence[str]) -> float:
        chosen = frozenset(floats)
        if chosen not in self.known:
            with self.switch.only(name for name in self.switch.names if name not in chosen):
                confusion = evaluate(
                    self._reference.segment, self._judge, progress=_Steps(self._progress, len(chosen))
                )
            row = {"key": self._key, "float_layers": sorted(chosen), "miou": confusion.miou()}
            self._journal.append(row)
            self._take(row)
            self._progress.message(f"{len(chosen)} layers float: mIoU {confusion.miou():.4f}")
        return self.known[chosen]

    def _take(self, row: Mapping[str, Any]) -> None:
        if row["key"] == self._key:
            self.known[frozenset(row["float_layers"])] = row["miou"]


class _Steps(NoProgress):
    """One trial after another on one bar."""

    def __init__(self, progress: Progress, floats: int) -> None:
        self._progress, self._floats = progress, floats

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self._progress.advance(_TASK, steps, float_layers=str(self._floats), **figures)
