"""MiT, SegFormer's encoder: four stages of efficient self-attention blocks, strides 4, 8, 16 and 32.

Notable: keys and values are reduced by a strided convolution, a depthwise convolution inside the FFN stands
    in for positional
encoding, patches overlap.

Source: SegFormer (NeurIPS 2021, arXiv 2105.15203), section 3.1 and table 6; the epsilons follow the official
    code,
NVlabs/SegFormer @ 073b02d. The ports of mmsegmentation (1e-6 throughout) and Hugging Face (1e-5 throughout)
differ there alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import ConvFFN, DropPath, PatchEmbed, Product, init_weights, to_nchw, to_nhwc
from edgeseg.models.segmentor import Encoder, ReducedAttention

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {  # channels, depths, heads
    "nano": ((8, 16, 24, 32), (1, 1, 1, 1), (1, 2, 3, 4)),
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2), (1, 2, 5, 8)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2), (1, 2, 5, 8)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3), (1, 2, 5, 8)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3), (1, 2, 5, 8)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3), (1, 2, 5, 8)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3), (1, 2, 5, 8)),
}


class EfficientAttention(nn.Module):
    """Multi-head attention of every position to a spatially reduced copy of the map: (B, H, W, C) -> the
    same.

    Args:
        channels, heads: width and its split; head i owns channels [i * d, (i + 1) * d) with d = channels /
        heads. ratio: kernel and stride of the convolution that reduces keys and values; 1 has neither
        convolution nor norm.

    Attributes:
        multiplier: ISR's factor on `ratio`: keys and values are averaged over `multiplier` x `multiplier`
            reduced positions. The tokens that both are linear in are what is pooled, so that this averages
            keys and values themselves, as it does in embedding-free attention. No weight depends on it.

    Raises (forward):
        ValueError: the map's sides are not multiples of ratio * multiplier. Reduction never drops rows
            silently.

    Source: SegFormer eq. 1 and 2; ISR on MiT: EDAFormer (arXiv 2407.17261), table 7, which leaves the place
        of pooling open.
    """

    def __init__(self, channels: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.ratio = ratio
        self.multiplier = 1
        self.scale = (channels // heads) ** -0.5
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, ratio, ratio) if ratio > 1 else None
        self.reduce_norm = nn.LayerNorm(channels, eps=1e-5) if ratio > 1 else None
        self.scores, self.weighted = Product(), Product()

    def tokens(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, m, C), m = H W / (ratio * multiplier)^2: what keys and values are projected
        from.
        """
        window = self.ratio * self.multiplier
        if x.shape[1] % window or x.shape[2] % window:
            raise ValueError(f"a {x.shape[1]}x{x.shape[2]} map cannot be reduced by {window}: not a multiple")
        if self.reduce is not None and self.reduce_norm is not None:
            x = self.reduce_norm(to_nhwc(self.reduce(to_nchw(x))))
        if self.multiplier > 1:
            x = to_nhwc(F.avg_pool2d(to_nchw(x), self.multiplier))
        return x.reshape(x.shape[0], -1, x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        split = (x.shape[0], -1, self.heads, x.shape[3] // self.heads)
        q = self.q(x).reshape(split).transpose(1, 2)  # (B, heads, n, d)
        k, v = self.kv(self.tokens(x)).split(self.q.out_features, dim=-1)
        k, v = (t.reshape(split).transpose(1, 2) for t in (k, v))  # (B, heads, m, d)
        # Few keys: plain products train faster than the fused kernel, and scaling m keys is cheaper than n
        # queries.
        scores = self.scores(q, (k * self.scale).transpose(-2, -1))  # (B, heads, n, m)
        out = self.weighted(scores.softmax(-1), v)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


class MitBlock(nn.Module):
    """Pre-norm residual block: x + attention(LN(x)), then x + Mix-FFN(LN(x)); (B, H, W, C) -> the same."""

    def __init__(self, channels: int, heads: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = EfficientAttention(channels, heads, ratio)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = ConvFFN(channels, 4 * channels, relu=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class Mit(Encoder):
    """The encoder: image (B, 3, H, W), normalised, H and W multiples of 32 -> four maps (B, C_i, H / s_i, W /
    s_i).

    Args:
        channels: width of each stage.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        drop_path: stochastic depth, rising linearly from 0 to this value over all blocks.
        ratios: reduction of keys and values in each stage.
    """

    attention_strides = (4, 8, 16, 32)

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        drop_path: float = 0.1,
        ratios: Sequence[int] = (8, 4, 2, 1),
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        stages = []
        for i, (width, depth, split, ratio) in enumerate(zip(channels, depths, heads, ratios, strict=True)):
            embed = PatchEmbed(3, width, 7, 4) if i == 0 else PatchEmbed(channels[i - 1], width, 3, 2)
            blocks = [MitBlock(width, split, ratio, next(rates)) for _ in range(depth)]
            stages.append(nn.Sequential(embed, *blocks, nn.LayerNorm(width, eps=1e-6)))
        self.stages = nn.ModuleList(stages)
        self.apply(init_weights)

    def attention(self) -> list[list[ReducedAttention]]:
        return [
            [module for module in stage.modules() if isinstance(module, EfficientAttention)]
            for stage in self.stages
        ]

    def forward(self, image: Tensor) -> list[Tensor]:
        x = to_nhwc(image)
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(to_nchw(x))
        return feats


def mit(size: str, drop_path: float = 0.1) -> Mit:
    """MiT by its published name, "b0" to "b5"; "nano" has the smallest widths that keep every part, for
    tests.

    Raises:
        ValueError: unknown size.
    """
    if size not in _SIZES:
        raise ValueError(f"there is no MiT of size {size!r}; known: {', '.join(_SIZES)}")
    return Mit(*_SIZES[size], drop_path)
