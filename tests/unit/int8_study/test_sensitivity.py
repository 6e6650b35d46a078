"""Sweeps over layers and the accuracy budget, on a model whose layers are as coarse as the test says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.checkpoints.models import Trained
from edgeseg.contracts import NoProgress
from edgeseg.data.calib import load_calib
from edgeseg.data.calib_images import CalibImages
from edgeseg.data.subset import Subset
from edgeseg.errors import DataError, GateFailed
from edgeseg.int8.sensitivity import Mode
from edgeseg.int8_study.budget import hold_budget
from edgeseg.int8_study.context import Setting
from edgeseg.int8_study.score import Score, score
from edgeseg.int8_study.sensitivity import JOURNAL, Sensitivity, measure_layers
from edgeseg.metrics import ConfusionMatrix
from edgeseg.recipe.load import load_recipe
from edgeseg.recipe.schema import Quant
from edgeseg.report.html import sensitivity_page
from edgeseg.report.sensitivity import draw_sensitivity
from edgeseg.specs import ImageSpec, ImageU8, LabelSpace, MaskU8, QuantHints

SIZE_HW = (32, 64)
LABELS = LabelSpace(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)))
STEPS = {
    "stem": 0.02,
    "blocks.0.one": 0.01,
    "blocks.0.two": 2.5,
    "blocks.1.one": 0.3,
    "blocks.1.two": 0.01,
    "head": 0.02,
}
"""By layer: the step to which its input is rounded."""
BY_HARM = ("blocks.0.two", "blocks.1.one")


class Rounding(nn.Module):
    """As much of a quantizer as sweeps need."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step, self.is_enabled, self.amax = step, True, torch.tensor(127 * step)

    def enable(self) -> None:
        self.is_enabled = True

    def disable(self) -> None:
        self.is_enabled = False

    disable_quant = disable

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.step).round() * self.step if self.is_enabled else x


class QuantConv2d(nn.Conv2d):
    """A pointwise convolution; named as modelopt names them."""

    def __init__(self, step: float, inputs: int = 6, outputs: int = 6) -> None:
        super().__init__(inputs, outputs, 1)
        self.input_quantizer = Rounding(step)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.input_quantizer(x))


class Block(nn.Module):
    def __init__(self, one: float, two: float) -> None:
        super().__init__()
        self.one, self.two = QuantConv2d(one), QuantConv2d(two)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(torch.tanh(self.one(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        s = STEPS
        self.stem = QuantConv2d(s["stem"], 3, 6)
        self.blocks = nn.ModuleList(Block(s[f"blocks.{n}.one"], s[f"blocks.{n}.two"]) for n in range(2))
        self.head = QuantConv2d(s["head"], 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Data:
    """Noise that the float model labels: in float, its mIoU is 1."""

    labels = LABELS

    def __init__(self, model: nn.Module, count: int = 3) -> None:
        self._model, self._count = model, count

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"val/{index}"

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        image = np.random.default_rng(index).integers(0, 256, (*SIZE_HW, 3), np.uint8)
        quantizers = [module for module in self._model.modules() if isinstance(module, Rounding)]
        before = [quantizer.is_enabled for quantizer in quantizers]
        for quantizer in quantizers:
            quantizer.is_enabled = False
        with torch.no_grad():
            x = (torch.from_numpy(image).float() / 64).permute(2, 0, 1)[None]
            mask = self._model(x)[0].argmax(0).numpy().astype(np.uint8)
        for quantizer, was in zip(quantizers, before, strict=True):
            quantizer.is_enabled = was
        return image, mask


def setting(count: int = 3, **quant: Any) -> Setting:
    torch.manual_seed(1)
    model = Model().eval().requires_grad_(False)
    section = {
        "calibration": {"images": "synthetic_train_16"},
        "min_coverage": 0.1,
        "max_miou_drop": 0.02,
        "qat": None,
        **quant,
    }
    return Setting(
        recipe=load_recipe("edaformer_nano_synthetic"),
        quant=Quant.model_validate(section),
        trained=cast(Trained, SimpleNamespace(labels=LABELS, sha256="ab" * 32, arch="fake")),
        model=model,
        hints=QuantHints(),
        image=ImageSpec(SIZE_HW, (0.0, 0.0, 0.0), (64.0, 64.0, 64.0)),
        mask_stride=1,
        calib=CalibImages(load_calib("synthetic_train_16"), Path()),
        subset=Subset(Data(model, count)),
    )


def swept(
    out: Path,
    mode: Mode = "quantize-one",
    rank: Any = "noise",
    given: Setting | None = None,
    progress: Any = None,
) -> Sensitivity:
    return measure_layers(given or setting(), mode, rank, out, progress or NoProgress())


class Stops(NoProgress):
    """Ctrl-C after so many steps of a sweep."""

    def __init__(self, after: int) -> None:
        self.left, self.told = after, ""

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.told += text


@pytest.mark.parametrize("mode", ["quantize-one", "float-one"])
@pytest.mark.parametrize("rank", ["noise", "miou"])
def test_the_coarse_layers_come_first(tmp_path: Path, mode: Mode, rank: str) -> None:
    found = swept(tmp_path, mode, rank)
    assert tuple(found.ranked[:2]) == BY_HARM and sorted(found.ranked) == sorted(STEPS)
    assert found.float_score.miou == 1.0 and found.int8_score.miou < 0.95
    first, last = found.rows[0], found.rows[-1]
    assert first.harm > 0.02 > last.harm and first.noise > 0.5 > last.noise
    assert sum(row.share for row in found.rows) == pytest.approx(1.0)
    assert {row.kind for row in found.rows} == {"Conv2d"}


def test_the_figures_are_those_of_whole_passes(tmp_path: Path) -> None:
    given = setting()
    found = {row.layer: row for row in swept(tmp_path, given=given).rows}
    layer = dict(given.model.named_modules())["blocks.1.one"]
    for module in given.model.modules():
        if isinstance(module, Rounding):
            module.is_enabled = module is layer.input_quantizer
    confusion = ConfusionMatrix(3)
    with torch.no_grad():
        for index in range(len(given.subset)):
            x, mask = given.sample(index)
            confusion.update(mask, given.model(x)[0].argmax(0).numpy().astype(np.uint8))
    assert found["blocks.1.one"].miou == confusion.miou()


def test_a_stopped_sweep_continues_and_ends_the_same(tmp_path: Path) -> None:
    whole = swept(tmp_path / "whole")
    steps = len(STEPS) + 2
    stops = Stops(2 * steps + 3)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "stopped", progress=stops)
    assert "2 of 3 images are kept" in stops.told
    given = setting()
    again = swept(tmp_path / "stopped", given=given)
    assert again.known == 2 and again.rows == whole.rows and whole.known == 0
    assert all(module.is_enabled for module in given.model.modules() if isinstance(module, Rounding))
    assert swept(tmp_path / "stopped", "float-one").known == 0
    assert (
        swept(tmp_path / "stopped", given=replace(given, quant=setting(attention="float").quant)).known == 0
    )
    given.model.get_submodule("head.input_quantizer").amax *= 2
    assert swept(tmp_path / "stopped", given=given).known == 0
    assert len((tmp_path / "stopped" / JOURNAL).read_text().splitlines()) == 12
    (tmp_path / "stopped" / JOURNAL).write_text("nonsense\n")
    with pytest.raises(DataError, match="not what a search or a sweep wrote"):
        swept(tmp_path / "stopped")


def test_the_budget_reverts_what_harms_and_no_more(tmp_path: Path) -> None:
    given = setting()
    ranked = swept(tmp_path, given=given).ranked
    held = hold_budget(given, ranked, given.subset, tmp_path, NoProgress())
    assert held.reverted == BY_HARM == held.keep_float
    assert held.float_miou - held.miou <= 0.02 < held.float_miou - held.int8_miou
    assert dict(held.trials)[1] < 0.98 <= dict(held.trials)[2] and 6 not in dict(held.trials)
    assert held.coverage_before.share == 1.0
    assert held.coverage_after.share == pytest.approx(1 - 2 * 36 / (18 + 4 * 36 + 18))
    again = hold_budget(given, ranked, given.subset, tmp_path, Stops(0))
    assert again.to_json() == held.to_json()


def test_a_budget_that_holds_reverts_nothing(tmp_path: Path) -> None:
    given = setting(max_miou_drop=0.9, keep_float=("head",))
    held = hold_budget(given, swept(tmp_path, given=given).ranked, given.subset, tmp_path, NoProgress())
    assert held.reverted == () and held.keep_float == ("head",) and held.miou == held.int8_miou


def test_a_budget_against_the_coverage_gate_fails_and_says_what_it_would_take(tmp_path: Path) -> None:
    given = setting(min_coverage=0.9)
    ranked = swept(tmp_path, given=given).ranked
    with pytest.raises(GateFailed, match="2 layers would stay float") as failed:
        hold_budget(given, ranked, given.subset, tmp_path, NoProgress())
    assert failed.value.report["keep_float"] == list(BY_HARM) and failed.value.report["drop"] <= 0.02


def test_picture_and_page_name_what_was_reverted(tmp_path: Path) -> None:
    from edgeseg.int8_study.sensitivity_study import table_of

    given = setting()
    found = swept(tmp_path, given=given)
    table = table_of(given, found)
    table["budget"] = hold_budget(given, found.ranked, given.subset, tmp_path, NoProgress()).to_json()
    json.dumps(table, allow_nan=False)
    picture = draw_sensitivity(table)
    assert picture.startswith(b"\x89PNG")
    page = sensitivity_page(table, picture).decode()
    assert (
        '<tr class="level"><td>blocks.0.two</td>' in page
        and "2 layers float" in page
        and "3 validation images" in page
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_scores_add_up_to_the_metrics_of_all_images(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    confusion, total, noise, signal = ConfusionMatrix(3), None, 0.0, 0.0
    for _ in range(images):
        mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (8, 6))
        reference = torch.from_numpy(rng.normal(size=(1, 3, 4, 3)))
        logits = reference + torch.from_numpy(rng.normal(size=(1, 3, 4, 3)))
        own = score(logits, reference, mask, LABELS)
        total = own if total is None else total + own
        confusion.update(mask, np.repeat(np.repeat(logits[0].argmax(0).numpy().astype(np.uint8), 2, 0), 2, 1))
        noise += float((logits - reference).square().sum())
        signal += float(reference.square().sum())
    assert total is not None
    total = Score.from_json(json.loads(json.dumps(total.to_json())))
    assert total.miou == pytest.approx(confusion.miou(), nan_ok=True)
    assert total.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    assert (
        0 <= total.agreement <= 1 and score(reference, reference, mask, LABELS).figures()["sqnr_db"] is None
    )
