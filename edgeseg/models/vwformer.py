"""VWFormer's decoder: multi-scale context by varying window attention (VWA), at the cost of local windows.

A query attends to a context window that is larger than its own window by 2, 4 or 8, packed into as many
tokens as the query window has. The packing happens before the windows are cut (densely overlapping patch
embedding, DOPE), on the whole map.

Source: VWFormer (ICLR 2024, arXiv 2404.16573); what the paper leaves open follows the official code,
    yan-hao-tian/VW @ 9bc1891,
VWHead in vw_head.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import RecipeError
from edgeseg.models.layers import (
    BatchNorm2d,
    FoldableNorms,
    Product,
    init_weights,
    is_distributed,
    to_nchw,
    to_nhwc,
)
from edgeseg.models.segmentor import Decoder
from edgeseg.models.upsample import make_upsample
from edgeseg.models.windows import context_windows, merge_windows, query_windows, window_count


class NormedConv(FoldableNorms):
    """Convolution without bias, padded so that the size stays, BatchNorm, optional ReLU: (B, C_in, H, W) ->
    (B, C_out, H, W).

    An even kernel reaches one pixel further right and down than left and up.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.pads = ((kernel - 1) // 2, kernel // 2) * 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, bias=False)
        self.norm = BatchNorm2d(out_channels)
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(F.pad(x, self.pads) if any(self.pads) else x)))


class VaryingWindowAttention(nn.Module):
    """Attention of every query window to its context window: (B, C, H, W) -> the same.

    Args:
        channels, heads: width and its split; head i owns channels [i * d, (i + 1) * d) with d = channels /
        heads. ratio: side of the context window over the query window's; its square divides `channels`.
        shortcut: add the input to the output.

    Attributes:
        embed: DOPE, ratio x ratio at stride 1, to channels / ratio^2: what a cell of ratio x ratio pixels
            concatenates to `channels` again.

    A side is cut into `windows.window_count` windows, 8 where that divides it, and its context windows reach
    over the border as `windows.copy_shift_pad` says; every size is taken.

    Source: VWFormer (VWA, DOPE, copy-shift padding); projections and norm are those of the official code
        (non-local
    block, embedded Gaussian).
    """

    def __init__(self, channels: int, heads: int, ratio: int, shortcut: bool) -> None:
        super().__init__()
        self.heads, self.ratio, self.shortcut = heads, ratio, shortcut
        self.scale = (channels // heads) ** -0.5
        self.embed = NormedConv(channels, channels // ratio**2, ratio)
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj = NormedConv(channels, channels, relu=False)
        self.scores, self.weighted = Product(), Product()

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = (int(side) for side in x.shape)
        grid = (window_count(height), window_count(width))
        context = context_windows(to_nhwc(self.embed(x)), grid, self.ratio)  # (B, windows, tokens, C)
        q = query_windows(to_nhwc(self.query(x)), grid)
        q, k, v = (
            split_heads(t, self.heads)
            for t in (q, _pointwise(self.key, context), _pointwise(self.value, context))
        )
        scores = self.scores(q, (k * self.scale).transpose(-2, -1))  # (B, windows, heads, tokens, tokens)
        out = (
            self.weighted(scores.softmax(-1), v)
            .transpose(2, 3)
            .reshape(batch, grid[0] * grid[1], -1, channels)
        )
        y = self.proj(to_nchw(merge_windows(out, grid, (height, width))))
        return x + y if self.shortcut else y


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, windows, tokens, C) -> (B, windows, heads, tokens, C / heads)."""
    batch, windows, count, channels = (int(side) for side in tokens.shape)
    return tokens.reshape(batch, windows, count, heads, channels // heads).transpose(2, 3)


def _pointwise(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution on (..., C_in)."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


class ImagePool(nn.Module):
    """One vector for the whole image, at every pixel: (B, C, H, W) -> the same.

    Raises (forward):
        RecipeError: training with a joint batch of one image, of which BatchNorm would leave nothing but its
            bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = NormedConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1 and not is_distributed():
            raise RecipeError(
                "this decoder normalises one pooled vector an image over the batch, which cannot be trained"
                " with one image",
                hint=(
                    "train.batch_size: at least 2 times train.accumulate, or a decoder without image pooling"
                ),
            )
        return self.conv(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, int(x.shape[2]), int(x.shape[3]))


class Aggregation(nn.Module):
    """Multi-layer aggregation: the maps at strides 8, 16 and 32, projected, resized to stride 8 and fused.

    (B, C_1, H, W), (B, C_2, H / 2, W / 2), (B, C_3, H / 4, W / 4) -> (B, width, H, W)
    """

    def __init__(self, channels: Sequence[int], width: int, upsample: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.upsample = nn.ModuleList(make_upsample(upsample, width, scale) for scale in (1, 2, 4))
        self.fuse = NormedConv(len(channels) * width, width)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        maps = [up(branch(x)) for up, branch, x in zip(self.upsample, self.branches, feats, strict=True)]
        # Deepest first: the order of the fuse convolution's input channels in published checkpoints.
        return self.fuse(torch.cat(maps[::-1], dim=1))


class MultiScale(nn.Module):
    """Pixel, image and varying windows, side by side, fused: (B, C, H, W) -> the same."""

    def __init__(
        self, channels: int, heads: int, ratios: Sequence[int], shortcut: bool, image_pool: bool
    ) -> None:
        super().__init__()
        self.pixel = NormedConv(channels, channels)
        self.pool = ImagePool(channels) if image_pool else None
        self.windows = nn.ModuleList(
            VaryingWindowAttention(channels, heads, ratio, shortcut) for ratio in ratios
        )
        self.fuse = NormedConv((1 + image_pool + len(ratios)) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [] if self.pool is None else [self.pool(x)]
        return self.fuse(
            torch.cat([self.pixel(x), *pooled, *(attention(x) for attention in self.windows)], dim=1)
        )


class Refinement(nn.Module):
    """Low-level enhancement: (B, width, H, W) and the finest map (B, C_0, 2 H, 2 W) -> (B, width, 2 H, 2
    W).
    """

    def __init__(self, channels: int, low_width: int, width: int, upsample: str) -> None:
        super().__init__()
        self.low = nn.Conv2d(channels, low_width, 1)
        self.upsample = make_upsample(upsample, width, 2)
        self.fuse = NormedConv(width + low_width, width)

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.upsample(x), self.low(fine)], dim=1))


class VwDecoder(Decoder):
    """VWFormer's decoder on the maps at strides 4, 8, 16 and 32; attention runs at stride 8.

    Args:
        channels: widths of the encoder's four stages.
        num_classes: classes of the logits.
        width: of everything behind the projections; a multiple of the largest ratio's square, and of `heads`.
        heads: of each varying window attention.
        shortcut: add the aggregated map to the output of each attention.
        ratios: side of the context window over the query window's, one attention each.
        image_pool: one branch more, the average over the image.
        low_width: what the finest map is projected to.
        dropout: share of the channels dropped before the classifier.
        upsample: how maps grow, a kind of `make_upsample`; "bilinear" is the published decoder.

    The defaults are the official code's five branches. The paper's light form has four: no `image_pool`, and
    a `low_width` of 32.

    Returns (forward): logits (B, num_classes, H / 4, W / 4).
    Raises (forward):
        RecipeError: see `ImagePool`.
    """

    output_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        width: int = 128,
        heads: int = 1,
        shortcut: bool = True,
        ratios: Sequence[int] = (2, 4, 8),
        image_pool: bool = True,
        low_width: int = 48,
        dropout: float = 0.1,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        if any(width % ratio**2 for ratio in ratios) or width % heads:
            raise ValueError(
                f"width {width} does not divide into {heads} heads and by the squares of the ratios"
                f" {tuple(ratios)}"
            )
        self.num_classes, self.upsample_kind = num_classes, upsample
        self.aggregate = Aggregation(channels[1:], width, upsample)
        self.mix = MultiScale(width, heads, ratios, shortcut, image_pool)
        self.refine = Refinement(channels[0], low_width, width, upsample)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self._init()

    def _init(self) -> None:
        """Queries and classifier: normal, std 0.01. The attentions' last norm: 0, so that they begin as the
        identity.

        Other normed convolutions, keys and values as `init_weights`; plain projections as torch does. Source:
        the official code.
        """
        for module in self.modules():
            if isinstance(module, NormedConv):
                init_weights(module.conv)
            if isinstance(module, VaryingWindowAttention):
                for projection in (module.query, module.key, module.value):
                    init_weights(projection)
                nn.init.normal_(module.query.weight, std=0.01)
                nn.init.zeros_(module.proj.norm.weight)
        init_weights(self.classifier)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        x = self.refine(self.mix(self.aggregate(feats[1:])), feats[0])
        return self.classifier(self.dropout(x))
