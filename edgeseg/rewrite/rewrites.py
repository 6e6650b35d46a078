"""Exact rewrites that any model may use, and what their results are made of. Each states its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import ConvFFN, to_nchw, to_nhwc

HIDDEN_MULTIPLE = 16
"""One vector of float32, and one channel block of the convolution kernels, on CPUs with AVX-512; two with
AVX2.
"""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is not faster everywhere, and so is chosen for the runtime that a model is laid out for.

    Attributes:
        map_ffn, tile_lda_aqu: also compute FFNs on maps (`MapFFN`), and LDA-AQU as matrix products
            (`TiledLdaAqu`).
        transposed: transposed convolutions where they are faster; no runtime has an integer kernel for them.
        join_queries: let the projection of keys do that of queries where there is one head
            (`MergedAttention`): fewer multiply-adds, but the width of keys is then no multiple of 8, and no
            GPU has a kernel for such an attention.
    """

    map_ffn: bool = False
    tile_lda_aqu: bool = False
    transposed: bool = True
    join_queries: bool = True


@singledispatch
def rewritten(part: nn.Module, choices: Choices) -> nn.Module:
    """Return an encoder or a decoder in its deployed form: itself, rewritten in place, or another instead.

    The answer stays the same to float rounding. A family says how its parts are rewritten with
    `@rewritten.register`; a part of no such family is returned as it is.
    """
    return part


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold the BatchNorm that follows `conv`, an affine map in evaluation, into its weight and bias; `norm`
    is then obsolete.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv.weight.mul_(gain[:, None, None, None])
    bias = norm.bias - norm.running_mean * gain
    conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * gain)


def fold_input_scale(conv: nn.Conv2d, std_rgb: Sequence[float]) -> None:
    """Let the first convolution take x - mean where it took (x - mean) / std: weight /= std.

    The mean cannot be folded the same way: padding is zero after the subtraction, not before.
    """
    conv.weight.div_(torch.tensor(std_rgb, dtype=conv.weight.dtype)[:, None, None])


def resize_bilinear(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), bilinear, pixel centres aligned; by a factor, so that the graph holds no
    shape arithmetic.
    """
    factors = [size / int(side) for size, side in zip(size_hw, x.shape[2:], strict=True)]
    if factors == [1.0, 1.0]:
        return x
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)


def pad_hidden(ffn: ConvFFN, multiple: int) -> None:
    """Round the hidden width up to a multiple, with channels whose weights are zero.

    A channel of zeros stays zero through ReLU, the depthwise convolution and GELU (all map 0 to 0), and the
    last layer's columns for it are zero too. Kernels then run without a ragged end.
    """
    extra = -ffn.fc1.out_features % multiple
    if not extra:
        return
    ffn.fc1 = linear(F.pad(ffn.fc1.weight, (0, 0, 0, extra)), F.pad(ffn.fc1.bias, (0, extra)))
    ffn.fc2 = linear(F.pad(ffn.fc2.weight, (0, extra)), ffn.fc2.bias)
    hidden = ffn.fc1.out_features
    padded = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    padded.weight = nn.Parameter(F.pad(ffn.dwconv.weight, (0, 0, 0, 0, 0, 0, 0, extra)))
    if ffn.dwconv.bias is not None:
        padded.bias = nn.Parameter(F.pad(ffn.dwconv.bias, (0, extra)))
    ffn.dwconv = padded


class MapFFN(nn.Module):
    """A ConvFFN with its Linears as 1x1 convolutions, so that the whole of it runs on (B, C, H, W).

    The same weights. ONNX Runtime then keeps the wide hidden map in its blocked convolution layout from end
    to end, and the two transposes around the depthwise convolution move to the narrow ends. OpenVINO
    multiplies matrices faster than it convolves, and hides those transposes by itself.
    """

    round_outputs: ClassVar = ConvFFN.round_outputs

    def __init__(self, ffn: ConvFFN) -> None:
        super().__init__()
        self.fc1, self.fc2 = pointwise(ffn.fc1.weight, ffn.fc1.bias), pointwise(ffn.fc2.weight, ffn.fc2.bias)
        self.relu, self.dwconv, self.act = ffn.relu, ffn.dwconv, ffn.act

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc1(to_nchw(x)))
        return to_nhwc(self.fc2(self.act(self.dwconv(x))))


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """(C_out, C_in) and (C_out,) as a Linear."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def pointwise(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """(C_out, C_in) and (C_out,) as a 1x1 convolution."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv.weight = nn.Parameter(weight[:, :, None, None].clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone())
    return conv
