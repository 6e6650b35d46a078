"""Placement, calibration, scales and coverage on a model that is small enough to know by heart."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeseg.cli.bundle_show import _share
from edgeseg.errors import BuildError, DataError, GateFailed, MissingDependency, RecipeError
from edgeseg.int8.calibrate import calibrate
from edgeseg.int8.coverage import coverage
from edgeseg.int8.insert import insert_quantizers
from edgeseg.int8.rules import decide, quantizers
from edgeseg.int8.scales import float_state, freeze, load_scales, scales
from edgeseg.models.layers import Product
from edgeseg.recipe.schema import Calibration, Quant
from edgeseg.specs import QuantHints

SIZE_HW = (8, 8)
TRAPS = ("proj_out", "output_layer", "lm_head", "router", "visual", "output")
"""Names that modelopt's own configurations leave float without a word."""


class Small(nn.Module):
    """Convolutions under treacherous names, an attention, a norm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleDict({name: nn.Conv2d(8, 8, 1) for name in TRAPS})
        self.scores, self.weighted = Product(), Product()
        self.classifier = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks.values():
            x = block(x.relu())
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        y: Tensor = self.weighted(self.scores(tokens, tokens.transpose(1, 2)).softmax(-1), tokens)
        logits: Tensor = self.classifier(y)
        return logits


HINTS = QuantHints(
    ("scores", "weighted"), (("blocks.router", "for its own reason"),), ("stem",), "stem", "classifier"
)


def settings(**changes: Any) -> Quant:
    calibration = Calibration(images="none", method=changes.pop("method", "max"))
    return Quant(
        **{
            "calibration": calibration,
            "attention": "float",
            "min_coverage": 0.0,
            "max_miou_drop": 1.0,
            "qat": None,
            **changes,
        }
    )


def images(count: int) -> list[Tensor]:
    return [
        torch.randn(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(seed)) for seed in range(count)
    ]


def inserted(**changes: Any) -> Small:
    model = Small().eval()
    insert_quantizers(model, HINTS, settings(**changes))
    return model


def on(model: nn.Module) -> set[str]:
    return {f"{layer}.{role}" for layer, role, quantizer in quantizers(model) if quantizer.is_enabled}


def test_names_do_not_decide() -> None:
    quantized = {"stem", "classifier", *(f"blocks.{name}" for name in TRAPS)} - {"blocks.router"}
    assert on(inserted()) == {f"{layer}.{role}" for layer in quantized for role in ("input", "weight")} | {
        "stem.output"
    }


@pytest.mark.parametrize(
    ("changes", "layer", "reason"),
    [
        ({}, "scores", "quant.attention: float"),
        ({}, "blocks.router", "for its own reason"),
        ({"first_conv": "float"}, "stem", "quant.first_conv: float"),
        ({"classifier": "float"}, "classifier", "quant.classifier: float"),
        ({"keep_float": ("blocks.v*",)}, "blocks.visual", "quant.keep_float: blocks.v*"),
        ({"attention": "int8", "keep_float": ("weighted",)}, "weighted", "quant.keep_float: weighted"),
    ],
)
def test_each_choice_of_the_recipe_makes_its_layer_float_and_says_so(
    changes: dict[str, Any], layer: str, reason: str
) -> None:
    decision = decide(Small(), HINTS, settings(**changes))[layer]
    assert decision.precision == "float"
    assert reason in decision.reason


def test_attention_int8_rounds_both_sides_of_both_products() -> None:
    assert on(inserted(attention="int8")) - on(inserted()) == {
        "scores.a",
        "scores.b",
        "weighted.a",
        "weighted.b",
    }


def test_a_layer_without_an_integer_form_is_named_unless_it_is_kept_float() -> None:
    model = nn.ModuleDict(
        {"up": nn.ConvTranspose2d(4, 4, 2, 2), "cells": nn.LSTM(4, 4), "conv": nn.Conv2d(4, 4, 1)}
    )
    with pytest.raises(BuildError, match=r"up \(ConvTranspose2d\), cells \(LSTM\)") as caught:
        decide(model, QuantHints(), settings())
    assert caught.value.hint == 'keep it float: quant.keep_float: ["up", "cells"]'
    decisions = decide(model, QuantHints(), settings(keep_float=("up", "ce*")))
    assert {name: decision.precision for name, decision in decisions.items()} == {
        "up": "float",
        "cells": "float",
        "conv": "int8",
    }


def test_a_pattern_without_a_layer_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no layer is named 'classifer'") as caught:
        decide(Small(), HINTS, settings(keep_float=("classifer",)))
    assert "classifier" in caught.value.hint


def test_quantizers_go_in_once_and_after_batch_norm_is_folded() -> None:
    with pytest.raises(ValueError, match="already"):
        insert_quantizers(inserted(), HINTS, settings())
    with pytest.raises(ValueError, match="BatchNorm"):
        insert_quantizers(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), QuantHints(), settings())


def test_modelopt_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(MissingDependency, match="modelopt") as caught:
        inserted()
    assert caught.value.hint == "pip install 'edgeseg[quant]'"
    assert not capsys.readouterr().out


def test_the_model_does_not_run_before_it_has_ranges() -> None:
    with pytest.raises(RuntimeError, match="calibrate"):
        inserted()(images(1)[0])
    with pytest.raises(ValueError, match=r"stem.*no range"):
        scales(inserted())


def test_ranges_are_what_the_float_model_shows(capsys: pytest.CaptureFixture[str]) -> None:
    model, batch, done = inserted(), images(8), []
    report = calibrate(model, batch, settings(), done.append)
    plain = Small().eval()
    stems = [plain.stem(x) for x in batch]
    assert report.ranges["stem.input"].largest == max(float(x.abs().max()) for x in batch)
    assert report.ranges["stem.output"].amax == pytest.approx(
        max(y.abs().max().item() for y in stems), rel=1e-6
    )
    assert (report.images, report.notes, done) == (8, (), list(range(1, 9)))
    found = scales(model)
    assert torch.equal(found["stem.weight_scale"], plain.stem.weight.abs().amax((1, 2, 3)) / 127)
    assert found["stem.input_scale"] == torch.tensor(report.ranges["stem.input"].amax) / 127
    assert not capsys.readouterr().out


def test_no_image_one_image_and_an_activation_that_never_lives() -> None:
    with pytest.raises(DataError, match="no images"):
        calibrate(inserted(), [], settings())
    model = inserted()
    with torch.no_grad():
        model.stem.weight.zero_()
        model.stem.bias.fill_(-1.0)
    report = calibrate(model, images(1), settings())
    assert report.notes[0] == "1 image is few to find ranges with: take 64 or more"
    assert report.notes[1].startswith("nothing but zeros was seen by blocks.proj_out.input:")
    assert all((scale > 0).all() and scale.isfinite().all() for scale in scales(model).values())


@pytest.mark.parametrize(
    ("poison", "told"),
    [
        (
            lambda model, batch: batch[1].fill_(torch.nan),
            "the input of stem is not finite at calibration image 2",
        ),
        (
            lambda model, batch: model.blocks["visual"].bias.data.fill_(torch.inf),
            "the input of blocks.output is not finite",
        ),
        (
            lambda model, batch: model.classifier.bias.data.fill_(torch.nan),
            "the model's logits is not finite",
        ),
    ],
)
def test_what_is_not_finite_is_named_and_the_model_is_as_before(poison: Any, told: str) -> None:
    model, batch = inserted(), images(3)
    calibrate(model, batch, settings())
    before = scales(model)
    poison(model, batch)
    with pytest.raises(DataError, match=told):
        calibrate(model, batch, settings())
    assert all(torch.equal(value, before[name]) for name, value in scales(model).items())
    assert torch.isfinite(model.stem(images(1)[0])).all()  # it rounds again


def test_channels_of_zeros_get_a_scale() -> None:
    model = inserted()
    with torch.no_grad():
        model.blocks["output"].weight[3].zero_()
        model.classifier.weight.zero_()
    calibrate(model, images(2), settings())
    found = scales(model)
    assert found["blocks.output.weight_scale"][3] == found["blocks.output.weight_scale"].max()
    assert (found["classifier.weight_scale"] == torch.tensor(1.0) / 127).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("stem.input_scale"), "missing: stem.input_scale"),
        (lambda s: s.update({"norm.input_scale": torch.tensor(1.0)}), "unexpected: norm.input_scale"),
        (lambda s: s.update({"stem.weight_scale": torch.ones(7)}), r"stem.weight_scale \(7,\), model \(8,\)"),
        (lambda s: s["stem.weight_scale"].__setitem__(0, 0.0), "not positive: stem.weight_scale"),
        (lambda s: s["stem.weight_scale"].__setitem__(0, torch.nan), "not positive: stem.weight_scale"),
    ],
)
def test_scales_that_do_not_fit_are_refused_whole(change: Any, told: str) -> None:
    model = inserted()
    calibrate(model, images(2), settings())
    before = scales(model)
    values = {name: 2 * value for name, value in before.items()}
    change(values)
    with pytest.raises(DataError, match=told):
        load_scales(model, values)
    assert all(torch.equal(value, before[name]) for name, value in scales(model).items())


def test_learned_ranges_become_plain_again_and_weights_hold_no_quantizer_state() -> None:
    model = inserted()
    calibrate(model, images(2), settings())
    before = scales(model)
    for _, _, quantizer in quantizers(model):
        if quantizer.amax is not None:
            amax = quantizer.amax
            del quantizer._amax
            quantizer._amax = nn.Parameter(amax)
    model(images(1)[0]).square().mean().backward()
    assert model.stem.input_quantizer.amax.grad.abs() > 0
    freeze(model)
    assert all(torch.equal(value, before[name]) for name, value in scales(model).items())
    assert (
        set(float_state(model)) == set(Small().state_dict()) == {name for name, _ in model.named_parameters()}
    )


def test_coverage_and_its_gate() -> None:
    model = inserted(min_coverage=0.5)
    found = coverage(model, HINTS, settings(), SIZE_HW)
    macs = {
        "stem": 64 * 8 * 27,
        **{f"blocks.{name}": 64 * 64 for name in TRAPS},
        "scores": 64 * 64 * 8,
        "weighted": 64 * 64 * 8,
    }
    macs["classifier"] = 64 * 8 * 4
    assert {layer.name: layer.macs for layer in found.layers} == macs
    floats = ("scores", "weighted", "blocks.router")
    assert [layer.name for layer in found.floats] == list(floats)
    assert found.share == pytest.approx(1 - sum(macs[name] for name in floats) / sum(macs.values()))
    found.check(settings(min_coverage=found.share))
    with pytest.raises(GateFailed, match=r"scores \(30.*quant.attention: float") as caught:
        found.check(settings(min_coverage=0.9))
    assert caught.value.report["share"] == found.share
    before = coverage(Small(), HINTS, settings(), SIZE_HW)
    assert before == found


def test_the_share_of_depthwise_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.Conv2d(8, 8, 1, groups=2)
    )
    found = coverage(model, QuantHints(), settings(), SIZE_HW)
    assert found.depthwise_share == pytest.approx(8 * 9 / (4 * 3 + 8 * 9 + 8 * 4))
    assert (_share(found.to_json(), "qdq"), _share(found.to_json(), "half")) == (
        1.0,
        1.0 - found.depthwise_share,
    )
    assert _share({"share": 1.0}, "half") is None, "a bundle of before"


def test_coverage_says_what_is_switched_off_not_what_was_planned() -> None:
    model = inserted()
    model.stem.input_quantizer.disable()
    model.stem.output_quantizer.disable()
    (stem,) = [layer for layer in coverage(model, HINTS, settings(), SIZE_HW).layers if layer.name == "stem"]
    assert (stem.precision, stem.reason) == ("float", "its quantizers were switched off")
