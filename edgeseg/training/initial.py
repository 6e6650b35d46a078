"""Starting from a checkpoint: its weights in a model whose classes may come in another order, or be
others.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeseg.checkpoints.file import load_checkpoint
from edgeseg.errors import DataError, RecipeError
from edgeseg.models import build_model
from edgeseg.models.weights import load_strict
from edgeseg.recipe.labels import are_synonyms, difference, held_in, order_in
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import LabelSpace


def load_initial(model: nn.Module, path: Path, recipe: Recipe, labels: LabelSpace) -> list[str]:
    """Start from a checkpoint of ours; parameters that match `train.init_skip` keep their fresh values.

    What belongs to a class goes where the class of that name is; a class that has no name of its own there is
    refused, unless these parameters are skipped.

    Args:
        model: the recipe's, for `labels`.
    Returns:
        What the user should know.
    Raises:
        DataError: the file is no checkpoint of ours, does not fit, or is of other classes; the hint names
            what to skip where that helps.
        RecipeError: a pattern of `train.init_skip` matches nothing, or all of them everything.
    """
    skip = recipe.train.init_skip
    loaded = load_checkpoint(path, recipe.model.arch)
    _check_skip(skip, {**dict.fromkeys(loaded.tensors), **dict.fromkeys(model.state_dict())})
    taken = {
        name: value
        for name, value in loaded.tensors.items()
        if not any(fnmatchcase(name, pattern) for pattern in skip)
    }
    if not taken:
        raise RecipeError(
            f"train.init_skip leaves nothing of {path} to start from: {json.dumps(list(skip))}",
            hint="skip less, or train without --init",
        )
    taken, told = _by_class(taken, loaded.meta, path, recipe, labels)
    try:
        load_strict(model, taken, allow_missing=skip)
    except DataError as error:
        raise DataError(f"{path}: {error}", hint=_skip_hint(model, taken, skip) or error.hint) from error
    return told


def class_dimensions(recipe: Recipe, num_classes: int) -> dict[str, list[int]]:
    """Which dimensions of which tensors of a recipe's model count its classes."""
    with torch.device("meta"):
        shapes = [
            {
                name: value.shape
                for name, value in (
                    build_model(recipe.model.arch, k, **recipe.model.options).state_dict().items()
                )
            }
            for k in (num_classes, num_classes + 1)
        ]
    return {
        name: found
        for name, shape in shapes[0].items()
        if (
            found := [
                i for i, (one, more) in enumerate(zip(shape, shapes[1][name], strict=True)) if one != more
            ]
        )
    }


def _by_class(
    taken: dict[str, Tensor], facts: Mapping[str, object], path: Path, recipe: Recipe, labels: LabelSpace
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with their classes in the order of `labels`, and what to tell. Raises DataError where the
    names differ.
    """
    counting = {
        name: found for name, found in class_dimensions(recipe, labels.num_classes).items() if name in taken
    }
    held = held_in(facts)
    names = held.names
    if not counting or names == labels.names:
        return taken, []
    if names is None:
        return taken, [
            f"{path} does not name its classes: they are taken to be the data's, in the data's order"
        ]
    order = order_in(labels.names, names)
    if order is None and held.published and are_synonyms(labels.names, names):
        return taken, [
            f"{difference(labels.names, names, 'the data', 'the checkpoint')}: taken for other words, as all"
            " others agree"
        ]
    if order is None:
        modules = dict.fromkeys(name.rpartition(".")[0] for name in counting)
        raise DataError(
            f"{path} is of other classes: {difference(labels.names, names, 'the data', 'the checkpoint')}",
            hint=_skip_lines(
                recipe.train.init_skip, list(modules), "other classes: start what belongs to them anew with"
            ),
        )
    if list(order) == sorted(order):
        return taken, []
    index, moved = torch.tensor(order), dict(taken)
    for name, dimensions in counting.items():
        for dimension in dimensions:
            if moved[name].shape[dimension] == len(
                order
            ):  # another count of classes is told by strict loading
                moved[name] = moved[name].index_select(dimension, index)
    where = difference(labels.names, names, "the data", "the checkpoint")
    return moved, [f"classes are taken over by name: {where}"]


def _check_skip(skip: Sequence[str], names: Mapping[str, object]) -> None:
    """Raise RecipeError for patterns that match no parameter; the nearest is offered."""
    idle = [pattern for pattern in skip if not any(fnmatchcase(name, pattern) for name in names)]
    if not idle:
        return
    known = list(dict.fromkeys(place for name in names for place in _places(name)))
    told = []
    for pattern in idle:
        near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
        told.append(
            f"{json.dumps(pattern)} matches no parameter"
            + (f"; did you mean {json.dumps(near[0])}?" if near else "")
        )
    raise RecipeError(
        f"train.init_skip: {'; '.join(told)}",
        hint=f"there are {', '.join(sorted({name.split('.')[0] for name in names}))}",
    )


def _places(name: str) -> Iterator[str]:
    """A parameter, and every module that holds it as the pattern of its parameters."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield f"{name}.*"


def _skip_hint(model: nn.Module, taken: Mapping[str, Tensor], skip: Sequence[str]) -> str | None:
    """What to leave out so that the rest of a checkpoint can be loaded; None where little of it would be
    left.

    Another number of classes is another shape of the classifier alone; an encoder lacks the decoder.
    """
    own = model.state_dict()
    unfit = [name for name in own if name in taken and taken[name].shape != own[name].shape]
    unfit += [name for name in taken if name not in own]
    absent = [
        name for name in own if name not in taken and not any(fnmatchcase(name, pattern) for pattern in skip)
    ]
    if 2 * (len(unfit) + len(absent)) > len(own) and not all(
        name.startswith("decoder.") for name in (*unfit, *absent)
    ):
        return None
    whole = bool(absent) and not any(name.startswith("decoder.") for name in taken)
    modules = ["decoder"] if whole else dict.fromkeys(name.rpartition(".")[0] for name in (*unfit, *absent))
    return _skip_lines(
        skip, list(modules), "another number of classes, or another decoder: start those parameters anew with"
    )


def _skip_lines(skip: Sequence[str], modules: Sequence[str], why: str) -> str:
    """A hint: what to write, or to give, so that these modules start anew."""
    patterns = json.dumps([*skip, *(f"{module}.*" for module in modules)])
    return (
        f"{why}\n  train.init_skip: {patterns}   in the recipe, or --set"
        f" {shlex.quote(f'train.init_skip={patterns}')}"
    )
