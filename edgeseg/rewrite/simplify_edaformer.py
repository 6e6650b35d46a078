"""Exact rewrites of EDAFormer: the EFT encoder's and the decoder's embedding-free attention, and the
decoder's fusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import EfaBlock, Eft, EmbeddingFreeAttention, efa_by_stage
from edgeseg.models.layers import to_nchw, to_nhwc
from edgeseg.models.segmentor import Decoder, Encoder, ReducedAttention
from edgeseg.rewrite.rewrites import (
    HIDDEN_MULTIPLE,
    Choices,
    MapFFN,
    fold_batch_norm,
    pad_hidden,
    pointwise,
    resize_bilinear,
    rewritten,
)


@rewritten.register
def simplify_encoder(encoder: Eft, choices: Choices) -> Encoder:
    """Rewrite the encoder in place."""
    simplify_blocks(encoder, map_ffn=choices.map_ffn)
    return encoder


@rewritten.register
def simplify_decoder(decoder: EdaDecoder, choices: Choices) -> Decoder:
    """Return the decoder to export in place of `decoder`, which must not be used again."""
    simplify_blocks(decoder, map_ffn=choices.map_ffn)
    return simplify_fusion(decoder)


def simplify_blocks(part: nn.Module, *, map_ffn: bool) -> None:
    """Rewrite every EFA block inside `part`, in place."""
    for block in efa_blocks(part):
        if block.attn.key_norm is None:
            fold_key_bias(block.attn)
            fold_attention_scale(block.attn)
        if block.attn.heads == 1:
            block.add_module("attn", SingleHeadAttention(block.attn))
        pad_hidden(block.ffn, HIDDEN_MULTIPLE)
        if map_ffn:
            block.add_module("ffn", MapFFN(block.ffn))


def efa_blocks(part: nn.Module) -> list[EfaBlock]:
    """Every EFA block inside `part`."""
    return [module for module in part.modules() if isinstance(module, EfaBlock)]


def fold_key_bias(attention: EmbeddingFreeAttention) -> None:
    """Move the bias b of the key convolution behind the output projection W: W bias += W b, then b = 0.

    With keys and values k + 1 b^T, a query's scores all grow by the same q . b, which softmax ignores; and as
    the rows of a softmax sum to one, its output grows by b. Valid only where nothing lies between the
    convolution and the attention.
    """
    if attention.key_norm is not None:
        raise ValueError("a normalisation lies between the key convolution and the attention")
    bias = attention.key_conv.bias
    if bias is not None:
        attention.proj.bias.add_(attention.proj.weight @ bias)
        attention.key_conv.bias = None


def fold_attention_scale(attention: EmbeddingFreeAttention) -> None:
    """Scale the one tensor of keys and values instead of the scores: (s k) in the scores, W / s behind the
    values.

    Valid only where nothing lies between the key convolution and the attention.
    """
    if attention.key_norm is not None:
        raise ValueError("a normalisation lies between the key convolution and the attention")
    attention.key_conv.weight.mul_(attention.scale)
    if attention.key_conv.bias is not None:
        attention.key_conv.bias.mul_(attention.scale)
    attention.proj.weight.div_(attention.scale)
    attention.scale = 1.0


class SingleHeadAttention(nn.Module):
    """Attention with one head, the output projection applied to the few values instead of the many outputs.

    softmax(q k^T) (k W^T) = (softmax(q k^T) k) W^T, and the projection's bias may go along, as softmax rows
    sum to one. With several heads this would cost one full-width product a head.
    """

    def __init__(self, attention: EmbeddingFreeAttention) -> None:
        super().__init__()
        if attention.heads != 1:
            raise ValueError(f"this attention has {attention.heads} heads")
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        keys = attention.keys(x)  # (B, m, C)
        scores = attention.scores(
            x.reshape(x.shape[0], -1, x.shape[3]), (keys * attention.scale).transpose(-2, -1)
        )  # (B, n, m)
        out: Tensor = attention.weighted(scores.softmax(-1), attention.proj(keys))
        return out.reshape(x.shape)


def simplify_fusion(decoder: EdaDecoder) -> Decoder:
    """The decoder to export in place of `decoder`, which must not be used again. A learned upsampling stays
    before the fusion.
    """
    if all(isinstance(upsample, (nn.Identity, nn.Upsample)) for upsample in decoder.upsample):
        return BranchDecoder(decoder)
    fold_batch_norm(decoder.fuse, decoder.fuse_norm)
    decoder.add_module("fuse_norm", nn.Identity())
    return decoder


class BranchDecoder(Decoder):
    """The decoder with its fuse convolution split by branch, each part applied before the resize instead of
    after.

    A 1x1 convolution of concatenated maps is a sum of one a map, and it commutes with bilinear resizing,
    whose weights sum to one and are the same for every channel. So the deep branches are convolved at their
    own, smaller size. The BatchNorm behind it is folded in; the decoder that is taken apart must not be used
    again. A learned upsampling does not commute.
    """

    def __init__(self, decoder: EdaDecoder) -> None:
        super().__init__()
        self.branches, self.classifier = decoder.branches, decoder.classifier
        self.num_classes, self.output_stride = decoder.num_classes, decoder.output_stride
        self.attention_strides = decoder.attention_strides
        fold_batch_norm(decoder.fuse, decoder.fuse_norm)
        widths = [efa_blocks(branch)[0].norm1.normalized_shape[0] for branch in decoder.branches]
        # The fuse convolution's input channels run from the deepest branch to the finest.
        parts = decoder.fuse.weight[:, :, 0, 0].split(widths[::-1], dim=1)[::-1]
        biases = (decoder.fuse.bias, *[None] * (len(parts) - 1))
        self.fuse = nn.ModuleList(pointwise(weight, bias) for weight, bias in zip(parts, biases, strict=True))

    def attention(self) -> list[list[ReducedAttention]]:
        return efa_by_stage(self.branches)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        fused = [
            fuse(to_nchw(branch(to_nhwc(feat))))
            for fuse, branch, feat in zip(self.fuse, self.branches, feats[1:], strict=True)
        ]
        x = fused[0]
        for part in fused[1:]:
            x = x + resize_bilinear(part, (int(x.shape[2]), int(x.shape[3])))
        return self.classifier(F.relu(x))
