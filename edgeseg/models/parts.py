"""Encoders and decoders by name: plain builder functions in two tables. A catalogue row is one of each.

The keyword-only parameters of a builder are the options that a recipe may set, plain values (int, float, bool, str), with their
defaults. Options are documented at the class that takes them. `_nano` parts have the smallest widths that keep every operation
of their family; they are for tests.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.efficientnet_lite import efficientnet_lite
from edgeseg.models.eft import Eft
from edgeseg.models.mobilenet import TENSORFLOW, Group, InvertedResidualEncoder, mobilenet_v2
from edgeseg.models.segmentor import Decoder, Encoder

EncoderBuilder = Callable[..., Encoder]
"""`build(*, options) -> Encoder`"""
DecoderBuilder = Callable[..., Decoder]
"""`build(channels, num_classes, *, options) -> Decoder`, with the widths of the encoder's four maps."""


def _eft(channels: tuple[int, ...], depths: tuple[int, ...], head_dim: int, ffn_ratio: float) -> EncoderBuilder:
    def build(*, drop_path: float = 0.2) -> Encoder:
        return Eft(channels, depths, head_dim, ffn_ratio, drop_path)

    return build


def _efficientnet_lite(size: int) -> EncoderBuilder:
    def build(*, drop_path: float = 0.2) -> Encoder:
        return efficientnet_lite(size, drop_path)

    return build


def _mobilenet_v2(*, drop_path: float = 0.0) -> Encoder:
    return mobilenet_v2(drop_path)


def _mobile_nano(*, drop_path: float = 0.0) -> Encoder:
    groups = (Group(3, 1, 1, 8, 1), Group(3, 2, 2, 8, 2), Group(5, 2, 2, 16, 1), Group(3, 2, 2, 24, 1), Group(5, 2, 2, 32, 1))
    return InvertedResidualEncoder(8, groups, TENSORFLOW, drop_path, (127.0,) * 3, (128.0,) * 3)


def _edaformer(head_dim: int, ffn_ratio: float, fuse_channels: int) -> DecoderBuilder:
    def build(channels: tuple[int, ...], num_classes: int, *, decoder_drop_path: float = 0.1, dropout: float = 0.1) -> Decoder:
        return EdaDecoder(channels, head_dim, ffn_ratio, fuse_channels, num_classes, decoder_drop_path, dropout)

    return build


ENCODERS: dict[str, EncoderBuilder] = {
    "eft_t": _eft((32, 64, 128, 256), (2, 2, 10, 2), 32, 3.8),
    "eft_b": _eft((64, 128, 256, 512), (3, 3, 22, 3), 64, 4.0),
    "eft_nano": _eft((8, 16, 24, 32), (1, 1, 1, 1), 8, 2.0),
    "efficientnet_lite0": _efficientnet_lite(0),
    "efficientnet_lite1": _efficientnet_lite(1),
    "efficientnet_lite2": _efficientnet_lite(2),
    "mobilenet_v2": _mobilenet_v2,
    "mobile_nano": _mobile_nano,
}

DECODERS: dict[str, DecoderBuilder] = {
    "edaformer_t": _edaformer(head_dim=32, ffn_ratio=2.0, fuse_channels=128),
    "edaformer_b": _edaformer(head_dim=64, ffn_ratio=1.0, fuse_channels=768),
    "edaformer_nano": _edaformer(head_dim=8, ffn_ratio=1.0, fuse_channels=16),
}
