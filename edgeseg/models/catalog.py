"""The models that a recipe can name: plain builder functions in a literal table."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.errors import RecipeError
from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import Eft
from edgeseg.models.segmentor import Segmentor


def _edaformer(
    channels: tuple[int, ...],
    depths: tuple[int, ...],
    head_dim: int,
    encoder_ffn: float,
    decoder_ffn: float,
    fuse_channels: int,
) -> Callable[..., Segmentor]:
    def build(num_classes: int, drop_path: float = 0.2, decoder_drop_path: float = 0.1, dropout: float = 0.1) -> Segmentor:
        encoder = Eft(channels, depths, head_dim, encoder_ffn, drop_path)
        decoder = EdaDecoder(channels, head_dim, decoder_ffn, fuse_channels, num_classes, decoder_drop_path, dropout)
        return Segmentor(encoder, decoder)

    return build


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogue row. `build(num_classes, **options)` makes the model with fresh weights."""

    build: Callable[..., Segmentor]
    summary: str
    source: str


CATALOGUE: dict[str, Entry] = {
    "edaformer_t": Entry(
        _edaformer((32, 64, 128, 256), (2, 2, 10, 2), 32, 3.8, 2.0, 128),
        "EDAFormer-T: EFT-T encoder, all-attention decoder, ISR",
        "arXiv 2407.17261",
    ),
    "edaformer_b": Entry(
        _edaformer((64, 128, 256, 512), (3, 3, 22, 3), 64, 4.0, 1.0, 768),
        "EDAFormer-B: EFT-B encoder, all-attention decoder, ISR",
        "arXiv 2407.17261",
    ),
    "edaformer_nano": Entry(
        _edaformer((8, 16, 24, 32), (1, 1, 1, 1), 8, 2.0, 1.0, 16),
        "EDAFormer with the smallest widths that keep every part; for tests",
        "this project",
    ),
}


def build_model(name: str, num_classes: int, **options: Any) -> Segmentor:
    """Make a model with fresh weights.

    Args:
        name: a catalogue name (`edgeseg models` lists them).
        num_classes: classes of the logits.
        options: the entry's own options, e.g. `drop_path`.
    Raises:
        RecipeError: unknown name (the nearest is offered) or unknown option.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CATALOGUE)}"
        raise RecipeError(f"there is no model named {name!r}", hint=known)
    try:
        return CATALOGUE[name].build(num_classes, **options)
    except TypeError as error:
        raise RecipeError(f"model {name!r}: {error}", hint="remove the option from model.options") from error


def describe(name: str, num_classes: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Parameters, multiply-adds and output stride of a catalogue entry, as JSON values.

    One MAC is one multiply-add; convolutions, linear layers and attention products count, norms, activations and resizing do not.

    Raises:
        RecipeError: the model does not take this size.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes).eval()
        image = torch.empty(1, 3, *size_hw)
    try:
        model.check_size(size_hw)
    except ValueError as error:
        raise RecipeError(f"{name}: {error}", hint="round both sides to such a multiple") from error
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "output_stride": model.output_stride,
        "summary": CATALOGUE[name].summary,
        "source": CATALOGUE[name].source,
    }
