"""Exact rewrites of SegFormer: the MiT encoder's efficient attention, and the decoder's fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.mit import EfficientAttention, Mit, MitBlock
from edgeseg.models.segformer import Projection, SegformerDecoder
from edgeseg.models.segmentor import Decoder, Encoder
from edgeseg.rewrite.rewrites import (
    Choices,
    MapFFN,
    fold_batch_norm,
    linear,
    pointwise,
    resize_bilinear,
    rewritten,
)


@rewritten.register
def simplify_mit(encoder: Mit, choices: Choices) -> Encoder:
    """Rewrite every block, in place."""
    for block in [module for module in encoder.modules() if isinstance(module, MitBlock)]:
        block.add_module("attn", LeanAttention(block.attn))
        if choices.map_ffn:
            block.add_module("ffn", MapFFN(block.ffn))
    return encoder


class LeanAttention(nn.Module):
    """Efficient attention without what cancels, and with what can be computed beforehand.

    The bias of keys adds the same q . b to all scores of a query, which softmax ignores. The rows of a
    softmax sum to one, so that the bias of values passes through: with output projection W, it becomes W b in
    the projection's bias. The scale of the scores goes into the query projection. With one head, values and
    output projection are one matrix, W V, which acts on the few tokens instead of the many outputs; with
    several this would cost one full-width product a head.

    The attention that is taken apart must not be used again, except for its tokens.
    """

    def __init__(self, attention: EfficientAttention) -> None:
        super().__init__()
        self.attention = attention
        scale, proj = attention.scale, attention.proj
        key, value = attention.kv.weight.chunk(2)
        bias = proj.bias + proj.weight @ attention.kv.bias.chunk(2)[1]
        self.q = linear(attention.q.weight * scale, attention.q.bias * scale)
        self.k = linear(key, None)
        one = attention.heads == 1
        self.v = linear(proj.weight @ value, bias) if one else linear(value, None)
        self.proj = nn.Identity() if one else linear(proj.weight, bias)
        self.scores, self.weighted = attention.scores, attention.weighted
        for obsolete in ("q", "kv", "proj", "scores", "weighted"):
            delattr(attention, obsolete)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, channels = x.shape
        heads = self.attention.heads
        tokens = self.attention.tokens(x)
        q, k, v = self.q(x.reshape(batch, -1, channels)), self.k(tokens), self.v(tokens)
        if heads > 1:
            q, k, v = (t.reshape(batch, -1, heads, channels // heads).transpose(1, 2) for t in (q, k, v))
        out = self.weighted(self.scores(q, k.transpose(-2, -1)).softmax(-1), v)
        if heads > 1:
            out = out.transpose(1, 2)
        return self.proj(out.reshape(x.shape))


@rewritten.register
def simplify_decoder(decoder: SegformerDecoder, choices: Choices) -> Decoder:
    """The decoder to export in place of `decoder`, which must not be used again."""
    if all(isinstance(upsample, (nn.Identity, nn.Upsample)) for upsample in decoder.upsample):
        return MergedDecoder(decoder)
    return decoder


class MergedDecoder(Decoder):
    """The decoder with its fuse convolution split by branch, each part applied before the resize instead of
    after.

    A 1x1 convolution of concatenated maps is a sum of one a map, and it commutes with bilinear resizing,
    whose weights sum to one and are the same for every channel. So the deep branches are convolved at their
    own, smaller size, and a branch without a ReLU is one convolution with its part of the fusion. A learned
    upsampling does not commute.
    """

    def __init__(self, decoder: SegformerDecoder) -> None:
        super().__init__()
        self.num_classes, self.output_stride = decoder.num_classes, decoder.output_stride
        self.classifier = decoder.classifier
        fold_batch_norm(decoder.fuse, decoder.fuse_norm)
        projections = [module for module in decoder.branches if isinstance(module, Projection)]
        # The fuse convolution's input channels run from the deepest branch to the finest.
        parts = decoder.fuse.weight[:, :, 0, 0].chunk(len(projections), dim=1)[::-1]
        assert decoder.fuse.bias is not None
        biases = (decoder.fuse.bias, *[torch.zeros_like(decoder.fuse.bias)] * (len(parts) - 1))
        self.branches = nn.ModuleList(_fused(*each) for each in zip(projections, parts, biases, strict=True))

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        maps = [branch(feat) for branch, feat in zip(self.branches, feats, strict=True)]
        x = maps[0]
        for deep in maps[1:]:
            x = x + resize_bilinear(deep, (int(x.shape[2]), int(x.shape[3])))
        return self.classifier(F.relu(x))


def _fused(projection: Projection, part: Tensor, bias: Tensor) -> nn.Module:
    """A projection followed by the 1x1 convolution with weight `part` and `bias`; without a ReLU between them
    they are one.
    """
    conv = projection.conv
    if projection.norm is not None:
        fold_batch_norm(conv, projection.norm)
        return nn.Sequential(conv, nn.ReLU(), pointwise(part, bias))
    assert conv.bias is not None
    return pointwise(part @ conv.weight[:, :, 0, 0], part @ conv.bias + bias)
