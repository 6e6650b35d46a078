"""Each rewrite of VWFormer's decoder keeps the answer: checked in float64, where rounding cannot hide a wrong
identity.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.models.layers import BatchNorm2d, to_nhwc
from edgeseg.models.vwformer import NormedConv, VwDecoder
from edgeseg.models.windows import context_windows, copy_shift_pad, query_windows
from edgeseg.rewrite.rewrites import Choices
from edgeseg.rewrite.simplify_vw import (
    BranchAggregation,
    BranchRefinement,
    MergedMultiScale,
    TransposedEmbedding,
    cut,
    cut_queries,
    simplify_vw,
)
from golden_rule import fill

EXACT = 1e-12
CHANNELS = (4, 8, 12, 16)

SMALL = {"width": 16, "ratios": (2, 4)}
# Options, and the size of the map, in other words how its windows lie on the cells that are projected once.
CASES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    (
        {},
        (64, 64),
    ),  # 8x8 windows of 8x8 pixels: whole cells at every ratio; at ratio 8 the context is the whole map
    ({"heads": 4}, (64, 64)),
    ({}, (24, 32)),  # of 4x4 pixels, 6x8: whole cells at ratios 2 and 4; at ratio 8 larger than the map
    (SMALL, (48, 16)),  # of 6x2: whole cells at ratio 2 alone
    ({**SMALL, "heads": 4}, (48, 16)),
    ({**SMALL, "shortcut": False}, (8, 40)),  # of 1x5: none
    ({**SMALL, "image_pool": False}, (32, 64)),
    ({"width": 36, "ratios": (2, 3), "heads": 2}, (24, 48)),
    (
        {"width": 49, "ratios": (7,)},
        (49, 63),
    ),  # of 7x7, 7x9: the context is as large as the map along one side alone
]


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def feats(height: int, width: int) -> list[Tensor]:
    """Maps whose second one, at stride 8, has this size."""
    return [noise(1, c, *(2 * side >> i for side in (height, width))) for i, c in enumerate(CHANNELS)]


def decoder(**options: Any) -> VwDecoder:
    return fill(VwDecoder(CHANNELS, 5, **{"width": 64, "low_width": 8, **options})).double().eval()


def difference(a: nn.Module, b: nn.Module, *inputs: object) -> float:
    expected = a(*inputs)
    return float((expected - b(*inputs)).abs().max() / expected.abs().max())


def test_branches() -> None:
    plain = decoder()
    maps = feats(16, 24)
    assert difference(plain.aggregate, BranchAggregation(copy.deepcopy(plain.aggregate)), maps[1:]) < EXACT
    x = plain.aggregate(maps[1:])
    assert difference(plain.refine, BranchRefinement(copy.deepcopy(plain.refine)), x, maps[0]) < EXACT


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 8])
def test_transposed_embedding(kernel: int) -> None:
    plain = fill(NormedConv(16, 3, kernel)).double().eval()
    x = noise(2, 16, 12, 10)
    assert (to_nhwc(plain(x)) - TransposedEmbedding(copy.deepcopy(plain))(x)).abs().max() < EXACT


@pytest.mark.parametrize("join_queries", [True, False])
@pytest.mark.parametrize(("options", "size_hw"), CASES, ids=str)
def test_multi_scale(options: dict[str, Any], size_hw: tuple[int, int], join_queries: bool) -> None:
    plain = decoder(**options).mix
    x = noise(1, plain.fuse.conv.out_channels, *size_hw)
    merged = MergedMultiScale(copy.deepcopy(plain), join_queries=join_queries)
    assert difference(plain, merged, x) < EXACT
    joined = {attention.query is None for attention in merged.windows}
    assert joined == {join_queries and options.get("heads", 1) == 1}


def test_cut_tokens_are_those_of_the_context_windows() -> None:
    x, grid, ratio = noise(1, 32, 16, 3), (8, 4), 4
    expected = context_windows(x, grid, ratio)
    padded = copy_shift_pad(copy_shift_pad(x, 1, 8, ratio), 2, 4, ratio)
    height, width = (side // ratio for side in padded.shape[1:3])
    whole = padded.reshape(1, height, ratio, width, ratio, 3).transpose(2, 3).reshape(1, height, width, -1)
    ours = (
        cut(whole, grid, ratio).reshape(1, 32, 4, 4, -1).transpose(2, 3).flatten(2, 3)
    )  # columns of tokens to rows
    assert torch.equal(ours, expected)


def test_cut_queries() -> None:
    x = noise(2, 3, 24, 16)
    assert torch.equal(cut_queries(x, (8, 4)), query_windows(to_nhwc(x), (8, 4)))


def test_the_whole_decoder_and_what_is_left_of_it() -> None:
    plain = decoder()
    simple = copy.deepcopy(plain)
    simplify_vw(simple, Choices())
    assert difference(plain, simple, feats(24, 40)) < EXACT
    assert {BranchAggregation, MergedMultiScale, BranchRefinement} <= {
        type(module) for module in simple.modules()
    }
    assert not any(isinstance(module, BatchNorm2d) for module in simple.modules())


def test_learned_upsampling_is_kept() -> None:
    plain = decoder(**SMALL, upsample="lda_aqu")
    simple = copy.deepcopy(plain)
    simplify_vw(simple, Choices())
    assert difference(plain, simple, feats(24, 40)) < EXACT
    assert isinstance(simple.mix, MergedMultiScale)


def test_at_most_half_of_the_multiply_adds_are_left() -> None:
    plain = VwDecoder((32, 64, 160, 256), 19).eval()
    simple = copy.deepcopy(plain)
    simplify_vw(simple, Choices())
    macs = []
    for model in (plain, simple):
        maps = [
            torch.empty(1, c, 128 >> i, 128 >> i, device="meta") for i, c in enumerate((32, 64, 160, 256))
        ]
        with FlopCounterMode(display=False) as counter:
            model.to("meta")(maps)
        macs.append(counter.get_total_flops())
    assert macs[1] < 0.5 * macs[0]


def test_float32() -> None:
    plain = decoder().float()
    simple = copy.deepcopy(plain)
    simplify_vw(simple, Choices())
    assert difference(plain, simple, [x.float() for x in feats(64, 64)]) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
def test_openvino_agrees() -> None:
    """OpenVINO 2026.4 gives wrong numbers where the pooled vector is added to the windows instead of the
    map.
    """
    import openvino

    model = decoder().float().mix
    simple = MergedMultiScale(copy.deepcopy(model))
    x = noise(1, 64, 16, 24).float()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(simple.requires_grad_(False), (x,), buffer, dynamo=False, opset_version=17)
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(buffer.getvalue()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    theirs = next(iter(compiled({0: x.numpy()}).values()))
    expected = model(x).numpy()
    assert np.abs(theirs - expected).max() < 1e-5 * np.abs(expected).max()
