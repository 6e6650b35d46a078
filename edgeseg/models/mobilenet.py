"""Encoders of inverted residuals: MobileNetV2 here, EfficientNet-Lite as other sizes of the same network.

An inverted residual widens the map with a 1x1 convolution, filters each channel by itself, and narrows it
again, without an activation at the narrow end. Every convolution has a BatchNorm and no bias; the activation
is ReLU6, which quantizes well.

Source: MobileNetV2 (arXiv 1801.04381), table 2; BatchNorm as in torchvision's mobilenet_v2, whose ImageNet
    weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import BatchNorm2d, DropPath, FoldableNorms, init_weights
from edgeseg.models.segmentor import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, RGB, Encoder


class Group(NamedTuple):
    """`repeats` blocks of one width; the first of them has the stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


class Flavour(NamedTuple):
    """What the same network does differently from one source to another.

    Attributes:
        eps, momentum: of BatchNorm; `momentum` is the share of the new batch, as in torch.
        tf_padding: pad as TensorFlow's "same" does: at stride 2 (and even sides) one pixel less above and
            left than below and right. Weights that were trained with one padding lose accuracy with the
            other.
    """

    eps: float
    momentum: float
    tf_padding: bool


TORCHVISION = Flavour(eps=1e-5, momentum=0.1, tf_padding=False)
TENSORFLOW = Flavour(eps=1e-3, momentum=0.01, tf_padding=True)


class ConvNorm(FoldableNorms):
    """Convolution without bias, BatchNorm, optional ReLU6: (B, C_in, H, W) -> (B, C_out, H / stride, W /
    stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        groups: int,
        flavour: Flavour,
        *,
        act: bool,
    ) -> None:
        super().__init__()
        self.ragged = flavour.tf_padding and stride == 2
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            0 if self.ragged else kernel // 2,
            groups=groups,
            bias=False,
        )
        self.norm = BatchNorm2d(out_channels, eps=flavour.eps, momentum=flavour.momentum)
        self.act = nn.ReLU6() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.ragged:
            before, after = self.conv.kernel_size[0] // 2 - 1, self.conv.kernel_size[0] // 2
            x = F.pad(x, (before, after, before, after))
        return self.act(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to its input where the shapes agree. (B, C_in, H, W) -> (B,
    C, H / s, W / s).
    """

    def __init__(
        self, in_channels: int, group: Group, stride: int, drop_path: float, flavour: Flavour
    ) -> None:
        super().__init__()
        hidden = in_channels * group.expansion
        self.expand = (
            ConvNorm(in_channels, hidden, 1, 1, 1, flavour, act=True)
            if group.expansion > 1
            else nn.Identity()
        )
        self.depthwise = ConvNorm(hidden, hidden, group.kernel, stride, hidden, flavour, act=True)
        self.project = ConvNorm(hidden, group.channels, 1, 1, 1, flavour, act=False)
        self.residual = stride == 1 and in_channels == group.channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + self.drop_path(y) if self.residual else y


class InvertedResidualEncoder(Encoder):
    """Stem and inverted residuals: image (B, 3, H, W), normalised, H and W multiples of 32 -> four maps,
    strides 4 to 32.

    A map is taken before each halving, after all blocks of its stride; the classifier's wide last convolution
    is left out.

    Args:
        stem_channels: width of the first convolution, 3x3, stride 2.
        groups: all blocks, in order; together they reach every one of `strides`.
        flavour: see `Flavour`.
        drop_path: stochastic depth, rising linearly over the blocks: block i of n has i / n of it.
        mean_rgb, std_rgb: see `Encoder`.
    """

    def __init__(
        self,
        stem_channels: int,
        groups: Sequence[Group],
        flavour: Flavour,
        drop_path: float = 0.0,
        mean_rgb: RGB = IMAGENET_MEAN_RGB,
        std_rgb: RGB = IMAGENET_STD_RGB,
    ) -> None:
        super().__init__()
        self.mean_rgb, self.std_rgb = mean_rgb, std_rgb
        self.stem = ConvNorm(3, stem_channels, 3, 2, 1, flavour, act=True)
        total = sum(group.repeats for group in groups)
        blocks: list[InvertedResidual] = []
        width, stride = stem_channels, 2
        last: dict[int, tuple[int, int]] = {}  # stride -> index and width of its last block
        for group in groups:
            stride *= group.stride
            for repeat in range(group.repeats):
                rate = drop_path * len(blocks) / total
                blocks.append(
                    InvertedResidual(width, group, group.stride if repeat == 0 else 1, rate, flavour)
                )
                width = group.channels
            last[stride] = (len(blocks) - 1, width)
        self.blocks = nn.ModuleList(blocks)
        self.taps = tuple(last[stride][0] for stride in self.strides)
        self.channels = tuple(last[stride][1] for stride in self.strides)
        self.apply(init_weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        feats = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                feats.append(x)
        return feats


def mobilenet_v2(drop_path: float = 0.0) -> InvertedResidualEncoder:
    """MobileNetV2, width 1.0: maps of 24, 32, 96 and 320 channels.

    Input: ImageNet mean and standard deviation. ImageNet weights: torchvision's mobilenet_v2 (BSD-3-Clause).
    """
    groups = (
        Group(3, 1, 1, 16, 1),
        Group(3, 2, 6, 24, 2),
        Group(3, 2, 6, 32, 3),
        Group(3, 2, 6, 64, 4),
        Group(3, 1, 6, 96, 3),
        Group(3, 2, 6, 160, 3),
        Group(3, 1, 6, 320, 1),
    )
    return InvertedResidualEncoder(32, groups, TORCHVISION, drop_path)
