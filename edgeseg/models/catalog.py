"""The models that a recipe can name: rows of an encoder and a decoder."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import RecipeError
from edgeseg.models.parts import DECODERS, ENCODERS
from edgeseg.models.segmentor import Segmentor


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogue row: keys of `parts.ENCODERS` and `parts.DECODERS`, what it is in one line, and where it comes from."""

    encoder: str
    decoder: str
    summary: str
    source: str


_EDAFORMER = "arXiv 2407.17261"
_SEGFORMER = "arXiv 2105.15203"
_VWFORMER = "arXiv 2404.16573"
_REPSEP = "arXiv 2212.13764, abstract; equations are this project's"
_TESTS = "smallest widths that keep every operation; for tests"

CATALOGUE: dict[str, Entry] = {
    "edaformer_t": Entry("eft_t", "edaformer_t", "EDAFormer-T: all-attention decoder, ISR in both parts", _EDAFORMER),
    "edaformer_b": Entry("eft_b", "edaformer_b", "EDAFormer-B: all-attention decoder, ISR in both parts", _EDAFORMER),
    "edaformer_mit_b0": Entry("mit_b0", "edaformer_t", "EDAFormer's decoder on SegFormer's encoder", _EDAFORMER),
    "edaformer_mobilenet_v2": Entry("mobilenet_v2", "edaformer_t", "EDAFormer's decoder on convolutions", _EDAFORMER),
    "edaformer_nano": Entry("eft_nano", "edaformer_nano", _TESTS, _EDAFORMER),
    "segformer_b0": Entry("mit_b0", "segformer_256", "SegFormer-B0: all-MLP decoder", _SEGFORMER),
    "segformer_b1": Entry("mit_b1", "segformer_256", "SegFormer-B1", _SEGFORMER),
    "segformer_b2": Entry("mit_b2", "segformer_768", "SegFormer-B2", _SEGFORMER),
    "segformer_b3": Entry("mit_b3", "segformer_768", "SegFormer-B3", _SEGFORMER),
    "segformer_b4": Entry("mit_b4", "segformer_768", "SegFormer-B4", _SEGFORMER),
    "segformer_b5": Entry("mit_b5", "segformer_768", "SegFormer-B5", _SEGFORMER),
    "segformer_eft_t": Entry("eft_t", "segformer_256", "SegFormer's decoder on EDAFormer's encoder", _SEGFORMER),
    "segformer_efficientnet_lite0": Entry(
        "efficientnet_lite0", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_efficientnet_lite1": Entry(
        "efficientnet_lite1", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_efficientnet_lite2": Entry(
        "efficientnet_lite2", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER
    ),
    "segformer_mobilenet_v2": Entry("mobilenet_v2", "segformer_256", "SegFormer's decoder on convolutions", _SEGFORMER),
    "segformer_nano": Entry("mit_nano", "segformer_nano", _TESTS, _SEGFORMER),
    "segformer_mobile_nano": Entry("mobile_nano", "segformer_nano", _TESTS, _SEGFORMER),
    "vwformer_mit_b0": Entry("mit_b0", "vwformer_128", "VWFormer: the official code's five branches", _VWFORMER),
    "vwformer_mit_b1": Entry("mit_b1", "vwformer_128", "VWFormer on MiT-B1", _VWFORMER),
    "vwformer_mit_b2": Entry("mit_b2", "vwformer_512", "VWFormer on MiT-B2", _VWFORMER),
    "vwformer_light_mit_b0": Entry("mit_b0", "vwformer_light", "VWFormer: the paper's four branches", _VWFORMER),
    "vwformer_light_mit_b1": Entry("mit_b1", "vwformer_light", "VWFormer: the paper's four branches", _VWFORMER),
    "vwformer_eft_t": Entry("eft_t", "vwformer_128", "VWFormer's decoder on EDAFormer's encoder", _VWFORMER),
    "vwformer_efficientnet_lite0": Entry("efficientnet_lite0", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER),
    "vwformer_efficientnet_lite1": Entry("efficientnet_lite1", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER),
    "vwformer_efficientnet_lite2": Entry("efficientnet_lite2", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER),
    "vwformer_mobilenet_v2": Entry("mobilenet_v2", "vwformer_128", "VWFormer's decoder on convolutions", _VWFORMER),
    "vwformer_nano": Entry("mit_nano", "vwformer_nano", _TESTS, _VWFORMER),
    "repsep_mit_b0": Entry("mit_b0", "repsep", "representation separation", _REPSEP),
    "repsep_eft_t": Entry("eft_t", "repsep", "representation separation on EDAFormer's encoder", _REPSEP),
    "repsep_efficientnet_lite0": Entry("efficientnet_lite0", "repsep", "representation separation on convolutions", _REPSEP),
    "repsep_nano": Entry("mit_nano", "repsep_nano", _TESTS, _REPSEP),
}


def build_model(name: str, num_classes: int, **options: Any) -> Segmentor:
    """Make a model with fresh weights.

    Args:
        name: a catalogue name (`edgeseg models` lists them).
        num_classes: classes of the logits.
        options: the entry's own options, see `model_options`.
    Raises:
        RecipeError: unknown name or option (the nearest is offered), or an option's value that its part does not take.
    """
    entry = _entry(name)
    known = model_options(name)
    for option, value in options.items():
        if option not in known:
            raise RecipeError(f"model {name!r} has no option {option!r}", hint=_nearest(option, known, f"options of {name}"))
        if not _fits(value, known[option]):
            raise RecipeError(
                f"model {name!r}: option {option} must be of type {type(known[option]).__name__}, not {value!r}",
                hint=f"its default is {known[option]!r}",
            )
    encoder_options, decoder_options = (
        {option: value for option, value in options.items() if option in _options(build)}
        for build in (ENCODERS[entry.encoder], DECODERS[entry.decoder])
    )
    try:
        encoder = ENCODERS[entry.encoder](**encoder_options)
        return Segmentor(encoder, DECODERS[entry.decoder](encoder.channels, num_classes, **decoder_options))
    except ValueError as error:
        raise RecipeError(f"model {name!r}: {error}", hint="change it in model.options") from error


def model_options(name: str) -> dict[str, int | float | bool | str]:
    """The options that `build_model` takes for an entry, with their defaults. Raises RecipeError for an unknown name."""
    entry = _entry(name)
    return {**_options(ENCODERS[entry.encoder]), **_options(DECODERS[entry.decoder])}


def _entry(name: str) -> Entry:
    if name not in CATALOGUE:
        raise RecipeError(f"there is no model named {name!r}", hint=_nearest(name, CATALOGUE, "known"))
    return CATALOGUE[name]


def _options(build: Callable[..., object]) -> dict[str, Any]:
    defaults = {parameter.name: parameter.default for parameter in inspect.signature(build).parameters.values()}
    return {option: default for option, default in defaults.items() if isinstance(default, (int, float, str))}


def _fits(value: object, default: object) -> bool:
    """Whether `value` is of the default's type; a float may be written as a whole number, a bool is no number."""
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def _nearest(wrong: str, known: Mapping[str, object], title: str) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{title}: {', '.join(known)}"
