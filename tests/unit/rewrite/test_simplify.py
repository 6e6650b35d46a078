"""Each rewrite keeps the answer: checked in float64, where rounding cannot hide a wrong identity."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgeseg.models import build_model
from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import EmbeddingFreeAttention
from edgeseg.models.layers import ConvFFN, FoldableNorms
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.segmentor import Encoder, Segmentor
from edgeseg.rewrite.rewrites import (
    Choices,
    MapFFN,
    fold_batch_norm,
    fold_input_scale,
    pad_hidden,
    rewritten,
)
from edgeseg.rewrite.simplify import first_conv, simplify
from edgeseg.rewrite.simplify_edaformer import (
    BranchDecoder,
    SingleHeadAttention,
    fold_attention_scale,
    fold_key_bias,
)
from edgeseg.specs import IsrPlan
from golden_rule import fill

EXACT = 1e-12


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def difference(a: nn.Module, b: nn.Module, *inputs: object) -> float:
    return float((a(*inputs) - b(*inputs)).abs().max())


def attention(heads: int, *, key_norm: bool = False) -> EmbeddingFreeAttention:
    return fill(EmbeddingFreeAttention(16, heads, 2, key_norm=key_norm)).double().eval()


@pytest.mark.parametrize("heads", [1, 4])
def test_key_bias(heads: int) -> None:
    plain = attention(heads)
    folded = copy.deepcopy(plain)
    fold_key_bias(folded)
    assert folded.key_conv.bias is None
    assert difference(plain, folded, noise(2, 8, 6, 16)) < EXACT


@pytest.mark.parametrize("bias_first", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_scale(heads: int, bias_first: bool) -> None:
    plain = attention(heads)
    folded = copy.deepcopy(plain)
    if bias_first:
        fold_key_bias(folded)
    fold_attention_scale(folded)
    assert folded.scale == 1.0
    assert difference(plain, folded, noise(2, 8, 6, 16)) < EXACT


@pytest.mark.parametrize("fold", [fold_key_bias, fold_attention_scale])
def test_a_normalisation_in_between_is_refused(fold: object) -> None:
    with pytest.raises(ValueError, match="lies between"):
        fold(attention(2, key_norm=True))  # type: ignore[operator]


@pytest.mark.parametrize("key_norm", [False, True])
def test_single_head_attention(key_norm: bool) -> None:
    plain = attention(1, key_norm=key_norm)
    assert difference(plain, SingleHeadAttention(plain), noise(2, 8, 6, 16)) < EXACT


def test_single_head_attention_wants_one_head() -> None:
    with pytest.raises(ValueError, match="4 heads"):
        SingleHeadAttention(attention(4))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("hidden", [30, 32, 33])
def test_hidden_padding_and_maps(hidden: int, relu: bool) -> None:
    plain = fill(ConvFFN(16, hidden, relu)).double()
    padded = copy.deepcopy(plain)
    pad_hidden(padded, 16)
    assert padded.fc1.out_features == padded.fc2.in_features == padded.dwconv.groups == -(-hidden // 16) * 16
    x = noise(2, 8, 6, 16)
    assert difference(plain, padded, x) < EXACT
    assert difference(plain, MapFFN(padded), x) < EXACT


def decoder() -> EdaDecoder:
    return fill(EdaDecoder((8, 16, 24, 32), 8, 1.0, 12, 5)).double().eval()


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm(bias: bool) -> None:
    plain = fill(nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8))).double().eval()
    folded = copy.deepcopy(plain[0])
    fold_batch_norm(folded, plain[1])
    assert difference(plain, folded, noise(2, 3, 8, 6)) < EXACT


def test_branches() -> None:
    plain = decoder()
    feats = [noise(1, c, 64 // s, 96 // s) for c, s in zip((8, 16, 24, 32), (4, 8, 16, 32), strict=True)]
    assert difference(plain, BranchDecoder(copy.deepcopy(plain)), feats) < EXACT


def test_input_scale() -> None:
    conv = fill(nn.Conv2d(3, 8, 7, 4, 3)).double()
    folded = copy.deepcopy(conv)
    std = (58.4, 57.1, 12.0)
    fold_input_scale(folded, std)
    x = 255 * noise(1, 3, 32, 32)
    assert (
        float((conv(x / torch.tensor(std, dtype=x.dtype)[:, None, None]) - folded(x)).abs().max())
        < EXACT * 255
    )


def test_first_conv() -> None:
    model = build_model("edaformer_nano", 3)
    assert first_conv(model) is model.encoder.stages[0][0].conv
    assert first_conv(nn.Sequential(nn.Conv2d(3, 8, 3))) is None
    model.encoder.add_module("second", nn.Conv2d(3, 8, 3))
    assert first_conv(model) is None, "no convolution sees the image alone"


@pytest.mark.parametrize("map_ffn", [False, True])
@pytest.mark.parametrize("plan", [IsrPlan(), IsrPlan((2, 2, 1, 1), (2, 2, 2))])
def test_the_whole_model(plan: IsrPlan, map_ffn: bool) -> None:
    plain = fill(build_model("edaformer_nano", 5)).double().eval()
    plain.set_isr(plan)
    simple = copy.deepcopy(plain)
    simplify(simple, Choices(map_ffn=map_ffn))
    assert difference(plain, simple, noise(1, 3, 64, 128)) < 1e-10
    kinds = {type(module) for module in simple.modules()}
    assert {MapFFN if map_ffn else ConvFFN, BranchDecoder, SingleHeadAttention} <= kinds
    assert not kinds & {ConvFFN if map_ffn else MapFFN, EdaDecoder, nn.BatchNorm2d}


def test_the_reference_model_in_float32() -> None:
    plain = fill(build_model("edaformer_t", 19)).eval()
    simple = copy.deepcopy(plain)
    simplify(simple, Choices(map_ffn=True))
    hidden = {module.fc1.out_channels for module in simple.modules() if isinstance(module, MapFFN)}
    assert all(width % 16 == 0 for width in hidden)
    assert difference(plain, simple, noise(1, 3, 64, 96).float()) < 1e-5


def test_a_model_without_these_parts_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)).eval()
    before = copy.deepcopy(model)
    simplify(model, Choices(map_ffn=True))
    assert not isinstance(model, Segmentor)
    assert difference(before, model, noise(1, 3, 8, 8).float()) == 0.0


class Sketch(Encoder, FoldableNorms):
    """An encoder of another package, with a convolution that its BatchNorm follows."""

    channels, strides = (4, 4, 4, 4), (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 4, stride=4, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.avg_pool2d(self.norm(self.conv(x)), 2**k) for k in range(4)]


def test_a_part_says_its_own_rewrites_and_norms() -> None:
    seen: list[Choices] = []

    @rewritten.register
    def deployed(encoder: Sketch, choices: Choices) -> Encoder:
        seen.append(choices)
        return encoder

    plain = fill(Segmentor(Sketch(), SegformerDecoder((4, 4, 4, 4), 3, width=8))).eval()
    simple = copy.deepcopy(plain)
    simplify(simple, Choices(map_ffn=True))
    assert seen == [Choices(map_ffn=True)]
    assert isinstance(simple.encoder.norm, nn.Identity) and simple.encoder.conv.bias is not None
    assert difference(plain, simple, noise(1, 3, 64, 64).float()) < 1e-5
