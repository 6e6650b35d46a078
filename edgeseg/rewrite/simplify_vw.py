"""Exact rewrites of VWFormer's decoder, most of whose multiply-adds are those of linear maps in a row.

The identities: linear maps in a row are one linear map; a 1x1 convolution of concatenated maps is a sum of
one a map, and commutes with bilinear resizing, whose weights sum to one; a softmax ignores what is the same
for all keys, and as its weights sum to one, a constant in the values passes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import Product, to_nchw, to_nhwc
from edgeseg.models.segmentor import Decoder
from edgeseg.models.vwformer import (
    Aggregation,
    ImagePool,
    MultiScale,
    NormedConv,
    Refinement,
    VaryingWindowAttention,
    VwDecoder,
    split_heads,
)
from edgeseg.models.windows import (
    Grid,
    context_windows,
    copy_shift_pad,
    merge_windows,
    overlapping_windows,
    window_count,
)
from edgeseg.rewrite.rewrites import Choices, fold_batch_norm, linear, pointwise, rewritten


@rewritten.register
def simplify_vw(decoder: VwDecoder, choices: Choices) -> Decoder:
    """Rewrite a VWFormer decoder in place; learned upsampling is kept, with what cannot be moved across it.

    Of `choices`: `transposed` is `TransposedEmbedding` instead of `FoldedEmbedding`, `join_queries` of
    `MergedAttention`.
    """
    if decoder.upsample_kind == "bilinear":
        decoder.add_module("aggregate", BranchAggregation(decoder.aggregate))
        decoder.add_module("refine", BranchRefinement(decoder.refine))
    mix = MergedMultiScale(decoder.mix, transposed=choices.transposed, join_queries=choices.join_queries)
    decoder.add_module("mix", mix)
    return decoder


def folded(normed: NormedConv) -> nn.Conv2d:
    """The convolution with its BatchNorm folded in; its padding and ReLU are the caller's."""
    fold_batch_norm(normed.conv, normed.norm)
    return normed.conv


def affine(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """(C_out, C_in) and (C_out,) of a 1x1 convolution with a bias."""
    if conv.bias is None:
        raise ValueError("this convolution has no bias")
    return conv.weight[:, :, 0, 0], conv.bias


def fused_projection(projection: nn.Module, part: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1x1 convolution and its part of the fusion behind it, as one; `bias` is the fusion's, to be added to
    one of its parts.
    """
    if not isinstance(projection, nn.Conv2d):
        raise TypeError(f"a projection is a convolution, not {type(projection).__name__}")
    weight, constant = affine(projection)
    return pointwise(part @ weight, part @ constant if bias is None else part @ constant + bias)


class BranchAggregation(nn.Module):
    """Aggregation with one convolution a map, at the map's own size: projection and its part of the fusion
    are one.
    """

    def __init__(self, aggregate: Aggregation) -> None:
        super().__init__()
        weight, bias = affine(folded(aggregate.fuse))
        parts = weight.chunk(len(aggregate.branches), dim=1)[
            ::-1
        ]  # the fusion's channels run from the deepest map to the finest
        self.branches = nn.ModuleList(
            fused_projection(branch, part, None if i else bias)
            for i, (branch, part) in enumerate(zip(aggregate.branches, parts, strict=True))
        )
        self.upsample = aggregate.upsample

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        finest, *deeper = (
            up(branch(x)) for up, branch, x in zip(self.upsample, self.branches, feats, strict=True)
        )
        return F.relu(sum(deeper, finest))


class BranchRefinement(nn.Module):
    """Refinement with one convolution a map, that of the coarse one before the resize, at a quarter of the
    pixels.
    """

    def __init__(self, refine: Refinement) -> None:
        super().__init__()
        weight, bias = affine(folded(refine.fuse))
        coarse, low = weight.split(
            [weight.shape[1] - refine.low.out_channels, refine.low.out_channels], dim=1
        )
        self.coarse, self.low = pointwise(coarse, None), fused_projection(refine.low, low, bias)
        self.upsample = refine.upsample

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        return F.relu(self.upsample(self.coarse(x)) + self.low(fine))


class PooledPart(nn.Module):
    """The image's pooled vector, and its part of the fusion, at one pixel: (B, C, H, W) -> (B, C, 1, 1)."""

    def __init__(self, pool: ImagePool, part: Tensor) -> None:
        super().__init__()
        self.conv, self.fuse = folded(pool.conv), pointwise(part, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(F.relu(self.conv(F.adaptive_avg_pool2d(x, 1))))


class MergedMultiScale(nn.Module):
    """MultiScale with its fusion taken apart: every branch has its own part of it, where that is cheapest.

    The attentions' parts move behind their values (`MergedAttention`), so that what they give is summed as
    windows and put back once. Their shortcuts all carry the input, so that they are one part together, beside
    that of the pixel branch.
    """

    def __init__(self, mix: MultiScale, *, transposed: bool = True, join_queries: bool = True) -> None:
        super().__init__()
        weight, bias = affine(folded(mix.fuse))
        pixel, *parts = weight.chunk(mix.fuse.conv.in_channels // mix.fuse.conv.out_channels, dim=1)
        self.pixel = folded(mix.pixel)
        self.pool = None if mix.pool is None else PooledPart(mix.pool, parts.pop(0))
        attentions = [module for module in mix.windows if isinstance(module, VaryingWindowAttention)]
        merged = [
            MergedAttention(*each, transposed=transposed, join_queries=join_queries)
            for each in zip(attentions, parts, strict=True)
        ]
        self.windows = nn.ModuleList(merged)
        bias = sum((attention.constant for attention in merged), bias)
        carried = [part for attention, part in zip(attentions, parts, strict=True) if attention.shortcut]
        self.shortcut = bool(carried)
        self.local = pointwise(
            torch.cat([pixel, sum(carried[1:], carried[0])], dim=1) if carried else pixel, bias
        )

    def forward(self, x: Tensor) -> Tensor:
        size_hw = (int(x.shape[2]), int(x.shape[3]))
        grid = (window_count(size_hw[0]), window_count(size_hw[1]))
        pixel = F.relu(self.pixel(x))
        local = self.local(torch.cat([pixel, x], dim=1) if self.shortcut else pixel)
        if (
            self.pool is not None
        ):  # to this summand: OpenVINO 2026.4 moves it wrongly across the transposition of the other
            local = local + self.pool(x)
        queries = cut_queries(x, grid)
        first, *others = (attention(x, queries, grid) for attention in self.windows)
        return F.relu(local + to_nchw(merge_windows(sum(others, first), grid, size_hw)))


class MergedAttention(nn.Module):
    """Varying window attention with its part of the fusion: (B, C, H, W) and its query windows -> windows to
    be added up.

    - Projection behind the attention and part of the fusion move in front of it, W A (V c) = A (W V c), for
      one head.
    - With one head, (Q x + b) . (K c) = x . (Q^T K c) + b . K c: the projection of queries joins that of
      keys, which has one channel more for the bias; each query has a one there. Not without `join_queries`.
    - The bias of keys is the same for all keys of a query; that of values passes through (`constant`).
    - Tokens of neighbouring windows are the same cells where windows are whole numbers of cells apart: they
      are projected once, then cut. Where the context is as large as the map, every window has the same tokens
      in another order, which no sum over them sees: they are not cut at all.
    """

    constant: Tensor

    def __init__(
        self,
        attention: VaryingWindowAttention,
        part: Tensor,
        *,
        transposed: bool = True,
        join_queries: bool = True,
    ) -> None:
        super().__init__()
        self.ratio, self.heads = attention.ratio, attention.heads
        self.embed = TransposedEmbedding(attention.embed) if transposed else FoldedEmbedding(attention.embed)
        self.scores, self.weighted = Product(), Product()
        proj, proj_bias = affine(folded(attention.proj))
        out = part @ proj
        query, query_bias = affine(attention.query)
        key, _ = affine(attention.key)
        value, value_bias = affine(attention.value)
        self.register_buffer("constant", part @ proj_bias + out @ value_bias)
        key = key * attention.scale
        one = self.heads == 1
        joined = one and join_queries
        self.query = None if joined else linear(query, query_bias)
        self.key = linear(torch.cat([query.T @ key, query_bias[None] @ key]) if joined else key, None)
        self.value = linear(out @ value if one else value, None)
        self.out = None if one else linear(out, None)

    def forward(self, x: Tensor, queries: Tensor, grid: Grid) -> Tensor:
        k, v = self.keys_values(self.embed(x), grid)
        q = F.pad(queries, (0, 1), value=1.0) if self.query is None else self.query(queries)
        q = q.reshape(int(q.shape[0]), int(k.shape[1]), -1, int(q.shape[3]))
        if self.out is None:
            y = self.weighted(self.scores(q, k.transpose(-2, -1)).softmax(-1), v)
            return y.reshape(queries.shape)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        y = self.weighted(self.scores(q, k.transpose(-2, -1)).softmax(-1), v)
        return self.out(y.transpose(2, 3).reshape(queries.shape))

    def keys_values(self, context: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """(B, H, W, D) -> (B, windows or 1, tokens, C), each; the tokens of a window in any order, the same
        for both.
        """
        size_hw, ratio = (int(context.shape[1]), int(context.shape[2])), self.ratio
        if any(side // count % ratio for side, count in zip(size_hw, grid, strict=True)):
            tokens = context_windows(context, grid, ratio)
            return self.key(tokens), self.value(tokens)
        padded = copy_shift_pad(copy_shift_pad(context, 1, grid[0], ratio), 2, grid[1], ratio)
        if grid == (ratio, ratio):
            first = cells(padded[:, : size_hw[0], : size_hw[1]], ratio)
            tokens = first.reshape(int(first.shape[0]), 1, -1, int(first.shape[3]))
            return self.key(tokens), self.value(tokens)
        tokens = cells(padded, ratio)
        return cut(self.key(tokens), grid, ratio), cut(self.value(tokens), grid, ratio)


class FoldedEmbedding(nn.Module):
    """DOPE with the BatchNorm folded in: (B, C, H, W) -> (B, H, W, C / ratio^2)."""

    round_outputs: ClassVar = ("conv",)

    def __init__(self, embed: NormedConv) -> None:
        super().__init__()
        self.conv, self.pads = folded(embed), embed.pads

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(F.relu(self.conv(F.pad(x, self.pads))))


class TransposedEmbedding(nn.Module):
    """DOPE as a transposed convolution, with the BatchNorm folded in: (B, C, H, W) -> (B, H, W, C / ratio^2).

    At stride 1 both are the same sum, with the kernel turned round: a convolution gathers, a transposed one
    scatters. What it scatters is one matrix product with C outputs; a convolution with few output channels
    leaves its vectors mostly empty.
    """

    def __init__(self, embed: NormedConv) -> None:
        super().__init__()
        conv = folded(embed)
        kernel = conv.kernel_size[0]
        self.drop = kernel // 2 - (kernel - 1) // 2  # what an even kernel makes too much, above and left
        self.conv = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, kernel, padding=(kernel - 1) // 2)
        self.conv.weight = nn.Parameter(conv.weight.flip(2, 3).transpose(0, 1).clone())
        self.conv.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(F.relu(self.conv(x)[:, :, self.drop :, self.drop :]))


def cut_queries(x: Tensor, grid: Grid) -> Tensor:
    """(B, C, H, W) -> (B, windows, tokens, C). In this order the runtime does not merge both permutations
    into one slow one.
    """
    batch, channels, height, width = (int(side) for side in x.shape)
    x = x.reshape(batch, channels, grid[0], height // grid[0], grid[1], width // grid[1]).transpose(3, 4)
    return x.reshape(batch, channels, -1).transpose(1, 2).reshape(batch, grid[0] * grid[1], -1, channels)


def cells(x: Tensor, ratio: int) -> Tensor:
    """(B, H, W, D) -> (B, H / ratio, W / ratio, ratio^2 D), channels as in `context_windows`."""
    batch, height, width, depth = (int(side) for side in x.shape)
    x = x.reshape(batch, height // ratio, ratio, width // ratio, ratio, depth).transpose(2, 3)
    return x.reshape(batch, height // ratio, width // ratio, ratio * ratio * depth)


def cut(x: Tensor, grid: Grid, ratio: int) -> Tensor:
    """Padded cells (B, h, w, C) -> (B, windows, tokens, C); tokens column by column, which moves less than
    row by row.
    """
    x = overlapping_windows(x, 1, grid[0], ratio).transpose(2, 3)  # (B, rows, w, Ph, C)
    x = overlapping_windows(x, 2, grid[1], ratio)  # (B, rows, columns, Pw, Ph, C)
    return x.reshape(int(x.shape[0]), grid[0] * grid[1], -1, int(x.shape[5]))
