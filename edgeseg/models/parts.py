"""Encoders and decoders by name, in two tables of plain builder functions; packages add theirs
(`recipe.parts.AddedPart`). A catalogue row is one of each.

Parameters of a builder whose defaults are plain values (int, float, bool, str) are the options that a recipe
may set; they are explained where the builder's class is. `_nano` parts have the smallest widths that keep
every operation of their family; they are for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.efficientnet_lite import efficientnet_lite
from edgeseg.models.eft import Eft
from edgeseg.models.mit import mit
from edgeseg.models.mobilenet import TENSORFLOW, Group, InvertedResidualEncoder, mobilenet_v2
from edgeseg.models.repsep import RepSepDecoder
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.segmentor import Decoder, Encoder
from edgeseg.models.vwformer import VwDecoder
from edgeseg.recipe.architectures import MODELS
from edgeseg.recipe.parts import AddedPart

EncoderBuilder = Callable[..., Encoder]
"""`build(**options) -> Encoder`"""
DecoderBuilder = Callable[..., Decoder]
"""`build(channels, num_classes, **options) -> Decoder`, with the widths of the encoder's four maps."""


def _mobile_nano(drop_path: float = 0.0) -> Encoder:
    groups = (
        Group(3, 1, 1, 8, 1),
        Group(3, 2, 2, 8, 2),
        Group(5, 2, 2, 16, 1),
        Group(3, 2, 2, 24, 1),
        Group(5, 2, 2, 32, 1),
    )
    return InvertedResidualEncoder(
        8, groups, TENSORFLOW, drop_path, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    )


def _edaformer(head_dim: int, ffn_ratio: float, fuse_channels: int) -> DecoderBuilder:
    def build(
        channels: tuple[int, ...],
        num_classes: int,
        decoder_drop_path: float = 0.1,
        dropout: float = 0.1,
        upsample: str = "bilinear",
    ) -> Decoder:
        return EdaDecoder(
            channels, head_dim, ffn_ratio, fuse_channels, num_classes, decoder_drop_path, dropout, upsample
        )

    return build


ENCODERS: dict[str, EncoderBuilder] = {
    "eft_t": partial(Eft, (32, 64, 128, 256), (2, 2, 10, 2), 32, 3.8),
    "eft_b": partial(Eft, (64, 128, 256, 512), (3, 3, 22, 3), 64, 4.0),
    "eft_nano": partial(Eft, (8, 16, 24, 32), (1, 1, 1, 1), 8, 2.0),
    **{f"mit_{size}": partial(mit, size) for size in ("b0", "b1", "b2", "b3", "b4", "b5", "nano")},
    **{f"efficientnet_lite{size}": partial(efficientnet_lite, size) for size in (0, 1, 2)},
    "mobilenet_v2": mobilenet_v2,
    "mobile_nano": _mobile_nano,
}

DECODERS: dict[str, DecoderBuilder] = {
    "edaformer_t": _edaformer(head_dim=32, ffn_ratio=2.0, fuse_channels=128),
    "edaformer_b": _edaformer(head_dim=64, ffn_ratio=1.0, fuse_channels=768),
    "edaformer_nano": _edaformer(head_dim=8, ffn_ratio=1.0, fuse_channels=16),
    "segformer_256": partial(SegformerDecoder, width=256),
    "segformer_768": partial(SegformerDecoder, width=768),
    "segformer_nano": partial(SegformerDecoder, width=16),
    "vwformer_128": partial(VwDecoder, width=128),
    "vwformer_512": partial(VwDecoder, width=512),
    "vwformer_light": partial(VwDecoder, width=128, image_pool=False, low_width=32),
    "vwformer_nano": partial(VwDecoder, width=64, low_width=8),
    "repsep": partial(RepSepDecoder, width=128),
    "repsep_nano": partial(RepSepDecoder, width=16, local_width=8),
}


def encoder(name: str) -> EncoderBuilder:
    """Return the builder of an encoder. Raises Unsupported where its package cannot be imported."""
    return ENCODERS[name] if name in ENCODERS else _imported(name)


def decoder(name: str) -> DecoderBuilder:
    """Return the builder of a decoder. Raises as `encoder`."""
    return DECODERS[name] if name in DECODERS else _imported(name)


def _imported(name: str) -> Callable[..., Any]:
    """Return the builder of a part that a package adds. Raises Unsupported."""
    part = MODELS.load(name)
    assert isinstance(part, AddedPart)  # the caller found it by its role
    return MODELS.imported(name, part.build)
