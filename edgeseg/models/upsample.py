"""Upsampling by a whole factor, by name."""

from __future__ import annotations

from torch import nn


def make_upsample(kind: str, channels: int, scale: int) -> nn.Module:
    """(B, C, h, w) -> (B, C, scale h, scale w). Raises ValueError for an unknown kind."""
    if kind == "bilinear":
        return nn.Upsample(scale_factor=float(scale), mode="bilinear", align_corners=False)
    raise ValueError(f"upsample is {kind!r}; it can be bilinear")
