"""Upsampling by a whole factor, by name."""

from __future__ import annotations

from torch import nn

from edgeseg.models.lda_aqu import LdaAqu

KINDS = ("bilinear", "lda_aqu")


def make_upsample(kind: str, channels: int, scale: int) -> nn.Module:
    """(B, C, h, w) -> (B, C, scale h, scale w); scale 1 is the identity.

    Args:
        kind: "bilinear", pixel centres aligned, one resize for any scale; or "lda_aqu", learned, in steps of
            two as its authors use it, each with parameters of its own.
    Raises:
        ValueError: unknown kind, `channels` that LDA-AQU does not take, or a scale that is no power of two
            for it.

    Learned upsampling initialises itself: a decoder that gives weights to all its parts makes its upsampling
    afterwards.
    """
    if kind not in KINDS:
        raise ValueError(f"upsample is {kind!r}; it can be {' or '.join(KINDS)}")
    if scale == 1:
        return nn.Identity()
    if kind == "bilinear":
        return nn.Upsample(scale_factor=float(scale), mode="bilinear", align_corners=False)
    if scale < 1 or scale & (scale - 1):
        raise ValueError(f"lda_aqu doubles: a scale of {scale} is no power of two")
    return nn.Sequential(*(LdaAqu(channels) for _ in range(scale.bit_length() - 1)))
