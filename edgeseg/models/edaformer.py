"""EDAFormer: the EFT encoder and an all-attention decoder, with inference spatial reduction (ISR).

Source: EDAFormer (ECCV 2024, arXiv 2407.17261), section 3.2; official code hyunwoo137/EDAFormer @ 9f98d76.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.eft import EfaBlock, Eft, EmbeddingFreeAttention
from edgeseg.models.layers import BatchNorm2d, init_weights, to_nchw, to_nhwc
from edgeseg.specs import IsrPlan


class EdaDecoder(nn.Module):
    """All-attention decoder on the maps at strides 8, 16 and 32: 1, 2 and 3 EFA blocks, fused at stride 8.

    Args:
        channels: widths of the encoder's four stages; the first (stride 4) is not used.
        head_dim: channels of one attention head.
        ffn_ratio: hidden width of the FFN over the branch's width.
        fuse_channels: width after fusing.
        num_classes: classes of the logits.
        drop_path: constant rate in all six blocks.
        dropout: share of fused channels dropped before the classifier.

    Returns (forward): logits (B, num_classes, H / 8, W / 8).
    """

    strides = (8, 16, 32)

    def __init__(
        self,
        channels: Sequence[int],
        head_dim: int,
        ffn_ratio: float,
        fuse_channels: int,
        num_classes: int,
        drop_path: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = tuple(channels[1:])
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(
                    EfaBlock(width, width // head_dim, ratio, int(width * ffn_ratio), drop_path, 1e-5, decoder=True)
                    for _ in range(depth)
                )
            )
            for width, ratio, depth in zip(widths, (4, 2, 1), (1, 2, 3), strict=True)
        )
        self.fuse = nn.Conv2d(sum(widths), fuse_channels, 1, bias=False)
        self.fuse_norm = BatchNorm2d(fuse_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(fuse_channels, num_classes, 1)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        maps = [to_nchw(branch(to_nhwc(feat))) for branch, feat in zip(self.branches, feats[1:], strict=True)]
        size_hw = (maps[0].shape[2], maps[0].shape[3])
        # Deepest first: the order of the fuse convolution's input channels in published checkpoints.
        resized = [F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False) for x in maps[:0:-1]]
        x = self.fuse(torch.cat([*resized, maps[0]], dim=1))
        x = F.relu(self.fuse_norm(x))
        return self.classifier(self.dropout(x))


class EdaFormer(nn.Module):
    """Encoder and decoder. `forward`: image (B, 3, H, W), normalised -> logits (B, K, H / 8, W / 8).

    H and W must be multiples of `size_multiple_px`, 32 at the base plan; anything else is a ValueError, in training as in
    export.
    """

    output_stride = 8

    def __init__(self, encoder: Eft, decoder: EdaDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.apply(init_weights)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(image))
        return logits

    def _attention(self) -> tuple[list[list[EmbeddingFreeAttention]], list[list[EmbeddingFreeAttention]]]:
        """Attention modules by encoder stage and by decoder branch, fine to coarse."""

        def by_stage(stages: nn.ModuleList) -> list[list[EmbeddingFreeAttention]]:
            return [[m for m in stage.modules() if isinstance(m, EmbeddingFreeAttention)] for stage in stages]

        return by_stage(self.encoder.stages), by_stage(self.decoder.branches)

    @property
    def isr_plan(self) -> IsrPlan:
        """The plan in force."""
        encoder, decoder = self._attention()
        return IsrPlan(*(tuple(stage[0].multiplier for stage in part) for part in (encoder, decoder)))

    def set_isr(self, plan: IsrPlan) -> None:
        """Put a plan in force. No weight changes. Raises ValueError where the plan has another number of stages."""
        encoder, decoder = self._attention()
        parts = ((encoder, plan.encoder, "encoder"), (decoder, plan.decoder, "decoder"))
        for part, multipliers, name in parts:  # before anything changes
            if len(part) != len(multipliers):
                raise ValueError(f"the plan {plan} has {len(multipliers)} {name} multipliers; this model has {len(part)}")
        for part, multipliers, _ in parts:
            for stage, multiplier in zip(part, multipliers, strict=True):
                for attention in stage:
                    attention.multiplier = multiplier

    def isr_choices(self, size_hw: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        """Legal multipliers of each encoder stage, then of each decoder stage, for an image of this size.

        Legal is what pools the map without a remainder.
        """
        choices = []
        for part, strides in zip(self._attention(), (Eft.strides, EdaDecoder.strides), strict=True):
            for stage, stride in zip(part, strides, strict=True):
                height, width = (side // stride // stage[0].ratio for side in size_hw)
                limit = math.gcd(height, width)
                choices.append(tuple(m for m in range(1, limit + 1) if limit % m == 0))
        return tuple(choices)

    @property
    def size_multiple_px(self) -> int:
        """Image sides must be multiples of this, at the plan in force."""
        encoder, decoder = self._attention()
        windows = [
            stride * stage[0].ratio * stage[0].multiplier
            for part, strides in ((encoder, Eft.strides), (decoder, EdaDecoder.strides))
            for stage, stride in zip(part, strides, strict=True)
        ]
        return math.lcm(*windows)
