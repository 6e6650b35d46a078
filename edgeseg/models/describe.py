"""What a catalogue entry costs, beside what its authors publish, and under which licence its published
weights stand.

One MAC is one multiply-add. Convolutions, linear layers and both products of attention count; norms,
activations, pooling, resizing and sampling do not. Papers that write FLOPs for this count MACs too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.errors import RecipeError
from edgeseg.models import parts
from edgeseg.models.catalog import CATALOGUE, build_model, find_entry
from edgeseg.models.segmentor import Encoder
from edgeseg.recipe.architectures import known_models


class Published(NamedTuple):
    """Published figures for 150 classes: parameters, multiply-adds at `size_hw`, who says so, and why ours
    differ.
    """

    parameters: float
    macs: float
    source: str
    difference: str
    size_hw: tuple[int, int] = (512, 512)


_EDAFORMER_SCRIPT = "hyunwoo137/EDAFormer @ 9f98d76, tools/get_flops.py"
_EDAFORMER_DIFFERENCE = (
    "counts biases, pooling and ReLU too, and a classifier that its code holds and never uses"
)
_SEGFORMER_TABLE = "arXiv 2105.15203, table 1(a)"
_SEGFORMER_DIFFERENCE = (
    "its counter adds biases and ReLU; parameters of encoder and decoder are rounded apart"
)

PUBLISHED: dict[str, Published] = {
    "edaformer_t": Published(4.95e6, 5.62e9, _EDAFORMER_SCRIPT, _EDAFORMER_DIFFERENCE),
    "edaformer_b": Published(29.46e6, 31.93e9, _EDAFORMER_SCRIPT, _EDAFORMER_DIFFERENCE),
    "segformer_b0": Published(3.8e6, 8.4e9, _SEGFORMER_TABLE, _SEGFORMER_DIFFERENCE),
    "segformer_b1": Published(13.7e6, 15.9e9, _SEGFORMER_TABLE, _SEGFORMER_DIFFERENCE),
    "segformer_b2": Published(27.5e6, 62.4e9, _SEGFORMER_TABLE, _SEGFORMER_DIFFERENCE),
    "segformer_b3": Published(47.3e6, 79.0e9, _SEGFORMER_TABLE, _SEGFORMER_DIFFERENCE),
    "segformer_b4": Published(64.1e6, 95.7e9, _SEGFORMER_TABLE, _SEGFORMER_DIFFERENCE),
    "segformer_b5": Published(84.7e6, 183.3e9, _SEGFORMER_TABLE, _SEGFORMER_DIFFERENCE, (640, 640)),
}

_NVIDIA = "NVIDIA Source Code License: non-commercial"
WEIGHTS: dict[str, str] = {
    **dict.fromkeys(("eft_t", "eft_b"), "EDAFormer's authors state no licence for weights"),
    **dict.fromkeys(("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"), _NVIDIA),
    **dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), "Apache-2.0"),
    "mobilenet_v2": "BSD-3-Clause",
}
"""Licence of the weights that others publish for an encoder; this project's code is its own and
Apache-2.0.
"""


def describe(name: str, num_classes: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Cost of a catalogue entry, as JSON values.

    Returns:
        `name`, `encoder`, `parameters`, `output_stride`, `size_multiple_px`, `summary`, `source`, `weights`
        (licence of published encoder weights, or None), and for an image of `size_hw`: `macs`, `isr` (legal
        multipliers, encoder stages first; empty without ISR). Where the entry does not take that size, these
        two are None.
    Raises:
        RecipeError: there is no such entry.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes).eval()
    entry = find_entry(name)
    try:
        model.check_size(size_hw)
    except ValueError:
        macs, isr = None, None
    else:
        macs = _encoder_macs(entry.encoder, size_hw) + _macs(model.decoder, _feats(model.encoder, size_hw))
        isr = model.isr_choices(size_hw)
    return {
        "name": name,
        "encoder": entry.encoder,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs,
        "output_stride": model.output_stride,
        "size_multiple_px": model.size_multiple_px,
        "isr": isr,
        "weights": WEIGHTS.get(entry.encoder),
        "summary": entry.summary,
        "source": entry.source,
    }


@cache
def _encoder_macs(name: str, size_hw: tuple[int, int]) -> int:
    """Kept, because one encoder stands in many entries."""
    with torch.device("meta"):
        return _macs(parts.encoder(name)().eval(), torch.empty(1, 3, *size_hw))


def _feats(encoder: Encoder, size_hw: tuple[int, int]) -> list[Tensor]:
    """What the encoder gives for an image of this size, without data."""
    height, width = size_hw
    return [
        torch.empty(1, channels, height // stride, width // stride, device="meta")
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]


def _macs(part: nn.Module, x: Tensor | list[Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(x)
    return int(counter.get_total_flops()) // 2


def describe_all(
    num_classes: int, size_hw: tuple[int, int], names: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """`describe` for some entries; None: every one. Raises RecipeError where none takes this size."""
    names = known_models() if names is None else names
    rows = [describe(name, num_classes, size_hw) for name in names]
    if all(row["macs"] is None for row in rows):
        multiple = min(row["size_multiple_px"] for row in rows)
        raise RecipeError(
            f"no model takes {size_hw[0]}x{size_hw[1]} px: not a multiple of {multiple} px on both sides",
            hint=f"round both sides to multiples of {multiple}",
        )
    return rows


def isr_text(choices: Iterable[Iterable[int]] | None) -> str | None:
    """Multipliers by stage, e.g. "7 stages: 1 2 4"; None without ISR."""
    stages = [" ".join(map(str, choice)) for choice in choices or ()]
    if not stages:
        return None
    return f"{len(stages)} stages: {stages[0]}" if len(set(stages)) == 1 else "; ".join(stages)


def markdown_table() -> str:
    """The README's table: every entry at 512x512 with 150 classes, the setting of most published figures."""
    lines = ["| model | encoder | stride | parameters | GMACs | published |", "|---|---|---|---|---|---|"]
    notes: list[str] = []
    for row in describe_all(150, (512, 512), CATALOGUE):
        figures = "-"
        if published := PUBLISHED.get(row["name"]):
            note = f"{published.source}: {published.difference}."
            notes += [note] if note not in notes else []
            figures = f"{published.parameters / 1e6:g} M, {published.macs / 1e9:g} G"
            if published.size_hw != (512, 512):
                ours = describe(row["name"], 150, published.size_hw)["macs"]
                figures += f" at {published.size_hw[0]}x{published.size_hw[1]}, here {ours / 1e9:.2f}"
            figures += f" ({notes.index(note) + 1})"
        cost = f"{row['parameters'] / 1e6:.2f} M | {row['macs'] / 1e9:.2f}"
        lines.append(f"| `{row['name']}` | {row['encoder']} | {row['output_stride']} | {cost} | {figures} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))])
