"""The models that a recipe can name, built: rows of an encoder and a decoder
(`recipe.architectures.CATALOGUE`).
"""

from __future__ import annotations

import difflib
from typing import Any

from edgeseg.errors import RecipeError
from edgeseg.models.parts import DECODERS, ENCODERS
from edgeseg.models.segmentor import Segmentor
from edgeseg.recipe import architectures
from edgeseg.recipe.architectures import CATALOGUE, Entry

__all__ = ["CATALOGUE", "build_model", "model_options"]


def build_model(name: str, num_classes: int, **options: Any) -> Segmentor:
    """Make a model with fresh weights.

    Args:
        name: a catalogue name (`edgeseg models` lists them).
        num_classes: classes of the logits.
        options: the entry's own options, see `model_options`.
    Raises:
        RecipeError: unknown name (the nearest is offered), or options that the model does not have or take;
            all are told.
    """
    entry = _entry(name)
    if problems := list(entry.problems(options)):
        told = "; ".join(f"option {option}: {problem}" for option, problem in problems)
        raise RecipeError(
            f"model {name!r}: {told}", hint="change model.options; edgeseg recipe schema has every option"
        )
    encoder_options, decoder_options = (
        {option: value for option, value in options.items() if option in part.options}
        for part in (architectures.ENCODERS[entry.encoder], architectures.DECODERS[entry.decoder])
    )
    try:
        encoder = ENCODERS[entry.encoder](**encoder_options)
        return Segmentor(encoder, DECODERS[entry.decoder](encoder.channels, num_classes, **decoder_options))
    except ValueError as error:
        raise RecipeError(f"model {name!r}: {error}", hint="change it in model.options") from error


def model_options(name: str) -> dict[str, int | float | bool | str]:
    """The options that `build_model` takes for an entry, with their defaults. Raises RecipeError for an
    unknown name.
    """
    return {option: facts.default for option, facts in _entry(name).options.items()}


def _entry(name: str) -> Entry:
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CATALOGUE)}"
        raise RecipeError(f"there is no model named {name!r}", hint=hint)
    return CATALOGUE[name]
