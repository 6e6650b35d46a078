"""EFT, EDAFormer's encoder: four stages of embedding-free attention (EFA) blocks, strides 4, 8, 16 and 32.

Notable: no query projection (the normed input is the query), one tensor serves as key and value, keys and
    values are
average-pooled by a ratio that may be raised after training (ISR), no positional encoding.

Source: EDAFormer (ECCV 2024, arXiv 2407.17261), section 3.1 and 3.3; details that the paper leaves out (the
    learnable
1x1 convolution on keys, the output projection, the ReLU before the depthwise convolution, the epsilons)
follow the official code, hyunwoo137/EDAFormer @ 9f98d76.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import ConvFFN, DropPath, PatchEmbed, Product, init_weights, to_nchw, to_nhwc
from edgeseg.models.segmentor import Encoder, ReducedAttention


class EmbeddingFreeAttention(nn.Module):
    """Attention of every position to an average-pooled, 1x1-convolved copy of the map: (B, H, W, C) -> the
    same.

    Args:
        channels, heads: width and its split; head i owns channels [i * d, (i + 1) * d) with d = channels /
        heads. ratio: pooling window and stride of keys and values at training time. key_norm: LayerNorm and
        GELU on the keys (the decoder's form).

    Attributes:
        multiplier: ISR's factor on `ratio`; no weight depends on it.

    Raises (forward):
        ValueError: the map's sides are not multiples of the pooling window. Pooling never drops rows
            silently.

    Source: EDAFormer eq. 1-3; ISR: section 3.3.
    """

    def __init__(self, channels: int, heads: int, ratio: int, key_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ratio = ratio
        self.multiplier = 1
        self.scale = (channels // heads) ** -0.5
        self.key_conv = nn.Conv2d(channels, channels, 1)
        self.key_norm = nn.LayerNorm(channels) if key_norm else None
        self.key_act = nn.GELU() if key_norm else None
        self.proj = nn.Linear(channels, channels)
        self.scores, self.weighted = Product(), Product()

    def keys(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, m, C), m = H W / window^2; keys and values alike."""
        window = self.ratio * self.multiplier
        if x.shape[1] % window or x.shape[2] % window:
            raise ValueError(f"a {x.shape[1]}x{x.shape[2]} map cannot be pooled by {window}: not a multiple")
        pooled = F.avg_pool2d(to_nchw(x), window) if window > 1 else to_nchw(x)
        k = to_nhwc(self.key_conv(pooled)).reshape(x.shape[0], -1, x.shape[3])
        if self.key_norm is not None and self.key_act is not None:
            k = self.key_act(self.key_norm(k))
        return k

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        split = (batch, -1, self.heads, channels // self.heads)
        q = x.reshape(split).transpose(1, 2)  # (B, heads, n, d)
        k = self.keys(x).reshape(split).transpose(1, 2)  # (B, heads, m, d)
        # Few keys: plain products train faster than the fused kernel, and scaling m keys is cheaper than n
        # queries.
        scores = self.scores(q, (k * self.scale).transpose(-2, -1))  # (B, heads, n, m)
        out = self.weighted(scores.softmax(-1), k)
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, channels))


class EfaBlock(nn.Module):
    """Pre-norm residual block: x + EFA(LN(x)), then x + FFN(LN(x)); (B, H, W, C) -> the same."""

    def __init__(
        self,
        channels: int,
        heads: int,
        ratio: int,
        hidden: int,
        drop_path: float,
        eps: float,
        *,
        decoder: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attn = EmbeddingFreeAttention(channels, heads, ratio, key_norm=decoder)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.ffn = ConvFFN(channels, hidden, relu=not decoder)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


def efa_by_stage(stages: nn.ModuleList) -> list[list[ReducedAttention]]:
    """The embedding-free attentions of each stage."""
    return [
        [module for module in stage.modules() if isinstance(module, EmbeddingFreeAttention)]
        for stage in stages
    ]


class Eft(Encoder):
    """The encoder: image (B, 3, H, W), normalised, H and W multiples of 32 -> four maps (B, C_i, H / s_i, W /
    s_i).

    Args:
        channels: width of each stage.
        depths: blocks of each stage.
        head_dim: channels of one attention head, the same in every stage.
        ffn_ratio: hidden width of the FFN over the stage's width (rounded down).
        drop_path: stochastic depth, rising linearly from 0 to this value over all blocks.
        ratios: training-time pooling ratio of each stage.
    """

    attention_strides = (4, 8, 16, 32)

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        head_dim: int,
        ffn_ratio: float,
        drop_path: float = 0.2,
        ratios: Sequence[int] = (8, 4, 2, 1),
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        stages = []
        for i, (width, depth, ratio) in enumerate(zip(channels, depths, ratios, strict=True)):
            embed = PatchEmbed(3, width, 7, 4) if i == 0 else PatchEmbed(channels[i - 1], width, 3, 2)
            blocks = [
                EfaBlock(
                    width, width // head_dim, ratio, int(width * ffn_ratio), next(rates), 1e-6, decoder=False
                )
                for _ in range(depth)
            ]
            stages.append(nn.Sequential(embed, *blocks, nn.LayerNorm(width, eps=1e-6)))
        self.stages = nn.ModuleList(stages)
        self.apply(init_weights)

    def attention(self) -> list[list[ReducedAttention]]:
        return efa_by_stage(self.stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = to_nhwc(image)
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(to_nchw(x))
        return feats
