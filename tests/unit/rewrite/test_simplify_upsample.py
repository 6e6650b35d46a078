"""LDA-AQU over tiles is LDA-AQU: checked in float64, with shifts that reach their bounds."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.models.lda_aqu import LdaAqu
from edgeseg.models.upsample import make_upsample
from edgeseg.rewrite.simplify_upsample import MIN_TILE, TiledLdaAqu, tile_side, tile_upsampling
from golden_rule import fill


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@given(side=st.integers(1, 200))
def test_tiles_cover_a_side_without_a_rest(side: int) -> None:
    tile = tile_side(side)
    assert side % tile == 0
    assert tile >= min(side, MIN_TILE)
    assert not [d for d in range(MIN_TILE, tile) if side % d == 0]


@settings(max_examples=12)
@given(
    size=st.tuples(*[st.sampled_from([1, 3, 8, 11, 16, 18])] * 2),
    scale=st.integers(2, 4),
    groups=st.sampled_from([1, 2]),
    window=st.sampled_from([1, 3, 5]),
    max_shift_px=st.sampled_from([0.0, 2.5, 11.0]),
    gain=st.sampled_from([1.0, 1000.0]),
)
@torch.inference_mode()
def test_the_same_at_every_size(
    size: tuple[int, int], scale: int, groups: int, window: int, max_shift_px: float, gain: float
) -> None:
    module = fill(LdaAqu(16, scale, 4, 1, groups, window, max_shift_px)).double().eval()
    for parameter in module.shift.parameters():
        parameter.mul_(gain)
    x = noise(2, 16, *size)
    assert (TiledLdaAqu(module)(x) - module(x)).abs().max() < 1e-10


@pytest.mark.parametrize("sign_y", [-1.0, 1.0])
@pytest.mark.parametrize("sign_x", [-1.0, 1.0])
@torch.inference_mode()
def test_windows_hold_all_that_shifts_can_reach(sign_x: float, sign_y: float) -> None:
    module = fill(LdaAqu(16)).double().eval()
    module.shift.weight.zero_()
    module.shift.bias.copy_(torch.tensor([sign_x, sign_y]).repeat(9) * 100)
    x = noise(1, 16, 24, 32)
    tiled = TiledLdaAqu(module)
    assert (tiled(x) - module(x)).abs().max() < 1e-10
    tiled.halo -= 2
    assert (tiled(x) - module(x)).abs().max() > 1e-3, "no shift comes near the border of a window"


@torch.inference_mode()
def test_every_step_is_rewritten_and_several_heads_are_left() -> None:
    plain = (
        nn.ModuleDict({"one": fill(make_upsample("lda_aqu", 16, 4)), "heads": LdaAqu(16, heads=2)})
        .double()
        .eval()
    )
    tiled = copy.deepcopy(plain)
    tile_upsampling(tiled)
    assert [type(module) for module in tiled["one"]] == [TiledLdaAqu] * 2
    assert isinstance(tiled["heads"], LdaAqu)
    x = noise(1, 16, 8, 8)
    assert (tiled["one"](x) - plain["one"](x)).abs().max() < 1e-10
    with pytest.raises(ValueError, match="2 heads"):
        TiledLdaAqu(LdaAqu(16, heads=2))
