"""From a recipe file to a Recipe, and back.

A recipe that is wrong is refused with all of its mistakes at once, one a line, as `file:line: key.path:
message`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edgeseg.errors import RecipeError
from edgeseg.files import json_digest
from edgeseg.recipe.explain import explain, is_free_form, nearest, nearest_key, type_at
from edgeseg.recipe.rules import Told, across, names
from edgeseg.recipe.schema import Recipe
from edgeseg.recipe.strict_yaml import KeyPath, Mistake, Reading, dotted, plain_scalar, read_yaml

Rule = Callable[[Any], Iterable[Told]]
"""Data of a recipe, as it was read -> what is wrong with it beyond the schema; see `rules`."""

_MAX_BYTES = 1 << 20
_PACKAGE = Path(__file__).resolve().parent.parent
_SUFFIXES = (".yaml", ".yml")


def catalogue() -> dict[str, Path]:
    """Name -> file of the recipes that ship with edgeseg, by name."""
    shipped = _PACKAGE / "_recipes"  # where the wheel puts the checkout's recipes/
    folder = shipped if shipped.is_dir() else _PACKAGE.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a recipe.

    Args:
        name_or_path: a catalogue name such as `edaformer_t_camvid`, or a path. A bare name means the
            catalogue first.
    Raises:
        RecipeError: there is neither; the nearest catalogue name or file beside is offered.
    """
    known = catalogue()
    text = os.fspath(name_or_path)
    path = Path(text)
    if text in known:
        return known[text]
    try:
        if path.is_dir():
            raise RecipeError(f"{text} is a folder, not a recipe", hint=_offer(path / "recipe.yaml", known))
        if path.exists():
            return path
    except OSError as error:  # a name that is too long, a folder that must not be entered
        raise RecipeError(
            f"{text}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    raise RecipeError(f"there is no recipe {text}", hint=_offer(path, known))


def _offer(path: Path, known: dict[str, Path]) -> str:
    """What a missing recipe may have been meant to be."""
    if path.exists():
        return f"did you mean {path}?"
    beside = [file.name for suffix in _SUFFIXES for file in path.parent.glob(f"*{suffix}")]
    near_file = nearest(path.name, beside)
    if near_file and path.suffix in _SUFFIXES:
        return f"did you mean {path.with_name(near_file)}?"
    near = nearest(path.stem, known)
    return (
        f"did you mean {near}? (`edgeseg recipe list`)"
        if near
        else "`edgeseg recipe list` names those that ship"
    )


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, rules: Sequence[Rule] = ()
) -> Recipe:
    """Read, override and check a recipe.

    Args:
        path: a file, or a catalogue name.
        overrides: `key.path=value` each, applied in order; the value is YAML: a scalar, or a list such as
            `[512, 512]`.
        rules: further ones, about what the recipe names outside of itself.
    Raises:
        RecipeError: the file cannot be read, or the recipe is wrong; the message names every mistake with its
            line.
    """
    file = find_recipe(path)
    return _read(read_text(file), os.fspath(file), overrides, (across, names, *rules))


def load_kept(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a bundle was made from. What it names need not be known here, and it was made by the
    rules of its day.

    Raises:
        RecipeError: as `load_recipe`, except for `rules`.
    """
    return _read(read_text(file), os.fspath(file), overrides, ())


def recipe_of(values: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that was kept as plain values, as in a checkpoint; `where` names its place in messages.
    Raises RecipeError.
    """
    return _read(dump_yaml(dict(values)), where, overrides, (across, names))


def _read(text: str, where: str, overrides: Sequence[str], rules: Sequence[Rule]) -> Recipe:
    reading = read_yaml(text, where)
    told = list(reading.mistakes)
    if () not in reading.unread and not isinstance(reading.data, dict):
        told.append(
            Mistake(
                where, 1, "", "empty" if reading.data is None else "a recipe is made of `key: value` sections"
            )
        )
        reading.unread.add(())
    origins: dict[KeyPath, str] = {}
    for override in overrides:
        told += _override(override, reading, origins)
    recipe: Recipe | None = None
    if () not in reading.unread:
        found: list[Told] = []
        try:
            recipe = Recipe.model_validate_json(json.dumps(reading.data), strict=True)
        except ValidationError as error:
            found = explain(error, reading.data)
        refused = {key for key, _ in found}
        found += [told for rule in rules for told in rule(reading.data) if told[0] not in refused]
        mistakes = (
            locate(key, message, where, reading, origins)
            for key, message in found
            if not is_unread(key, reading)
        )
        told += dict.fromkeys(mistakes)
    if told or recipe is None:
        raise refusal(told, where, "correct these lines; `edgeseg recipe schema` describes every key")
    return recipe


def refusal(told: list[Mistake], where: str, hint: str) -> RecipeError:
    """The error that names every mistake, those of the file `where` first, in its order."""
    told = sorted(told, key=lambda mistake: (mistake.where != where, mistake.line))
    count = f"{len(told)} mistakes" if len(told) > 1 else "1 mistake"
    return RecipeError("\n".join([f"{count} in {where}", *map(str, told)]), hint=hint)


def read_text(file: Path, kind: str = "recipe") -> str:
    """Text of a file that people write; `kind` is what it should be. Raises RecipeError."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(
            f"{file}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    if len(content) > _MAX_BYTES:
        raise RecipeError(
            f"{file} is larger than {_MAX_BYTES} bytes: no {kind}", hint=f"name the YAML file of a {kind}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{file}:{line}: not UTF-8 text", hint=f"name the YAML file of a {kind}, saved as UTF-8"
        ) from error


def _override(override: str, reading: Reading, origins: dict[KeyPath, str]) -> Iterator[Mistake]:
    """Put one `key.path=value` into the reading's data; yields what is wrong with it."""
    name, equals, text = override.partition("=")
    path: KeyPath = tuple(name.strip().split("."))
    where = f"--set {override}"
    if not equals or not text.strip():
        yield Mistake(where, 0, "", "expected key.path=value (value null for nothing)")
        return
    if type_at(path) is None:
        yield Mistake(where, 0, dotted(path), f"unknown key; {nearest_key(path)}")
        return
    value = read_yaml(text, where, by_section=False)
    if value.mistakes:
        yield from (Mistake(where, 0, dotted(path), mistake.message) for mistake in value.mistakes)
        return
    if is_unread(path[:-1], reading):
        return
    parent = reading.data
    for depth, key in enumerate(path[:-1], start=1):
        inside = parent.setdefault(key, {}) if is_free_form(type_at(path[:depth])) else parent.get(key)
        if not isinstance(inside, dict):
            state = "null" if inside is None and key in parent else "no section"
            message = (
                f"{dotted(path[:depth])} is {state} in the recipe: write the section there, or set all of it"
                " at once"
            )
            yield Mistake(where, 0, dotted(path), message)
            return
        parent = inside
    parent[path[-1]] = value.data
    origins[path] = where
    reading.unread -= {one for one in reading.unread if one[: len(path)] == path}


def is_unread(path: KeyPath, reading: Reading) -> bool:
    """Whether nothing can be said about the value at `path`, because it or what holds it could not be
    read.
    """
    return any(path[:depth] in reading.unread for depth in range(len(path) + 1))


def locate(
    path: KeyPath, message: str, where: str, reading: Reading, origins: Mapping[KeyPath, str]
) -> Mistake:
    """A mistake with its place: the innermost override or line that `path` comes from; the first line for the
    root.
    """
    for depth in range(len(path), 0, -1):
        if path[:depth] in origins:
            return Mistake(origins[path[:depth]], 0, dotted(path), message)
        if path[:depth] in reading.lines and not _overridden_above(path[:depth], origins):
            return Mistake(where, reading.lines[path[:depth]], dotted(path), message)
    return Mistake(where, 1, dotted(path), message)


def _overridden_above(path: KeyPath, origins: Mapping[KeyPath, str]) -> bool:
    return any(path[:depth] in origins for depth in range(len(path)))


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256, in hex, of the resolved recipe: equal for files that differ in comments, order and written-out
    defaults.
    """
    return json_digest(_digested(recipe.model_dump(mode="json")), separators=(",", ":"), allow_nan=False)


_LATER: Mapping[str, Any] = {"image_name": "{}", "label_name": "{}"}
"""Keys of the schema that came after its first release, and their defaults: where a recipe leaves one at its
default, its digest is that of the recipe without it, so that runs and bundles of earlier versions are still
those of their recipes."""


def _digested(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: _digested(inside) for key, inside in value.items() if key not in _LATER or inside != _LATER[key]
    }


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML text, defaults written out; `load_recipe` reads the same recipe from it."""
    return dump_yaml(recipe.model_dump(mode="json"))


def dump_yaml(data: Any, *, one_line: bool = False) -> str:
    """JSON values as YAML text that `read_yaml` reads back: sections as blocks, or all of it on one line
    without an end.
    """
    width = 1 << 30 if one_line else 120
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=one_line
    )
    return text.rstrip("\n") if one_line else text


class _Dumper(yaml.SafeDumper):
    """Lists of scalars on one line; text that a YAML 1.2 reader would take for something else in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    scalars = not any(isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=scalars)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML folds rare line breaks (U+0085, U+2028) away in every other style.
    style = None if isinstance(plain_scalar(text), str) and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)
