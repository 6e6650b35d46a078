"""What each layer costs in INT8: mIoU, logit noise and mask agreement, one layer changed at a time.

Images are the outer loop: a layer's variant then needs only what comes after the layer to run again (see
quant.replay), and a sweep that was stopped continues after the last whole image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from edgeseg.contracts import Progress
from edgeseg.files import json_digest
from edgeseg.int8.coverage import coverage
from edgeseg.int8.replay import Replay
from edgeseg.int8.sensitivity import LayerSwitch, Mode
from edgeseg.int8_study.context import Setting
from edgeseg.int8_study.score import Score, score
from edgeseg.journal import Journal

Rank = Literal["noise", "miou"]
JOURNAL = "sensitivity.jsonl"
_TASK = "sensitivity"


@dataclass(frozen=True, slots=True)
class LayerRow:
    """What one layer costs.

    Attributes:
        macs: of one image; `share` of the whole model's.
        miou, sqnr_db, agreement: of the variant; SQNR and agreement against the float model, SQNR null where
        nothing differs. harm: mIoU that the layer costs in INT8, a fraction: lost where it alone is INT8, or
        won where it alone is float. noise: its share of the logit noise that the model has when every layer
        is INT8. Shares need not add up to 1.
    """

    layer: str
    kind: str
    macs: int
    share: float
    miou: float
    sqnr_db: float | None
    agreement: float
    harm: float
    noise: float


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """A whole sweep. `rows` are sorted by harm, the most harmful first."""

    mode: Mode
    rank: Rank
    float_score: Score
    int8_score: Score
    rows: tuple[LayerRow, ...]
    known: int

    @property
    def ranked(self) -> list[str]:
        return [row.layer for row in self.rows]


def measure_layers(setting: Setting, mode: Mode, rank: Rank, out: Path, progress: Progress) -> Sensitivity:
    """Sweep over the layers of a calibrated setting.

    Args:
        rank: sort by mIoU, or by the share of the logit noise, which a few images tell far better.
        out: folder of the journal: images that an earlier sweep of the same setting did are not done again.
    Raises:
        DataError, BuildError: the journal holds something else, or cannot be written.
        KeyboardInterrupt: whole images are kept.
    """
    key = json_digest({**setting.identity, "mode": mode})
    journal = Journal(out / JOURNAL)
    done = {row["image"]: row for row in journal.rows if row["key"] == key}
    known = len(done)
    switch = LayerSwitch(setting.model)
    steps = len(switch.names) + 2
    progress.start(_TASK, len(setting.subset) * steps)
    progress.advance(_TASK, known * steps)
    try:
        for index in range(len(setting.subset)):
            if index not in done:
                done[index] = {
                    "key": key,
                    "image": index,
                    **_one_image(setting, switch, mode, index, progress),
                }
                journal.append(done[index])
    except KeyboardInterrupt:
        progress.message(
            f"{len(done)} of {len(setting.subset)} images are kept in {journal.path}; the same command"
            " continues"
        )
        raise
    progress.finish(_TASK)
    scores: dict[str, Score] = {}
    for row in done.values():
        for name, values in row["scores"].items():
            scores[name] = (
                scores[name] + Score.from_json(values) if name in scores else Score.from_json(values)
            )
    return Sensitivity(mode, rank, scores[""], scores["*"], tuple(_rows(setting, mode, rank, scores)), known)


@torch.no_grad()
def _one_image(
    setting: Setting, switch: LayerSwitch, mode: Mode, index: int, progress: Progress
) -> Mapping[str, Any]:
    """Scores by variant: "" is the float model, "*" all INT8, others the layer that is alone."""
    x, mask = setting.sample(index)
    logits = {}
    with switch.only(()):
        logits[""] = setting.model(x)
    logits["*"] = setting.model(x)
    progress.advance(_TASK, 2)
    with switch.only(switch.base(mode)):
        replay = Replay(setting.model, x)
        for name in switch.names:
            module = switch.modules[name]
            if replay.runs(module):
                with switch.flipped(name, mode):
                    logits[name] = replay.replay(module)
            progress.advance(_TASK)
    at_mask = {name: setting.at_mask(values) for name, values in logits.items()}
    labels = setting.trained.labels
    return {
        "scores": {
            name: score(values, at_mask[""], mask, labels).to_json() for name, values in at_mask.items()
        }
    }


def _rows(setting: Setting, mode: Mode, rank: Rank, scores: Mapping[str, Score]) -> list[LayerRow]:
    covered = coverage(setting.model, setting.hints, setting.quant, setting.image.size_hw)
    layers = {layer.name: layer for layer in covered.layers}
    whole, full = scores[""], scores["*"]
    rows = []
    for name, own in scores.items():
        if name in ("", "*"):
            continue
        harm = whole.miou - own.miou if mode == "quantize-one" else own.miou - full.miou
        noise = own.noise if mode == "quantize-one" else full.noise - own.noise
        rows.append(
            LayerRow(
                layer=name,
                kind=layers[name].kind,
                macs=layers[name].macs,
                share=layers[name].macs / covered.macs,
                **own.figures(),  # type: ignore[arg-type]
                harm=harm,
                noise=noise / full.noise if full.noise else 0.0,
            )
        )
    first, second = ("noise", "harm") if rank == "noise" else ("harm", "noise")
    return sorted(rows, key=lambda row: (-getattr(row, first), -getattr(row, second), row.layer))
