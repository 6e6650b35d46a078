"""Rewrites that change a model's arithmetic and not its answer, made on the copy that is exported.

Each function states its identity. None depends on the image; outputs agree to float rounding. Parts that a model does not
have are passed over, so the same call serves every model. Dropout and stochastic depth need no rewrite: in evaluation they
are the identity and leave no trace in a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import EfaBlock, Eft, EmbeddingFreeAttention, efa_by_stage
from edgeseg.models.layers import ConvFFN, to_nchw, to_nhwc
from edgeseg.models.segmentor import Decoder, ReducedAttention, Segmentor

HIDDEN_MULTIPLE = 16
"""One vector of float32, and one channel block of the convolution kernels, on CPUs with AVX-512; two with AVX2."""


@torch.no_grad()
def simplify(model: nn.Module, *, map_ffn: bool) -> None:
    """Apply every rewrite below to `model`, in place; it can be exported, but no longer trained or loaded into.

    Args:
        map_ffn: also compute FFNs on maps (`MapFFN`), the one rewrite that is not faster everywhere.
    """
    for block in _blocks(model):
        if block.attn.key_norm is None:
            fold_key_bias(block.attn)
            fold_attention_scale(block.attn)
        if block.attn.heads == 1:
            block.add_module("attn", SingleHeadAttention(block.attn))
        pad_hidden(block.ffn, HIDDEN_MULTIPLE)
        if map_ffn:
            block.add_module("ffn", MapFFN(block.ffn))
    if isinstance(model, Segmentor) and isinstance(model.decoder, EdaDecoder):
        fold_batch_norm(model.decoder)
        model.add_module("decoder", BranchDecoder(model.decoder))


def _blocks(model: nn.Module) -> list[EfaBlock]:
    return [module for module in model.modules() if isinstance(module, EfaBlock)]


def fold_key_bias(attention: EmbeddingFreeAttention) -> None:
    """Move the bias b of the key convolution behind the output projection W: W bias += W b, then b = 0.

    With keys and values k + 1 b^T, a query's scores all grow by the same q . b, which softmax ignores; and as the rows of a
    softmax sum to one, its output grows by b. Valid only where nothing lies between the convolution and the attention.
    """
    if attention.key_norm is not None:
        raise ValueError("a normalisation lies between the key convolution and the attention")
    bias = attention.key_conv.bias
    if bias is not None:
        attention.proj.bias.add_(attention.proj.weight @ bias)
        attention.key_conv.bias = None


def fold_attention_scale(attention: EmbeddingFreeAttention) -> None:
    """Scale the one tensor of keys and values instead of the scores: (s k) in the scores, W / s behind the values.

    Valid only where nothing lies between the key convolution and the attention.
    """
    if attention.key_norm is not None:
        raise ValueError("a normalisation lies between the key convolution and the attention")
    attention.key_conv.weight.mul_(attention.scale)
    if attention.key_conv.bias is not None:
        attention.key_conv.bias.mul_(attention.scale)
    attention.proj.weight.div_(attention.scale)
    attention.scale = 1.0


def fold_batch_norm(decoder: EdaDecoder) -> None:
    """Fold the fuse convolution's BatchNorm, an affine map in evaluation, into its weight and bias."""
    norm = decoder.fuse_norm
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    decoder.fuse.weight.mul_(gain[:, None, None, None])
    decoder.fuse.bias = nn.Parameter(norm.bias - norm.running_mean * gain)
    decoder.add_module("fuse_norm", nn.Identity())


def fold_input_scale(conv: nn.Conv2d, std_rgb: Sequence[float]) -> None:
    """Let the first convolution take x - mean where it took (x - mean) / std: weight /= std.

    The mean cannot be folded the same way: padding is zero after the subtraction, not before.
    """
    conv.weight.div_(torch.tensor(std_rgb, dtype=conv.weight.dtype)[:, None, None])


def first_conv(model: nn.Module) -> nn.Conv2d | None:
    """The convolution that alone sees the image; None where the model's structure is not known."""
    if not (isinstance(model, Segmentor) and isinstance(model.encoder, Eft)):
        return None
    conv = model.encoder.stages.get_submodule("0.0.conv")
    return conv if isinstance(conv, nn.Conv2d) else None


def pad_hidden(ffn: ConvFFN, multiple: int) -> None:
    """Round the hidden width up to a multiple, with channels whose weights are zero.

    A channel of zeros stays zero through ReLU, the depthwise convolution and GELU (all map 0 to 0), and the last layer's
    columns for it are zero too. Kernels then run without a ragged end.
    """
    extra = -ffn.fc1.out_features % multiple
    if not extra:
        return
    ffn.fc1 = _linear(F.pad(ffn.fc1.weight, (0, 0, 0, extra)), F.pad(ffn.fc1.bias, (0, extra)))
    ffn.fc2 = _linear(F.pad(ffn.fc2.weight, (0, extra)), ffn.fc2.bias)
    hidden = ffn.fc1.out_features
    padded = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    padded.weight = nn.Parameter(F.pad(ffn.dwconv.weight, (0, 0, 0, 0, 0, 0, 0, extra)))
    if ffn.dwconv.bias is not None:
        padded.bias = nn.Parameter(F.pad(ffn.dwconv.bias, (0, extra)))
    ffn.dwconv = padded


class MapFFN(nn.Module):
    """A ConvFFN with its Linears as 1x1 convolutions, so that the whole of it runs on (B, C, H, W).

    The same weights. ONNX Runtime then keeps the wide hidden map in its blocked convolution layout from end to end, and the
    two transposes around the depthwise convolution move to the narrow ends. OpenVINO multiplies matrices faster than it
    convolves, and hides those transposes by itself.
    """

    def __init__(self, ffn: ConvFFN) -> None:
        super().__init__()
        self.fc1, self.fc2 = _pointwise(ffn.fc1.weight, ffn.fc1.bias), _pointwise(ffn.fc2.weight, ffn.fc2.bias)
        self.relu, self.dwconv, self.act = ffn.relu, ffn.dwconv, ffn.act

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc1(to_nchw(x)))
        return to_nhwc(self.fc2(self.act(self.dwconv(x))))


class SingleHeadAttention(nn.Module):
    """Attention with one head, the output projection applied to the few values instead of the many outputs.

    softmax(q k^T) (k W^T) = (softmax(q k^T) k) W^T, and the projection's bias may go along, as softmax rows sum to one. With
    several heads this would cost one full-width product a head.
    """

    def __init__(self, attention: EmbeddingFreeAttention) -> None:
        super().__init__()
        if attention.heads != 1:
            raise ValueError(f"this attention has {attention.heads} heads")
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        keys = self.attention.keys(x)  # (B, m, C)
        scores = x.reshape(x.shape[0], -1, x.shape[3]) @ (keys * self.attention.scale).transpose(-2, -1)  # (B, n, m)
        return (scores.softmax(-1) @ self.attention.proj(keys)).reshape(x.shape)


def resize_bilinear(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), bilinear, pixel centres aligned; by a factor, so that the graph holds no shape arithmetic."""
    factors = [size / int(side) for size, side in zip(size_hw, x.shape[2:], strict=True)]
    if factors == [1.0, 1.0]:
        return x
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)


class BranchDecoder(Decoder):
    """The decoder with its fuse convolution split by branch, each part applied before the resize instead of after.

    A 1x1 convolution of concatenated maps is a sum of one a map, and it commutes with bilinear resizing, whose weights sum
    to one and are the same for every channel. So the deep branches are convolved at their own, smaller size.
    """

    def __init__(self, decoder: EdaDecoder) -> None:
        super().__init__()
        if not isinstance(decoder.fuse_norm, nn.Identity):
            raise ValueError("fold the BatchNorm first")
        self.branches, self.classifier = decoder.branches, decoder.classifier
        self.num_classes, self.output_stride = decoder.num_classes, decoder.output_stride
        self.attention_strides = decoder.attention_strides
        widths = [_blocks(branch)[0].norm1.normalized_shape[0] for branch in decoder.branches]
        # The fuse convolution's input channels run from the deepest branch to the finest.
        parts = decoder.fuse.weight[:, :, 0, 0].split(widths[::-1], dim=1)[::-1]
        biases = (decoder.fuse.bias, *[None] * (len(parts) - 1))
        self.fuse = nn.ModuleList(_pointwise(weight, bias) for weight, bias in zip(parts, biases, strict=True))

    def attention(self) -> list[list[ReducedAttention]]:
        return efa_by_stage(self.branches)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        fused = [
            fuse(to_nchw(branch(to_nhwc(feat)))) for fuse, branch, feat in zip(self.fuse, self.branches, feats[1:], strict=True)
        ]
        x = fused[0]
        for part in fused[1:]:
            x = x + resize_bilinear(part, (int(x.shape[2]), int(x.shape[3])))
        return self.classifier(F.relu(x))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """(C_out, C_in) and (C_out,) as a Linear."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _pointwise(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """(C_out, C_in) and (C_out,) as a 1x1 convolution."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv.weight = nn.Parameter(weight[:, :, None, None].clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone())
    return conv
