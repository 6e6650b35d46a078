"""MiT and SegFormer: shapes, ISR plans, sizes, and what training reaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeseg.models.mit import EfficientAttention, mit
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import IsrPlan
from golden_rule import fill

BASE = IsrPlan((1, 1, 1, 1), ())
NUM_CLASSES = 5


@pytest.fixture(scope="module")
def nano() -> Segmentor:
    encoder = mit("nano")
    return fill(Segmentor(encoder, SegformerDecoder(encoder.channels, NUM_CLASSES, 16))).eval()


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@torch.inference_mode()
def test_maps_are_what_the_encoder_says(nano: Segmentor) -> None:
    encoder = nano.encoder
    maps = encoder(image(64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]


@settings(max_examples=15)
@given(data=st.data())
@torch.inference_mode()
def test_every_legal_plan_keeps_shape_and_weights(nano: Segmentor, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([(64, 64), (64, 128), (128, 192)]))
    plan = IsrPlan(tuple(data.draw(st.sampled_from(choice)) for choice in nano.isr_choices(size)), ())
    before = {key: tensor.clone() for key, tensor in nano.state_dict().items()}
    expected = nano(image(*size))
    nano.set_isr(plan)
    try:
        logits = nano(image(*size))
    finally:
        nano.set_isr(BASE)
    assert logits.shape == (1, NUM_CLASSES, size[0] // 4, size[1] // 4)
    assert torch.equal(logits, expected) == (plan == BASE)
    assert all(torch.equal(tensor, before[key]) for key, tensor in nano.state_dict().items())
    assert torch.equal(nano(image(*size)), expected)


def test_choices_are_exactly_the_multipliers_that_run(nano: Segmentor) -> None:
    size = (64, 96)
    for position, choices in enumerate(nano.isr_choices(size)):
        for multiplier in {1, 2, 3, 4}:
            plan = [1] * 4
            plan[position] = multiplier
            nano.set_isr(IsrPlan(tuple(plan), ()))
            try:
                with torch.inference_mode():
                    nano.encoder(image(*size))
                runs = True
            except ValueError:
                runs = False
            assert runs == (multiplier in choices), f"multiplier {multiplier} at position {position}"
    nano.set_isr(BASE)


def test_size_multiple_follows_the_plan(nano: Segmentor) -> None:
    assert nano.size_multiple_px == 32
    nano.set_isr(IsrPlan((2, 2, 1, 1), ()))
    try:
        assert nano.size_multiple_px == 64
        with pytest.raises(ValueError, match="not a multiple"):
            nano(image(96, 96))
    finally:
        nano.set_isr(BASE)


@torch.inference_mode()
def test_the_multiplier_averages_keys_and_values() -> None:
    attention = fill(EfficientAttention(16, 2, 2)).double()
    x = torch.randn(1, 16, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, v = attention.kv(attention.tokens(x)).reshape(1, 8, 4, 2, 16).unbind(3)  # (1, H / 2, W / 2, 16)
    attention.multiplier = 2
    pooled_k, pooled_v = attention.kv(attention.tokens(x)).chunk(2, dim=-1)
    for full, pooled in ((k, pooled_k), (v, pooled_v)):
        expected = F.avg_pool2d(full.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
        assert torch.allclose(pooled, expected, atol=1e-12, rtol=0)


@torch.inference_mode()
def test_attention_is_that_of_torch() -> None:
    attention = fill(EfficientAttention(16, 4, 1)).double()
    x = torch.randn(2, 4, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = x.flatten(1, 2)
    expected, _ = F.multi_head_attention_forward(
        *(tokens.transpose(0, 1),) * 3,
        embed_dim_to_check=16,
        num_heads=4,
        in_proj_weight=torch.cat([attention.q.weight, attention.kv.weight]),
        in_proj_bias=torch.cat([attention.q.bias, attention.kv.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.proj.weight,
        out_proj_bias=attention.proj.bias,
    )
    assert torch.allclose(attention(x).flatten(1, 2), expected.transpose(0, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("branch_norm", [False, True])
def test_gradients_reach_every_parameter(branch_norm: bool) -> None:
    torch.manual_seed(0)
    encoder = mit("nano", drop_path=0.0)
    model = Segmentor(
        encoder, SegformerDecoder(encoder.channels, NUM_CLASSES, 16, branch_norm=branch_norm)
    ).train()
    model(image(64, 64).repeat(2, 1, 1, 1)).square().mean().backward()
    # Softmax ignores what all keys share, so that the first half of each kv bias, the keys', has no gradient
    # but rounding.
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_stochastic_depth_rises_to_its_rate() -> None:
    rates = [module.rate for module in mit("b0", drop_path=0.14).modules() if hasattr(module, "rate")]
    assert rates == pytest.approx([0.02 * i for i in range(8)])


def test_unknown_size_and_upsampling() -> None:
    with pytest.raises(ValueError, match="b7"):
        mit("b7")
    with pytest.raises(ValueError, match="nearest"):
        SegformerDecoder((8, 16, 24, 32), 3, 16, upsample="nearest")
