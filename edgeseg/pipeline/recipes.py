"""A recipe with what it names outside of itself: its calibration set, and with torch the layers that it keeps
float.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from edgeseg.data.calib import MIN_IMAGES, load_calib
from edgeseg.errors import DataError
from edgeseg.recipe import load
from edgeseg.recipe.labels import difference
from edgeseg.recipe.rules import Told, across
from edgeseg.recipe.schema import DATA_FORMATS, Recipe
from edgeseg.recipe.values import Values
from edgeseg.specs import Form, IsrPlan

_IMAGES = ("quant", "calibration", "images")
_KEEP_FLOAT = ("quant", "keep_float")


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe, and what it names.

    Args and Raises: as `edgeseg.recipe.load.load_recipe`; the calibration set must be there and fit the
    recipe's data.
    """
    return load.load_recipe(path, overrides, rules=RULES)


def unchecked(recipe: Recipe) -> list[str]:
    """What of a recipe could not be checked here, and why; empty where everything was."""
    if recipe.quant is not None and recipe.quant.keep_float and not _has_torch():
        return [
            "quant.keep_float: layers are looked up in the model, which needs torch (pip install"
            " 'edgeseg[train]')"
        ]
    return []


def calibration(data: Any) -> Iterator[Told]:
    """A calibration set that is not there, cannot be read, or is of other data than the recipe's."""
    values = Values(data)
    named = values.get(*_IMAGES)
    if not isinstance(named, str) or not named:
        return
    try:
        found = load_calib(named)
    except DataError as error:
        told = " ".join(str(error).splitlines()[:2])
        yield _IMAGES, f"{told}; {error.hint}"
        return
    form = values.get("data", "format")
    if form not in DATA_FORMATS:
        return
    if form != found.format:
        yield _IMAGES, f"the set {named} is of {found.format} data, the recipe's are {form}"
        return
    if len(found.images) < MIN_IMAGES:
        yield (
            _IMAGES,
            f"the set {named} holds {len(found.images)} images; at least {MIN_IMAGES}, some dozens are usual",
        )
    own = values.own_labels
    given = [] if form == "synthetic" else values.items("data", "classes", "names")
    names = given or (list(own.names) if own else [])
    if names and all(isinstance(name, str) for name in names):
        apart = difference(names, [row.name for row in found.classes], "the recipe", f"the set {named}")
        if apart:
            yield _IMAGES, apart


def layers(data: Any) -> Iterator[Told]:
    """Globs of layers to keep float that name none. Silent without torch, and where the model itself is not
    settled.
    """
    values = Values(data)
    globs = [glob for glob in values.items(*_KEEP_FLOAT) if isinstance(glob, str)]
    if (
        not globs
        or values.entry is None
        or not _has_torch()
        or any(path[0] in _SETTLED for path, _ in across(data))
    ):
        return
    known = _layers(values)
    for index, glob in enumerate(values.items(*_KEEP_FLOAT)):
        if isinstance(glob, str) and glob and not any(fnmatchcase(name, glob) for name in known):
            near = difflib.get_close_matches(glob, known, n=1, cutoff=0.3)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"it has {', '.join(known[:3])} and {len(known) - 3} more"
            )
            yield (*_KEEP_FLOAT, index), f"{values.get('model', 'arch')} has no layer {glob!r}; {hint}"


RULES = (calibration, layers)
_SETTLED = ("model", "isr", "export")
"""Sections that a model's layers follow from."""


def _has_torch() -> bool:
    return find_spec("torch") is not None


def _layers(values: Values) -> list[str]:
    """What `quant.keep_float` may name, in the form of the model that is quantized; none where it cannot be
    built.
    """
    from edgeseg.int8.rules import candidates
    from edgeseg.models import build_model
    from edgeseg.models.segmentor import Segmentor
    from edgeseg.rewrite.form import deploy

    plan = IsrPlan(tuple(values.items("isr", "encoder")), tuple(values.items("isr", "decoder")))
    model = build_model(
        str(values.get("model", "arch")), values.num_classes or 1, **values.section("model", "options")
    ).eval()
    model.set_isr(plan)
    side = model.size_multiple_px
    deployed = deploy(model, model.image_spec((side, side)), Form.QDQ).model
    assert isinstance(deployed, Segmentor)
    return list(candidates(deployed, deployed.quant_hints()))
