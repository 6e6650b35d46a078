"""What quantization must do to every row of the model catalogue. Nano rows run; full sizes with `slow`."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from edgeseg.int8.calibrate import calibrate
from edgeseg.int8.coverage import OTHER, coverage
from edgeseg.int8.insert import insert_quantizers
from edgeseg.int8.rules import quantizers
from edgeseg.int8.scales import load_scales, scales
from edgeseg.metrics import sqnr_db
from edgeseg.models.catalog import CATALOGUE, build_model
from edgeseg.models.layers import Product
from edgeseg.models.segmentor import Segmentor
from edgeseg.recipe.schema import Calibration, Quant
from edgeseg.rewrite.form import Deployed, deploy
from edgeseg.specs import Form, QuantHints
from golden_rule import fill

SIZE_HW = (64, 128)
NANO = [name for name in CATALOGUE if name.endswith("_nano")]
EVERY = [*NANO, *(pytest.param(name, marks=pytest.mark.slow) for name in CATALOGUE if name not in NANO)]
LEARNED = ["edaformer_nano", "segformer_nano", "vwformer_nano"]
"""Each decoder also has a form with learned upsampling."""
INT8 = Quant(
    calibration=Calibration(images="none", method="max"),
    attention="int8",
    min_coverage=0.0,
    max_miou_drop=1.0,
    qat=None,
)
FLOAT_ATTENTION = INT8.model_copy(update={"attention": "float"})


def deployed(name: str, upsample: str = "bilinear") -> tuple[Segmentor, Deployed, QuantHints]:
    """The float model, its deployed form, and what that says of itself."""
    options = {} if upsample == "bilinear" else {"upsample": upsample}
    model = fill(build_model(name, 5, **options)).eval()
    result = deploy(model, model.image_spec(SIZE_HW), Form.QDQ)
    assert isinstance(result.model, Segmentor)
    return model, result, result.model.quant_hints()


@lru_cache
def quantized(name: str, upsample: str = "bilinear") -> tuple[Segmentor, Deployed, QuantHints]:
    """With every quantizer in, and calibrated. Tests leave it so."""
    model, result, hints = deployed(name, upsample)
    insert_quantizers(result.model, hints, INT8)
    calibrate(result.model, images(result), INT8)
    return model, result, hints


def images(result: Deployed) -> list[Tensor]:
    """Two images as the deployed model takes them; its own division lies in its first convolution."""
    std = 57.0 if result.image.std_rgb == (1.0, 1.0, 1.0) else 1.0
    return [
        std * torch.randn(1, 3, *SIZE_HW, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]


def weighty(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


CASES = [*((name, "bilinear") for name in NANO), *((name, "lda_aqu") for name in LEARNED)]


@pytest.mark.parametrize(("name", "upsample"), CASES)
def test_every_layer_and_product_has_its_quantizers_and_nothing_else_has_any(
    name: str, upsample: str
) -> None:
    _, result, hints = quantized(name, upsample)
    on: dict[str, set[str]] = {}
    for layer, role, quantizer in quantizers(result.model):
        if quantizer.is_enabled:
            on.setdefault(layer, set()).add(role)
    kept = {layer for layer, _ in hints.keep_float}
    products = {name for name, module in result.model.named_modules() if isinstance(module, Product)}
    expected = {layer: {"input", "weight"} for layer in weighty(result.model) - kept}
    expected |= {product: {"a", "b"} for product in products - kept}
    for layer in set(hints.outputs) - kept:
        expected[layer] = expected[layer] | {"output"}
    assert on == expected
    assert products == set(hints.products)
    assert kept <= weighty(result.model) | products
    norms = {name for name, module in result.model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert not norms & {layer for layer, _, _ in quantizers(result.model)}
    assert (hints.first, hints.classifier) == (first_conv_of(result.model), "decoder.classifier")


def first_conv_of(model: nn.Module) -> str:
    (name,) = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.in_channels == 3 and "encoder" in name
    ]
    return name


@pytest.mark.parametrize(("name", "upsample"), CASES)
@torch.inference_mode()
def test_the_deployed_form_is_the_model_has_no_batch_norm_and_runs_all_of_its_layers(
    name: str, upsample: str
) -> None:
    model, result, _ = deployed(name, upsample)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.model.modules())
    called: set[str] = set()
    named = {**{n: result.model.get_submodule(n) for n in weighty(result.model)}}
    for layer, module in named.items():
        module.register_forward_hook(lambda *_, layer=layer: called.add(layer))
    (x, _) = images(result)
    expected = model(x / torch.tensor(model.encoder.std_rgb)[:, None, None])
    assert (result.model(x) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert called == set(named)


@pytest.mark.parametrize("name", EVERY)
def test_coverage_counts_every_multiply_add_once(name: str) -> None:
    _, result, hints = deployed(name)
    covered = coverage(result.model, hints, FLOAT_ATTENTION, SIZE_HW)
    by_hand: dict[str, int] = {}

    def count(layer: str, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        per_value = inputs[0].shape[-1] if isinstance(module, Product) else module.weight[0].numel()
        by_hand[layer] = out.numel() * int(per_value)

    for layer in (*weighty(result.model), *hints.products):
        result.model.get_submodule(layer).register_forward_hook(
            lambda *args, layer=layer: count(layer, *args)
        )
    with torch.inference_mode():
        result.model(images(result)[0])
    counted = {layer.name: layer.macs for layer in covered.layers}
    assert counted.pop(OTHER, 0) == 0
    assert counted == by_hand
    assert covered.macs == sum(by_hand.values())
    products = sum(by_hand[product] for product in hints.products)
    kept = sum(by_hand[layer] for layer, _ in hints.keep_float if layer not in hints.products)
    assert covered.share == pytest.approx(1 - (products + kept) / covered.macs)
    convolutions = {layer: result.model.get_submodule(layer) for layer in by_hand}
    single = [
        n
        for n, module in convolutions.items()
        if isinstance(module, nn.Conv2d) and module.groups > 1 == module.weight.shape[1]
    ]
    assert covered.depthwise_share == pytest.approx(sum(by_hand[layer] for layer in single) / covered.macs)
    assert all(layer.reason for layer in covered.layers if layer.precision == "float")
    assert not any(layer.reason for layer in covered.layers if layer.precision == "int8")


@pytest.mark.parametrize(("name", "upsample"), CASES)
@torch.inference_mode()
def test_int8_is_near_the_float_model_and_not_it(name: str, upsample: str) -> None:
    model, result, _ = quantized(name, upsample)
    (x, _) = images(result)
    expected = model(x / torch.tensor(model.encoder.std_rgb)[:, None, None])
    assert 10.0 < sqnr_db(expected.numpy(), result.model(x).numpy()) < 60.0


@pytest.mark.parametrize("name", NANO)
def test_gradients_reach_every_weight_through_the_quantizers(name: str) -> None:
    _, result, _ = quantized(name)
    model = result.model.requires_grad_(True)
    model.zero_grad()
    try:
        model(images(result)[0]).square().mean().backward()
        unreached = [
            key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
        ]
        assert not [key for key in unreached if key.endswith("weight")]
    finally:
        model.zero_grad()
        model.requires_grad_(False)


@pytest.mark.parametrize("name", NANO)
@torch.inference_mode()
def test_scales_travel_to_another_copy_of_the_model(name: str) -> None:
    _, result, hints = quantized(name)
    _, fresh, _ = deployed(name)
    insert_quantizers(fresh.model, hints, INT8)
    values = scales(result.model)
    assert all((value > 0).all() and torch.isfinite(value).all() for value in values.values())
    load_scales(fresh.model, values)
    assert all(torch.equal(value, values[key]) for key, value in scales(fresh.model).items())
    (x, _) = images(result)
    assert torch.equal(fresh.model(x), result.model(x))
