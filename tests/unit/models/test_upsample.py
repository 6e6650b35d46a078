"""Upsampling by name, and as an option of every decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.errors import RecipeError
from edgeseg.export.parity.float import compare
from edgeseg.export.parity.thresholds import FP32, FP32_SAMPLED, thresholds_of
from edgeseg.export.program import export_program
from edgeseg.models.catalog import CATALOGUE, build_model, model_options
from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.lda_aqu import LdaAqu
from edgeseg.models.reference import TorchReference
from edgeseg.models.segmentor import Segmentor
from edgeseg.models.upsample import KINDS, make_upsample
from edgeseg.rewrite.rewrites import Choices
from edgeseg.rewrite.simplify import simplify
from edgeseg.rewrite.simplify_edaformer import BranchDecoder
from edgeseg.specs import Form, LabelSpace
from golden_rule import fill

NUM_CLASSES = 3
SIZE_HW = (64, 96)
LABELS = LabelSpace(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
NANO = ["edaformer_nano", "segformer_nano", "vwformer_nano", "repsep_nano"]
"""One of each decoder."""


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def learned(name: str, **options: object) -> Segmentor:
    return build_model(name, NUM_CLASSES, upsample="lda_aqu", **options)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(
    channels=st.sampled_from([8, 24]),
    scale=st.sampled_from([1, 2, 4, 8]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
@torch.inference_mode()
def test_every_size_grows_by_the_scale(kind: str, channels: int, scale: int, height: int, width: int) -> None:
    x = noise(2, channels, height, width)
    upsample = make_upsample(kind, channels, scale)
    output = upsample(x)
    assert output.shape == (2, channels, scale * height, scale * width)
    assert output.isfinite().all()
    assert isinstance(upsample, nn.Identity) == (scale == 1)
    if kind == "bilinear":
        assert torch.equal(output, F.interpolate(x, size=output.shape[2:], mode="bilinear"))
    else:
        steps = [module for module in upsample.modules() if isinstance(module, LdaAqu)]
        assert 2 ** len(steps) == scale


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="'carafe'; it can be bilinear or lda_aqu"):
        make_upsample("carafe", 8, 1)
    with pytest.raises(ValueError, match="6 is no power of two"):
        make_upsample("lda_aqu", 8, 6)
    with pytest.raises(ValueError, match="12 channels"):
        make_upsample("lda_aqu", 12, 2)


def test_every_decoder_has_the_option() -> None:
    assert all(model_options(name)["upsample"] == "bilinear" for name in CATALOGUE)
    for name in NANO:
        with pytest.raises(RecipeError, match="option upsample: must be bilinear or lda_aqu, not 'carafe'"):
            build_model(name, NUM_CLASSES, upsample="carafe")


@pytest.mark.parametrize("name", NANO)
def test_the_decoder_leaves_it_its_own_initialisation(name: str) -> None:
    torch.manual_seed(0)
    modules = [module for module in learned(name).decoder.modules() if isinstance(module, LdaAqu)]
    assert modules
    for module in modules:
        assert not module.shift.weight.any()
        for conv in (module.query, module.key, module.shift_conv):
            fans = sum(conv.weight.shape[:2]) * conv.weight[0, 0].numel()
            assert conv.weight.abs().max() <= (6 / fans) ** 0.5, "Xavier's bound"
        assert 0.005 < module.position.weight.std() < 0.04


@pytest.mark.parametrize("name", NANO)
def test_gradients_reach_every_parameter_of_it(name: str) -> None:
    model = fill(learned(name)).eval()
    model(noise(1, 3, *SIZE_HW)).square().mean().backward()
    parameters = [
        (prefix, p)
        for prefix, module in model.decoder.named_modules()
        if isinstance(module, LdaAqu)
        for p in module.parameters()
    ]
    assert [prefix for prefix, p in parameters if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("form", "opset"), [("onnxruntime", 17), pytest.param("plain", 20, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name", ["edaformer_nano", *(pytest.param(name, marks=pytest.mark.slow) for name in NANO[1:])]
)
def test_the_exported_program_says_what_the_model_says(
    name: str, form: Form, opset: int, tmp_path: Path
) -> None:
    model = fill(learned(name)).eval()
    spec = model.image_spec(SIZE_HW)
    program = export_program(
        model,
        image=spec,
        labels=LABELS,
        mask_stride=4,
        arch=name,
        out=tmp_path / "model.onnx",
        opset=opset,
        form=form,
    )
    graph = onnx.load(program.onnx_path)
    operators = {node.op_type for node in graph.graph.node}
    # ONNX Runtime reads single pixels slowly; its form holds matrix products instead.
    assert ("GridSample" in operators) == (form == Form.PLAIN)
    assert not operators & {
        "Loop",
        "If",
        "Range",
        "NonZero",
        "Shape",
        "Gather",
        "GatherND",
        "ScatterND",
        "BatchNormalization",
    }
    assert thresholds_of(graph, model) == FP32_SAMPLED
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    compare(TorchReference(model, spec, 4), program, [image])


@torch.inference_mode()
def test_edaformer_is_fused_before_its_resize_only_where_both_commute() -> None:
    plain = fill(learned("edaformer_nano")).double().eval()
    simple = fill(learned("edaformer_nano")).double().eval()
    simplify(simple, Choices(map_ffn=True))
    assert isinstance(simple.decoder, EdaDecoder)
    assert not [module for module in simple.modules() if isinstance(module, nn.BatchNorm2d)]
    x = noise(1, 3, *SIZE_HW).double()
    assert (plain(x) - simple(x)).abs().max() < 1e-10
    bilinear = build_model("edaformer_nano", NUM_CLASSES).eval()
    simplify(bilinear, Choices(map_ffn=True))
    assert isinstance(bilinear.decoder, BranchDecoder)


def test_a_model_without_it_keeps_the_tighter_threshold() -> None:
    assert thresholds_of(onnx.ModelProto(), build_model("edaformer_nano", NUM_CLASSES)) == FP32
