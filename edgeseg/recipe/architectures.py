"""Every model that a recipe can name, without torch, so that recipes are checked on machines that have none.

`model.arch` is a row of `CATALOGUE`, or any pair of parts as "ENCODER+DECODER". Packages add parts and named
pairs through the entry-point group `edgeseg.models`: an entry point names an `AddedPart` or an `Entry`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import Unsupported
from edgeseg.recipe.parts import DECODERS, ENCODERS, AddedPart, Option, Part, Role
from edgeseg.registry import MODELS_GROUP, Table

STRIDE_PX = 32
"""Of the coarsest map of every encoder: image sides are multiples of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair of parts: their names, what it is in one line, and where it comes from."""

    encoder: str
    decoder: str
    summary: str
    source: str

    @property
    def parts(self) -> tuple[tuple[Role, str], tuple[Role, str]]:
        """Role and name of both."""
        return ("encoder", self.encoder), ("decoder", self.decoder)

    @property
    def options(self) -> dict[str, Option]:
        """Of both parts, by name."""
        return {name: one for role, part in self.parts for name, one in part_of(role, part).options.items()}

    @property
    def stages(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """`Part.stages` of "encoder" and "decoder"."""
        return {role: part_of(role, part).stages for role, part in self.parts}

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
        if self.decoder in DECODERS:
            yield from self._widths(
                {name: options.get(name, option.default) for name, option in known.items()}
            )

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

MODELS: Table[AddedPart | Entry] = Table(MODELS_GROUP, "model", {}, taken=(*CATALOGUE, *ENCODERS, *DECODERS))
"""What packages add; ours are in `CATALOGUE`, `ENCODERS` and `DECODERS`."""


def entry_of(arch: str) -> Entry | None:
    """Return the pair of parts that a recipe names; None where there is none of this name.

    Raises:
        Unsupported: the package that adds it cannot be imported.
    """
    if arch in CATALOGUE:
        return CATALOGUE[arch]
    encoder, plus, decoder = arch.partition("+")
    if plus:
        known = encoder in known_parts("encoder") and decoder in known_parts("decoder")
        return Entry(encoder, decoder, f"{decoder} on {encoder}", "") if known else None
    added = MODELS.load(arch) if arch in MODELS.plugins() else None
    return added if isinstance(added, Entry) else None


def known_models() -> dict[str, Entry]:
    """Return every named pair, without those of packages that cannot be imported."""
    return {**CATALOGUE, **{name: row for name, row in _added().items() if isinstance(row, Entry)}}


def known_parts(role: Role) -> dict[str, Part]:
    """Return every part of a role, without those of packages that cannot be imported."""
    ours: dict[str, Part] = {**(ENCODERS if role == "encoder" else DECODERS)}
    for name, row in _added().items():
        if isinstance(row, AddedPart) and row.role == role:
            ours[name] = row
    return ours


def part_of(role: Role, name: str) -> Part:
    """Return the facts of a part. Raises Unsupported: there is none, or its package cannot be imported."""
    ours = ENCODERS if role == "encoder" else DECODERS
    if name in ours:
        return ours[name]
    row = MODELS.load(name)
    if not isinstance(row, AddedPart) or row.role != role:
        raise Unsupported(f"{name!r} is no {role}", hint="edgeseg models lists them")
    return row


def unknown_in(arch: str) -> tuple[str, str, str]:
    """Return what `entry_of` does not know of a name: "model", "encoder" or "decoder", what that is called,
    and the nearest name that is known; "" where none is near.
    """
    encoder, plus, decoder = arch.partition("+")
    roles: tuple[tuple[Role, str], ...] = (("encoder", encoder), ("decoder", decoder)) if plus else ()
    for role, name in roles:
        known = known_parts(role)
        if name not in known:
            return role, name, _near(name, known)
    return "model", arch, _near(arch, known_models())


def _near(name: str, known: Collection[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1)), "")


def _added() -> dict[str, AddedPart | Entry]:
    found = {}
    for name in MODELS.plugins():
        with suppress(Unsupported):  # the doctor tells it
            found[name] = MODELS.load(name)
    return found
