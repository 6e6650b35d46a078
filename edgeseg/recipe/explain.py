"""Says what is wrong with a recipe in the recipe's own words: pydantic's errors, unknown keys and the nearest
valid ones.

`root` is the section that a whole document is: a `Recipe`, unless another kind of document is read in the
same way.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edgeseg.recipe.schema import Recipe, Section
from edgeseg.recipe.strict_yaml import KeyPath, dotted, plain_scalar

_SECTION = "a section of `key: value` lines"
_WANTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "none_required": "null",
}


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that `word` was most likely meant to be."""
    found = difflib.get_close_matches(word, known, n=1)
    return found[0] if found else None


def key_names(root: type[Section] = Recipe) -> Iterator[str]:
    """Every key of a recipe as a dotted path, sections included; list items have none."""

    def below(section: type[Section], path: KeyPath) -> Iterator[str]:
        for name, info in section.model_fields.items():
            yield dotted((*path, name))
            inner = section_of(info.annotation)
            if inner is not None:
                yield from below(inner, (*path, name))

    return below(root, ())


def type_at(path: KeyPath, root: type[Section] = Recipe) -> Any:
    """Type of the values that a recipe can hold at `path`, None where it can hold none; free-form sections
    hold any key.
    """
    here: Any = root
    for key in path:
        section = section_of(here)
        if section is None:
            here = get_args(here)[1] if is_free_form(here) else None
        else:
            info = section.model_fields.get(str(key))
            here = info.annotation if info else None
    return here


def is_free_form(annotation: Any) -> bool:
    """Whether a value of this type is a section with keys of the user's choice (model.options)."""
    return get_origin(annotation) is dict


def nearest_key(path: KeyPath, root: type[Section] = Recipe) -> str:
    """How to go on after a key that does not exist: the nearest one, or those that stand beside it."""
    *parents, last = path
    section = _section_at(tuple(parents), root)
    siblings = list(section.model_fields) if section else []
    near = nearest(str(last), siblings)
    if near:
        return f"did you mean {near}?" if parents else f"did you mean {near}, a top-level key?"
    everywhere = list(key_names(root))
    same_name = [name for name in everywhere if name.split(".")[-1] == last]
    near = same_name[0] if same_name else nearest(dotted(path), everywhere)
    if near is None:
        endings = {name.split(".")[-1]: name for name in everywhere}
        near = endings.get(nearest(str(last), endings) or "")
    if near:
        return f"did you mean {near}?"
    return f"known here: {', '.join(siblings)}" if siblings else f"{dotted(tuple(parents))} holds no keys"


def explain(error: ValidationError, data: Any, root: type[Section] = Recipe) -> list[tuple[KeyPath, str]]:
    """What to tell the user about each value that the schema refuses.

    Args:
        error: what pydantic raised for `data`.
        data: the recipe as read.
    Returns:
        (path, message) pairs, one a path, in the order of the schema. A missing key whose misspelling is
        present is told once, as the misspelling.
    """
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        grouped.setdefault(_path(details, data), []).append(details)
    told: list[tuple[KeyPath, str]] = []
    misspelt: set[KeyPath] = set()
    for path, group in grouped.items():
        if group[0]["type"] == "extra_forbidden":
            section = _section_at(path[:-1], root)
            near = nearest(str(path[-1]), section.model_fields) if section else None
            misspelt.add((*path[:-1], near or ""))
    for path, group in grouped.items():
        kind = group[0]["type"]
        below_is_wrong = any(other[: len(path)] == path and other != path for other in grouped)
        if (kind == "missing" and path in misspelt) or (kind == "too_short" and below_is_wrong):
            continue
        told.append((path, _message(path, group, root)))
    return told


def _path(details: ErrorDetails, data: Any) -> KeyPath:
    """Where an error is, without the marks that pydantic adds for union members and dictionary keys."""
    path: list[str | int] = []
    for key in details["loc"]:
        inside = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        if key not in inside and not (isinstance(data, dict) and details["type"] == "missing"):
            break
        path.append(key)
        data = inside.get(key)
    return tuple(path)


def _message(path: KeyPath, group: list[ErrorDetails], root: type[Section]) -> str:
    details = group[-1]
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key; {nearest_key(path, root)}"
    if kind == "missing":
        if isinstance(details["loc"][-1], int):
            return f"needs {details['loc'][-1] + 1} values, not {len(value)}"
        return f"missing{_described(path, root)}"
    if kind in _WANTED:
        wanted = " or ".join(
            ", ".join(dict.fromkeys(_WANTED.get(one["type"], one["msg"]) for one in group)).rsplit(", ", 1)
        )
        more = _needed(path, root) if wanted == _SECTION else ""
        described = _described(path, root) if value is None else ""
        return f"must be {wanted}{more}, not {_shown(value)}{_quotes(kind, value)}{described}"
    if kind in ("too_short", "too_long"):
        bound = (
            f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        )
        return f"takes {bound} values, not {context['actual_length']}"
    if kind == "value_error":
        return details["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        near = nearest(
            str(value), [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        )
        return f"must be {context['expected']}, not {_shown(value)}" + (
            f"; did you mean {near}?" if near else ""
        )
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}, not {_shown(value)}"
    return f"{details['msg'].replace('Input should be', 'must be')}, not {_shown(value)}"


def _needed(path: KeyPath, root: type[Section]) -> str:
    """What a section must hold, and whether null may stand in its place."""
    section, annotation = _section_at(path, root), type_at(path, root)
    keys = [name for name, info in section.model_fields.items() if info.is_required()] if section else []
    needed = f" ({', '.join(keys)})" if keys else ""
    return needed + (" or null" if type(None) in get_args(annotation) else "")


def _quotes(kind: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f'; for text write "{_shown(value)}"'
    if (
        isinstance(value, str)
        and kind in ("int_type", "float_type")
        and not isinstance(plain_scalar(value), (str, type(None)))
    ):
        return "; write it without quotes"
    return ""


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "a section" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _described(path: KeyPath, root: type[Section]) -> str:
    section = _section_at(path[:-1], root)
    info = section.model_fields.get(str(path[-1])) if section and path else None
    if info is None:
        return ""
    inner = section_of(info.annotation)
    text = info.description or (inner.__doc__ if inner and inner is not section else None)
    return f": {text.splitlines()[0].rstrip('.')}" if text else ""


def _section_at(path: KeyPath, root: type[Section]) -> type[Section] | None:
    here: type[Section] | None = root
    for key in path:
        if here is None:
            return None
        if isinstance(key, int):
            continue
        info = here.model_fields.get(key)
        here = section_of(info.annotation) if info else None
    return here


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds: itself, or null, or a list of them."""
    # Python 3.10 takes tuple[X, ...] for a class; it has an origin, a class has none.
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, tuple, Annotated):
        for argument in get_args(annotation):
            found = section_of(argument)
            if found is not None:
                return found
    return None
