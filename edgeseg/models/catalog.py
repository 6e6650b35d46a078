"""The models that a recipe can name, built: pairs of an encoder and a decoder (`recipe.architectures`)."""

from __future__ import annotations

from typing import Any

from edgeseg.errors import RecipeError
from edgeseg.models import parts
from edgeseg.models.segmentor import Segmentor
from edgeseg.recipe.architectures import CATALOGUE, Entry, entry_of, known_models, part_of, unknown_in

__all__ = ["CATALOGUE", "build_model", "find_entry", "model_options"]


def build_model(name: str, num_classes: int, **options: Any) -> Segmentor:
    """Make a model with fresh weights.

    Args:
        name: a catalogue name (`edgeseg models` lists them), or "ENCODER+DECODER".
        num_classes: classes of the logits.
        options: the entry's own options, see `model_options`.
    Raises:
        RecipeError: unknown name (the nearest is offered), or options that the model does not have or take;
            all are told.
        Unsupported: the package that adds a part cannot be imported.
    """
    entry = find_entry(name)
    if problems := list(entry.problems(options)):
        told = "; ".join(f"option {option}: {problem}" for option, problem in problems)
        raise RecipeError(
            f"model {name!r}: {told}", hint="change model.options; edgeseg recipe schema has every option"
        )
    encoder_options, decoder_options = (
        {option: value for option, value in options.items() if option in part_of(role, part).options}
        for role, part in entry.parts
    )
    try:
        encoder = parts.encoder(entry.encoder)(**encoder_options)
        decoder = parts.decoder(entry.decoder)(encoder.channels, num_classes, **decoder_options)
        return Segmentor(encoder, decoder)
    except ValueError as error:
        raise RecipeError(f"model {name!r}: {error}", hint="change it in model.options") from error


def model_options(name: str) -> dict[str, int | float | bool | str]:
    """The options that `build_model` takes for an entry, with their defaults. Raises RecipeError for an
    unknown name.
    """
    return {option: facts.default for option, facts in find_entry(name).options.items()}


def find_entry(name: str) -> Entry:
    """Return the parts of a model. Raises RecipeError for an unknown name, Unsupported as `build_model`."""
    entry = entry_of(name)
    if entry is None:
        kind, unknown, near = unknown_in(name)
        raise RecipeError(
            f"there is no {kind} named {unknown!r}",
            hint=f"did you mean {near!r}?" if near else f"known: {', '.join(known_models())}",
        )
    return entry
