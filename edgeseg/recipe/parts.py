"""What can be said of encoders and decoders without torch: their options, and the stages that ISR reaches.

A test holds these facts against the parts themselves (`models.parts`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a part; its kind is that of its default, and a float may be written as a whole number.

    Attributes:
        least, most: bounds of a number.
        below: True where a number must stay below `most`.
        choices: all values of a text.
        in_training: True where it changes nothing of a trained model.
    """

    default: Value
    least: float = 0
    most: float = math.inf
    below: bool = False
    choices: tuple[str, ...] = ()
    in_training: bool = False

    def problem(self, value: object) -> str | None:
        """What is wrong with a value; None where nothing is."""
        if self._fits(value):
            return None
        near = difflib.get_close_matches(str(value), self.choices, n=1) if isinstance(value, str) else ()
        return f"must be {self.wanted}, not {_shown(value)}" + (f"; did you mean {near[0]}?" if near else "")

    @property
    def wanted(self) -> str:
        """The values that it takes, for people."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return " or ".join([", ".join(self.choices[:-1]), self.choices[-1]])
        kind = "an integer" if isinstance(self.default, int) else "a number"
        return f"{kind}, at least {self.least:g} and {'below' if self.below else 'at most'} {self.most:g}"

    def _fits(self, value: object) -> bool:
        if isinstance(self.default, (bool, str)):
            return type(value) is type(self.default) and (not self.choices or value in self.choices)
        if isinstance(value, bool) or not isinstance(
            value, int if isinstance(self.default, int) else (int, float)
        ):
            return False
        return self.least <= value < self.most or (value == self.most and not self.below)


@dataclass(frozen=True, slots=True)
class Part:
    """An encoder or a decoder.

    Attributes:
        options: what a recipe may set.
        stages: (stride, pooling ratio at training time) of each stage with attention that ISR reaches, fine
            to coarse.
    """

    options: Mapping[str, Option] = field(default_factory=dict)
    stages: tuple[tuple[int, int], ...] = ()


Role = Literal["encoder", "decoder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedPart(Part):
    """A part of another package. Its module imports no torch; that of its builder may.

    Attributes:
        role: of the part.
        build: "module:builder", as the rows of `models.parts`: `build(**options)` makes an encoder,
            `build(channels, num_classes, **options)` a decoder.
    """

    role: Role
    build: str


def _rate(default: float) -> Option:
    return Option(default, most=1, below=True, in_training=True)


def _weight(default: float) -> Option:
    return Option(default, most=1000, in_training=True)


def _width(default: int) -> Option:
    return Option(default, least=1, most=4096)


_UPSAMPLE = Option("bilinear", choices=("bilinear", "lda_aqu"))
_FOUR_STAGES = ((4, 8), (8, 4), (16, 2), (32, 1))
_EFT = Part({"drop_path": _rate(0.2)}, _FOUR_STAGES)
_MIT = Part({"drop_path": _rate(0.1)}, _FOUR_STAGES)
_EDAFORMER_DECODER = Part(
    {"decoder_drop_path": _rate(0.1), "dropout": _rate(0.1), "upsample": _UPSAMPLE},
    ((8, 4), (16, 2), (32, 1)),
)


def _segformer(width: int) -> Part:
    return Part(
        {"width": _width(width), "dropout": _rate(0.1), "branch_norm": Option(False), "upsample": _UPSAMPLE}
    )


def _vwformer(width: int, low_width: int = 48, *, image_pool: bool = True) -> Part:
    return Part(
        {
            "width": _width(width),
            "heads": Option(1, least=1, most=64),
            "shortcut": Option(True),
            "image_pool": Option(image_pool),
            "low_width": _width(low_width),
            "dropout": _rate(0.1),
            "upsample": _UPSAMPLE,
        }
    )


def _repsep(width: int, local_width: int = 64) -> Part:
    return Part(
        {
            "width": _width(width),
            "local_path": Option("light", choices=("none", "light", "full")),
            "local_width": _width(local_width),
            "sasm": Option("uniform", choices=("none", "uniform", "attention")),
            "dca": Option(True),
            "upsample": _UPSAMPLE,
            "mask_weight": _weight(0.4),
            "region_weight": _weight(0.1),
            "separation_weight": _weight(0.05),
            "dropout": _rate(0.1),
        }
    )


ENCODERS: dict[str, Part] = {
    **dict.fromkeys(("eft_t", "eft_b", "eft_nano"), _EFT),
    **{f"mit_{size}": _MIT for size in ("b0", "b1", "b2", "b3", "b4", "b5", "nano")},
    **{f"efficientnet_lite{size}": Part({"drop_path": _rate(0.2)}) for size in (0, 1, 2)},
    **dict.fromkeys(("mobilenet_v2", "mobile_nano"), Part({"drop_path": _rate(0.0)})),
}
DECODERS: dict[str, Part] = {
    **dict.fromkeys(("edaformer_t", "edaformer_b", "edaformer_nano"), _EDAFORMER_DECODER),
    "segformer_256": _segformer(256),
    "segformer_768": _segformer(768),
    "segformer_nano": _segformer(16),
    "vwformer_128": _vwformer(128),
    "vwformer_512": _vwformer(512),
    "vwformer_light": _vwformer(128, 32, image_pool=False),
    "vwformer_nano": _vwformer(64, 8),
    "repsep": _repsep(128),
    "repsep_nano": _repsep(16, 8),
}


def _shown(value: object) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or isinstance(value, bool)
        else repr(value)
    )
