"""SegFormer's rewrites keep the answer, checked in float64; its programs hold what they should, and say what
torch says.
"""

from __future__ import annotations

import collections
import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeseg.export.parity.float import compare
from edgeseg.export.program import export_program
from edgeseg.models.layers import ConvFFN
from edgeseg.models.mit import EfficientAttention, mit
from edgeseg.models.reference import TorchReference
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.segmentor import Segmentor
from edgeseg.rewrite.rewrites import Choices, MapFFN
from edgeseg.rewrite.simplify import first_conv, simplify
from edgeseg.rewrite.simplify_segformer import LeanAttention, MergedDecoder, simplify_decoder
from edgeseg.specs import Form, ImageSpec, IsrPlan, LabelSpace
from edgeseg.synthetic.scene import Scene
from golden_rule import fill

EXACT = 1e-12
FORBIDDEN = {
    "Loop",
    "If",
    "Scan",
    "Range",
    "NonZero",
    "Shape",
    "Gather",
    "ScatterND",
    "ReduceMean",
    "Pow",
    "BatchNormalization",
}
CLASSES = 5
CHANNELS = (8, 16, 24, 32)
PLANS = [IsrPlan((1, 1, 1, 1), ()), IsrPlan((2, 2, 1, 1), ())]


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def feats() -> list[Tensor]:
    return [noise(1, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]


def difference(a: nn.Module, b: nn.Module, *inputs: object) -> float:
    return float((a(*inputs) - b(*inputs)).abs().max())


def nano(plan: IsrPlan = PLANS[0], branch_norm: bool = False) -> Segmentor:
    encoder = mit("nano")
    model = fill(
        Segmentor(encoder, SegformerDecoder(encoder.channels, CLASSES, 16, branch_norm=branch_norm))
    ).eval()
    model.set_isr(plan)
    return model


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("heads", [1, 4])
def test_lean_attention(heads: int, ratio: int, multiplier: int) -> None:
    plain = fill(EfficientAttention(16, heads, ratio)).double()
    plain.multiplier = multiplier
    lean = LeanAttention(copy.deepcopy(plain))
    assert lean.k.bias is None
    assert isinstance(lean.proj, nn.Identity) == (heads == 1)
    assert difference(plain, lean, noise(2, 8, 4, 16)) < EXACT


@pytest.mark.parametrize("branch_norm", [False, True])
def test_merged_decoder(branch_norm: bool) -> None:
    plain = fill(SegformerDecoder(CHANNELS, CLASSES, 12, branch_norm=branch_norm)).double().eval()
    merged = simplify_decoder(copy.deepcopy(plain), Choices())
    assert isinstance(merged, MergedDecoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in merged.modules())
    assert difference(plain, merged, feats()) < EXACT


def test_a_learned_upsampling_keeps_the_decoder_as_it_is() -> None:
    decoder = SegformerDecoder(CHANNELS, CLASSES, 12)
    decoder.upsample = nn.ModuleList(nn.Sequential(nn.Conv2d(12, 12, 3)) for _ in CHANNELS)
    assert simplify_decoder(decoder, Choices()) is decoder


@pytest.mark.parametrize("map_ffn", [False, True])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_whole_model(plan: IsrPlan, map_ffn: bool) -> None:
    plain = nano(plan).double()
    simple = copy.deepcopy(plain)
    simplify(simple, Choices(map_ffn=map_ffn))
    assert difference(plain, simple, noise(1, 3, 64, 128)) < 1e-10
    kinds = {type(module) for module in simple.modules()}
    assert {MapFFN if map_ffn else ConvFFN, LeanAttention, MergedDecoder} <= kinds
    assert not kinds & {ConvFFN if map_ffn else MapFFN, SegformerDecoder, nn.BatchNorm2d}


def test_the_first_convolution() -> None:
    model = nano()
    assert first_conv(model) is model.encoder.stages[0][0].conv


@pytest.mark.parametrize("form", [Form.CPU, Form.CPU_OPENVINO, Form.PLAIN])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_programs(tmp_path: Path, plan: IsrPlan, form: Form) -> None:
    model = nano(plan, branch_norm=form == Form.CPU_OPENVINO)
    size_hw = (64, 128)
    labels = LabelSpace(tuple(f"class{i}" for i in range(CLASSES)), ((0, 0, 0),) * CLASSES)
    program = export_program(
        model,
        image=ImageSpec(size_hw),
        labels=labels,
        mask_stride=4,
        arch="nano",
        out=tmp_path / "model.onnx",
        form=form,
    )
    graph = onnx.load(program.onnx_path).graph
    operators = collections.Counter(node.op_type for node in graph.node)
    assert not FORBIDDEN & set(operators)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert operators["LayerNormalization"] == len(norms)
    scene = Scene(0, size_hw).frame(0)[0]
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    compare(TorchReference(model, program.image, 4), program, [scene, image])
