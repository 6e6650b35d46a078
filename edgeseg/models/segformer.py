"""SegFormer's decoder: every map to one width, resized to the finest, fused per pixel. No attention, no
spatial filter.

Source: SegFormer (NeurIPS 2021, arXiv 2105.15203), section 3.2, eq. 4; order of the fused channels, norm and
    activation follow
the official code, NVlabs/SegFormer @ 073b02d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import BatchNorm2d, FoldableNorms, init_weights
from edgeseg.models.segmentor import Decoder
from edgeseg.models.upsample import make_upsample


class Projection(FoldableNorms):
    """1x1 convolution; with `norm`, which takes its bias' place, BatchNorm and ReLU: (B, C_in, H, W) -> (B,
    C_out, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=not norm)
        self.norm = BatchNorm2d(out_channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else F.relu(self.norm(x))


class SegformerDecoder(Decoder, FoldableNorms):
    """All-MLP decoder on the maps at strides 4, 8, 16 and 32.

    Args:
        channels: widths of the encoder's four stages.
        num_classes: classes of the logits.
        width: of the projected maps and of the fused one; 256 with MiT-B0 and -B1, 768 from -B2 on.
        dropout: share of fused channels dropped before the classifier.
        upsample: how maps grow to stride 4, a kind of `make_upsample`; "bilinear" is the published decoder.
        branch_norm: BatchNorm and ReLU after each projection, which then has no bias: mmsegmentation's
            variant.

    Returns (forward): logits (B, num_classes, H / 4, W / 4).
    """

    foldable_norms: ClassVar = {"fuse": "fuse_norm"}

    output_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        width: int = 256,
        dropout: float = 0.1,
        upsample: str = "bilinear",
        branch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.branches = nn.ModuleList(Projection(c, width, norm=branch_norm) for c in channels)
        self.upsample = nn.ModuleList(make_upsample(upsample, width, 2**i) for i in range(len(channels)))
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.fuse_norm = BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.branches.apply(init_weights)
        init_weights(self.fuse)
        init_weights(self.classifier)
        nn.init.normal_(
            self.classifier.weight, std=0.01
        )  # mmsegmentation's; that of other convolutions saturates the softmax

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        maps = [
            upsample(branch(feat))
            for upsample, branch, feat in zip(self.upsample, self.branches, feats, strict=True)
        ]
        # Deepest first: the order of the fuse convolution's input channels in published checkpoints.
        x = F.relu(self.fuse_norm(self.fuse(torch.cat(maps[::-1], dim=1))))
        return self.classifier(self.dropout(x))
