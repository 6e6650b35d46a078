"""The JSON Schema of a recipe, for editors: what the schema says, and of the rules what JSON Schema can
say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from edgeseg.recipe.architectures import CATALOGUE, known_models
from edgeseg.recipe.labels import FORMATS, label_space
from edgeseg.recipe.parts import Option
from edgeseg.recipe.rules import known_runtimes
from edgeseg.recipe.schema import DATA_FORMATS, Recipe


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe: names of models, their options, runtimes, and lengths of
    lists among it.
    """
    schema = Recipe.model_json_schema()
    sections = schema["$defs"]
    sections["Model"]["properties"]["arch"]["anyOf"] = [
        {"enum": list(known_models())},
        {"pattern": r"^[^+]+\+[^+]+$"},
    ]
    sections["Data"]["properties"]["format"]["enum"] = DATA_FORMATS.names()
    sections["Target"]["properties"]["runtime"]["enum"] = known_runtimes()
    sections["Model"]["allOf"] = [
        _where({"arch": {"enum": names}}, {"options": _options(CATALOGUE[names[0]].options)})
        for names in _alike(CATALOGUE, lambda name: repr(CATALOGUE[name].options))
    ]
    lengths = [
        _where(
            {"model": {"properties": {"arch": {"enum": names}}, "required": ["arch"]}},
            {
                "isr": {
                    "properties": {
                        part: _length(len(stages)) for part, stages in CATALOGUE[names[0]].stages.items()
                    }
                }
            },
        )
        for names in _alike(
            CATALOGUE, lambda name: repr([len(stages) for stages in CATALOGUE[name].stages.values()])
        )
    ]
    weights = [
        _where(
            {"data": {"properties": {"format": {"const": form}}, "required": ["format"]}},
            {"train": {"properties": {"class_weights": _length(label_space(form).num_classes)}}},
        )
        for form in FORMATS
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "allOf": [*lengths, *weights],
    }


def _where(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": given, "required": list(given)}, "then": {"properties": wanted}}


def _length(count: int) -> dict[str, int]:
    """Of a list; what is no list is left to the rest of the schema."""
    return {"minItems": count, "maxItems": count}


def _alike(names: Iterable[str], key: Callable[[str], str]) -> Iterator[list[str]]:
    """Names of one key together."""
    for _, group in groupby(sorted(names, key=key), key=key):
        yield list(group)


def _options(options: dict[str, Option]) -> dict[str, Any]:
    return {
        "properties": {name: _option(option) for name, option in options.items()},
        "additionalProperties": False,
    }


def _option(option: Option) -> dict[str, Any]:
    if isinstance(option.default, bool):
        return {"type": "boolean", "default": option.default}
    if isinstance(option.default, str):
        return {"enum": list(option.choices), "default": option.default}
    bounds = {"minimum": option.least, "exclusiveMaximum" if option.below else "maximum": option.most}
    return {
        "type": "integer" if isinstance(option.default, int) else "number",
        "default": option.default,
        **bounds,
    }
