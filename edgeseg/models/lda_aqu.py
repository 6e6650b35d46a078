"""LDA-AQU: upsampling by local attention whose neighbours move, guided by the query pixel's content.

Every output pixel attends to a 3x3 window around itself, each position of which is shifted by what a small
network reads from the query. Keys and values are read there from the small map, bilinearly.

Source: LDA-AQU (ACM MM 2024, arXiv 2411.19585). What the paper leaves open follows the official code,
    duzw9311/LDA-AQU @ ebfb705,
class LDA_AQU: window and shifts are measured in output pixels, values are neither normed nor projected.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import SamplingLayer, to_nchw, to_nhwc


class LdaAqu(SamplingLayer):
    """Upsampling by local deformable attention: (B, C, h, w) -> (B, C, scale h, scale w), any size.

    Args:
        channels: C.
        scale: a whole number from 2 on. The window reaches one output pixel far at any scale, so that a step
            of 4 looks at less of the input than two steps of 2; the official models take steps of 2.
        reduction: C over the width of queries and keys.
        heads: of the attention; head i owns the i-th part of the channels.
        groups: parts of the channels with shifts of their own, which one network makes of each part's query.
        window: side of the window in output pixels, odd.
        max_shift_px: how far a neighbour may move along each axis, in output pixels.

    Attributes:
        neighbours: x and y of each from the centre of the window, row by row.
        shift: its output holds two numbers a neighbour: the shifts along x and y, before tanh.
        position: the part of the logits that a neighbour's place in the window gives, heads first. Its
            weights are the position vectors that the paper adds to the keys.

    A neighbour outside of the map has a key and a value of zero; it is not masked.

    In an ONNX graph each read is one GridSample (opset 16 on), which ONNX Runtime, OpenVINO and TensorRT 10
    have. ONNX Runtime is slow at it on CPUs; its form of a program holds matrix products instead
    (`rewrite.simplify_upsample`).

    Raises (init):
        ValueError: the channels do not divide into groups and heads, the window is even, or the scale is
            below 2.
    """

    keep_float: ClassVar = {
        "shift": "it gives positions: one step of INT8 would move every read by a part of a pixel"
    }

    def __init__(
        self,
        channels: int,
        scale: int = 2,
        reduction: int = 4,
        heads: int = 1,
        groups: int = 2,
        window: int = 3,
        max_shift_px: float = 11.0,
    ) -> None:
        super().__init__()
        if channels % (reduction * groups) or channels % (reduction * heads):
            raise ValueError(
                f"{channels} channels over {reduction} do not divide into {groups} groups and {heads} heads"
            )
        if window % 2 == 0 or scale < 2:
            raise ValueError(f"a window of {window} must be odd, and a scale of {scale} at least 2")
        self.scale, self.heads, self.groups = scale, heads, groups
        self.max_shift_px = max_shift_px
        reach = range(-(window // 2), window // 2 + 1)
        self.neighbours = [(x, y) for y in reach for x in reach]
        width, part = channels // reduction, channels // reduction // groups
        self.logit_scale = (width // heads) ** -0.5
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.key = nn.Conv2d(channels, width, 1, bias=False)
        self.shift_conv = nn.Conv2d(part, part, 3, padding=1, groups=part, bias=False)
        self.shift_norm = nn.LayerNorm(part)
        self.shift = nn.Conv2d(part, 2 * len(self.neighbours), 3, padding=1)
        self.position = nn.Conv2d(width, heads * len(self.neighbours), 1, groups=heads, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions: Xavier uniform. Positions: truncated normal, std 0.02. Shifts: 0, plain local
        attention at first.
        """
        for conv in (self.query, self.key, self.shift_conv):
            nn.init.xavier_uniform_(conv.weight)
        nn.init.trunc_normal_(self.position.weight, std=0.02)
        for tensor in self.shift.parameters():
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.project(x)
        grids = self.grids(q)
        q = q * self.logit_scale
        # One neighbour after another: all values at once would be window^2 maps of the output's size.
        scores = [self._heads(q * self._read(k, grid)).sum(2) for grid in grids]  # each (B, heads, H, W)
        logits = torch.stack(scores, dim=2) + self._heads(self.position(q))  # (B, heads, neighbours, H, W)
        weights = logits.softmax(2).unsqueeze(3).unbind(2)  # each (B, heads, 1, H, W)
        terms = [
            weight * self._heads(self._read(x, grid)) for weight, grid in zip(weights, grids, strict=True)
        ]
        return sum(terms[1:], terms[0]).reshape(int(x.shape[0]), -1, *grids[0].shape[1:3])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, C / reduction, H, W), of the output's size, and keys (B, C / reduction, h, w)."""
        normed = to_nchw(self.norm(to_nhwc(x)))
        q = F.interpolate(
            self.query(normed), scale_factor=float(self.scale), mode="bilinear", align_corners=True
        )
        return q, self.key(normed)

    def shifts(self, q: Tensor) -> Tensor:
        """Queries -> (B groups, neighbours, 2, H, W): how far each neighbour moves along x and y, in output
        pixels.

        In float32 at least, whatever autocast says: half-precision positions would be off by pixels.
        """
        batch, channels, height, width = (int(side) for side in q.shape)
        parts = q.reshape(batch * self.groups, channels // self.groups, height, width)
        parts = F.gelu(to_nchw(self.shift_norm(to_nhwc(self.shift_conv(parts)))))
        shift = self.shift(parts)
        if shift.dtype.itemsize < 4:
            shift = shift.float()
        return shift.tanh().reshape(batch * self.groups, -1, 2, height, width) * self.max_shift_px

    def grids(self, q: Tensor) -> tuple[Tensor, ...]:
        """Queries -> where each neighbour is read, (B groups, H, W, 2): x and y, -1 to 1 from the first to
        the last pixel.
        """
        height, width = int(q.shape[2]), int(q.shape[3])
        shift = self.shifts(q).permute(0, 1, 3, 4, 2)
        # Lists and not ranges: an exported graph holds them as constants, small ones, as they are added one
        # by one.
        step_x, step_y = 2 / (width - 1), 2 / (height - 1)
        neighbour = shift.new_tensor(self.neighbours)[:, None, None]
        column = shift.new_tensor([[step_x * x - 1, -1] for x in range(width)])
        row = shift.new_tensor([[0, step_y * y] for y in range(height)])[:, None]
        return ((shift + neighbour) * shift.new_tensor([step_x, step_y]) + column + row).unbind(1)

    def _read(self, x: Tensor, grid: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W), each group of channels at its own grid."""
        batch, channels, height, width = (int(side) for side in x.shape)
        parts = x.reshape(batch * self.groups, channels // self.groups, height, width)
        read = F.grid_sample(parts, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return read.reshape(batch, channels, int(grid.shape[1]), int(grid.shape[2]))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, C / heads, H, W)."""
        batch, channels, height, width = (int(side) for side in x.shape)
        return x.reshape(batch, self.heads, channels // self.heads, height, width)
