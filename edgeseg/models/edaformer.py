"""EDAFormer's all-attention decoder, with inference spatial reduction (ISR); its encoder is `eft.Eft`.

Source: EDAFormer (ECCV 2024, arXiv 2407.17261), section 3.2; official code hyunwoo137/EDAFormer @ 9f98d76.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.eft import EfaBlock, efa_by_stage
from edgeseg.models.layers import BatchNorm2d, FoldableNorms, init_weights, to_nchw, to_nhwc
from edgeseg.models.segmentor import Decoder, ReducedAttention
from edgeseg.models.upsample import make_upsample


class EdaDecoder(Decoder, FoldableNorms):
    """All-attention decoder on the maps at strides 8, 16 and 32: 1, 2 and 3 EFA blocks, fused at stride 8.

    Args:
        channels: widths of the encoder's four stages; the first (stride 4) is not used.
        head_dim: channels of one attention head.
        ffn_ratio: hidden width of the FFN over the branch's width.
        fuse_channels: width after fusing.
        num_classes: classes of the logits.
        drop_path: constant rate in all six blocks.
        dropout: share of fused channels dropped before the classifier.
        upsample: how the maps at strides 16 and 32 grow to 8, a kind of `make_upsample`; "bilinear" is the
            published decoder.

    Returns (forward): logits (B, num_classes, H / 8, W / 8).
    """

    foldable_norms: ClassVar = {"fuse": "fuse_norm"}

    output_stride = 8
    attention_strides = (8, 16, 32)

    def __init__(
        self,
        channels: Sequence[int],
        head_dim: int,
        ffn_ratio: float,
        fuse_channels: int,
        num_classes: int,
        drop_path: float = 0.1,
        dropout: float = 0.1,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__()
        widths = tuple(channels[1:])
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(
                    EfaBlock(
                        width, width // head_dim, ratio, int(width * ffn_ratio), drop_path, 1e-5, decoder=True
                    )
                    for _ in range(depth)
                )
            )
            for width, ratio, depth in zip(widths, (4, 2, 1), (1, 2, 3), strict=True)
        )
        self.fuse = nn.Conv2d(sum(widths), fuse_channels, 1, bias=False)
        self.fuse_norm = BatchNorm2d(fuse_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(fuse_channels, num_classes, 1)
        self.num_classes = num_classes
        self.apply(init_weights)
        self.upsample = nn.ModuleList(make_upsample(upsample, width, 2**i) for i, width in enumerate(widths))

    def attention(self) -> list[list[ReducedAttention]]:
        return efa_by_stage(self.branches)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        maps = [
            upsample(to_nchw(branch(to_nhwc(feat))))
            for upsample, branch, feat in zip(self.upsample, self.branches, feats[1:], strict=True)
        ]
        # Deepest first: the order of the fuse convolution's input channels in published checkpoints.
        x = F.relu(self.fuse_norm(self.fuse(torch.cat(maps[::-1], dim=1))))
        return self.classifier(self.dropout(x))
