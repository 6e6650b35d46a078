"""A small convolutional encoder: four strided stages of one 3x3 convolution each."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from edgeseg.models.layers import FoldableNorms
from edgeseg.models.segmentor import Encoder
from edgeseg.rewrite.rewrites import Choices, rewritten


class Stage(FoldableNorms):
    """Convolution, BatchNorm, ReLU: (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).

    An export folds the BatchNorm into the convolution: `foldable_norms` says which follows which.
    """

    foldable_norms: ClassVar = {"conv": "norm"}

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 2 * stride - 1, stride, stride - 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Sketch(Encoder):
    """Image (B, 3, H, W) -> four maps at strides 4, 8, 16, 32.

    Args:
        width: channels of the first map; the others have 2, 3 and 4 times as many. The default is that of
            `facts`.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 3 * width, 4 * width)
        self.stages = nn.ModuleList(
            Stage(before, after, stride)
            for before, after, stride in zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


@rewritten.register
def deployed(encoder: Sketch, choices: Choices) -> Sketch:
    """Rewrite the encoder for export: a place for exact rewrites. This one is exported as it is."""
    return encoder
