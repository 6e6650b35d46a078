"""The models that a recipe can name: rows of an encoder and a decoder."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import RecipeError
from edgeseg.models.parts import DECODERS, ENCODERS
from edgeseg.models.segmentor import Segmentor

_EDAFORMER = "arXiv 2407.17261"


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogue row: keys of `parts.ENCODERS` and `parts.DECODERS`, what it is in one line, and where it comes from."""

    encoder: str
    decoder: str
    summary: str
    source: str


CATALOGUE: dict[str, Entry] = {
    "edaformer_t": Entry("eft_t", "edaformer_t", "EDAFormer-T: all-attention decoder, ISR in both parts", _EDAFORMER),
    "edaformer_b": Entry("eft_b", "edaformer_b", "EDAFormer-B: all-attention decoder, ISR in both parts", _EDAFORMER),
    "edaformer_mobilenet_v2": Entry(
        "mobilenet_v2",
        "edaformer_t",
        "EDAFormer's decoder, ISR in it, on a convolutional encoder with ImageNet weights",
        _EDAFORMER,
    ),
    "edaformer_nano": Entry("eft_nano", "edaformer_nano", "EDAFormer with the smallest widths; for tests", "this project"),
    "edaformer_mobile_nano": Entry(
        "mobile_nano", "edaformer_nano", "inverted residuals with the smallest widths; for tests", "this project"
    ),
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


def _options(build: Any) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _fits(value: object, default: object) -> bool:
    """Whether `value` is of the default's type; a float may be written as a whole number, a bool is no number."""
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def _nearest(wrong: str, known: Mapping[str, object], title: str) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{title}: {', '.join(known)}"
