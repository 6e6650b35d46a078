"""What can be said of every model without torch: its parts, their options, and the stages that ISR reaches.

The rows of `CATALOGUE` are what a recipe can name as `model.arch`. `ENCODERS` and `DECODERS` hold the facts
of their parts, so that a recipe is checked on machines that have no torch; a test holds them against the
parts themselves (`models.parts`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = int | float | bool | str
STRIDE_PX = 32
"""Of the coarsest map of every encoder: image sides are multiples of it."""


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogue row: keys of `ENCODERS` and `DECODERS`, what it is in one line, and where it comes
    from.
    """

    encoder: str
    decoder: str
    summary: str
    source: str

    @property
    def options(self) -> dict[str, Option]:
        """Of both parts, by name."""
        return {**ENCODERS[self.encoder].options, **DECODERS[self.decoder].options}

    @property
    def stages(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """`Part.stages` of "encoder" and "decoder"."""
        return {"encoder": ENCODERS[self.encoder].stages, "decoder": DECODERS[self.decoder].stages}

    def multiple_px(self, encoder: Collection[int] = (), decoder: Collection[int] = ()) -> int:
        """What image sides must be multiples of, at an ISR plan; of nothing: at the training ratios."""
        windows = [
            stride * ratio * multiplier
            for stages, plan in ((self.stages["encoder"], encoder), (self.stages["decoder"], decoder))
            for (stride, ratio), multiplier in zip(stages, plan or [1] * len(stages), strict=True)
        ]
        return math.lcm(STRIDE_PX, *windows)

    def problems(self, options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """(option, what is wrong with it) of each option that the model does not take."""
        known = self.options
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                yield (
                    name,
                    f"no such option; {f'did you mean {near[0]}?' if near else f'it has {_list(known)}'}",
                )
            elif problem := known[name].problem(value):
                yield name, problem
        yield from self._widths({name: options.get(name, option.default) for name, option in known.items()})

    def _widths(self, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Widths that do not divide as the decoder's attentions want."""
        width = values.get("width")
        if type(width) is not int or width < 1:
            return
        heads = values.get("heads", 1)
        if "heads" in values and type(heads) is int and heads >= 1:
            if width % _LARGEST_WINDOW**2:
                yield "width", f"must be a multiple of {_LARGEST_WINDOW**2}, not {width}"
            elif width % heads:
                yield "heads", f"must divide the width, {width}; not {heads}"
        elif values.get("upsample") == "lda_aqu" and width % _LDA_AQU:
            yield "width", f"must be a multiple of {_LDA_AQU} with upsample: lda_aqu, not {width}"


_LARGEST_WINDOW = 8
"""The largest ratio of a VWFormer's windows."""
_LDA_AQU = 8
"""LDA-AQU quarters the channels, and halves them again for its groups."""


def _list(names: Collection[str]) -> str:
    return ", ".join(names) or "none"


def _shown(value: object) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or isinstance(value, bool)
        else repr(value)
    )


_EDAFORMER = "arXiv 2407.17261"
_SEGFORMER = "arXiv 2105.15203"
_VWFORMER = "arXiv 2404.16573"
_REPSEP = "arXiv 2212.13764, abstract; equations are this project's"
_TESTS = "smallest widths that keep every operation; for tests"

CATALOGUE: dict[str, Entry] = {
    "edaformer_t": Entry(
        "eft_t", "edaformer_t", "EDAFormer-T: all-attention decoder, ISR in both parts", _EDAFORMER
    ),
    "edaformer_b": Entry(
        "eft_b", "edaformer_b", "EDAFormer-B: all-attention decoder, ISR in both parts", _EDAFORMER
    ),
    "edaformer_mit_b0": Entry(
        "mit_b0", "edaformer_t", "EDAFormer's decoder on SegFormer's encoder", _EDAFORMER
    ),
    "edaformer_mobilenet_v2": Entry(
        "mobilenet_v2", "edaformer_t", "EDAFormer's decoder on convolutions", _EDAFORMER
    ),
    "edaformer_nano": Entry("eft_nano", "edaformer_nano", _TESTS, _EDAFORMER),
    "segformer_b0": Entry("mit_b0", "segformer_256", "SegFormer-B0: all-MLP decoder", _SEGFORMER),
    "segformer_b1": Entry("mit_b1", "segformer_256", "SegFormer-B1", _SEGFORMER),
    "segformer_b2": Entry("mit_b2", "segformer_768", "SegFormer-B2", _SEGFORMER),
    "segformer_b3": Entry("mit_b3", "segformer_768", "SegFormer-B3", _SEGFORMER),
    "segformer_b4": Entry("mit_b4", "segformer_768", "SegFormer-B4", _SEGFORMER),
    "segformer_b5": Entry("mit_b5", "segformer_768", "SegFormer-B5", _SEGFORMER),
    "segformer_eft_t": Entry(
        "eft_t", "segformer_256", "SegFormer's decoder on EDAFormer's encoder", _SEGFORMER
    ),
    "segformer_efficientnet_lite0": Entry(
        "efficientnet_lite0", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_efficientnet_lite1": Entry(
        "efficientnet_lite1", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_efficientnet_lite2": Entry(
        "efficientnet_lite2", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_mobilenet_v2": Entry(
        "mobilenet_v2", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_nano": Entry("mit_nano", "segformer_nano", _TESTS, _SEGFORMER),
    "segformer_mobile_nano": Entry("mobile_nano", "segformer_nano", _TESTS, _SEGFORMER),
    "vwformer_mit_b0": Entry(
        "mit_b0", "vwformer_128", "VWFormer: the official code's five branches", _VWFORMER
    ),
    "vwformer_mit_b1": Entry("mit_b1", "vwformer_128", "VWFormer on MiT-B1", _VWFORMER),
    "vwformer_mit_b2": Entry("mit_b2", "vwformer_512", "VWFormer on MiT-B2", _VWFORMER),
    "vwformer_light_mit_b0": Entry(
        "mit_b0", "vwformer_light", "VWFormer: the paper's four branches", _VWFORMER
    ),
    "vwformer_light_mit_b1": Entry(
        "mit_b1", "vwformer_light", "VWFormer: the paper's four branches", _VWFORMER
    ),
    "vwformer_eft_t": Entry("eft_t", "vwformer_128", "VWFormer's decoder on EDAFormer's encoder", _VWFORMER),
    "vwformer_efficientnet_lite0": Entry(
        "efficientnet_lite0", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER
    ),
    "vwformer_efficientnet_lite1": Entry(
        "efficientnet_lite1", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER
    ),
    "vwformer_efficientnet_lite2": Entry(
        "efficientnet_lite2", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER
    ),
    "vwformer_mobilenet_v2": Entry(
        "mobilenet_v2", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER
    ),
    "vwformer_nano": Entry("mit_nano", "vwformer_nano", _TESTS, _VWFORMER),
    "repsep_mit_b0": Entry("mit_b0", "repsep", "representation separation", _REPSEP),
    "repsep_eft_t": Entry("eft_t", "repsep", "representation separation on EDAFormer's encoder", _REPSEP),
    "repsep_efficientnet_lite0": Entry(
        "efficientnet_lite0", "repsep", "representation separation on convolutions", _REPSEP
    ),
    "repsep_nano": Entry("mit_nano", "repsep_nano", _TESTS, _REPSEP),
}
