"""What several commands take: a recipe by any of its names, and the weights that belong to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgeseg.errors import DataError
from edgeseg.recipe import load
from edgeseg.recipe.schema import Recipe
from edgeseg.text import quoted

_WEIGHTS = ".safetensors"


class Run(NamedTuple):
    """A recipe, the folder of its run, and its weights, which need not be there yet."""

    recipe: Recipe
    folder: Path
    checkpoint: Path


def find_run(named: str, checkpoint: Path | None = None, overrides: Sequence[str] = ()) -> Run:
    """What a user means by a recipe file, a catalogue name, a run folder, or a checkpoint of `edgeseg train`.

    Args:
        checkpoint: other weights than best.safetensors of the run.
        overrides: `key.path=value` each.
    Raises:
        RecipeError: there is no such recipe, or it is wrong.
        DataError: a checkpoint that is damaged, or holds no recipe.
    """
    from edgeseg.pipeline.recipes import load_recipe  # which opens the rooms of data: not for a page of help

    path = Path(named)
    if path.suffix == _WEIGHTS:
        return Run(_recipe_in(path, overrides), path.parent, checkpoint or path)
    is_run = os.path.isfile(path / "recipe.yaml")  # False, too, for a name that no file can have
    # A run's recipe was checked when it was trained; its calibration set need not have come along.
    recipe = load.load_recipe(path / "recipe.yaml", overrides) if is_run else load_recipe(named, overrides)
    folder = path if is_run else Path("runs") / recipe.name
    return Run(recipe, folder, checkpoint or folder / "best.safetensors")


def _recipe_in(path: Path, overrides: Sequence[str]) -> Recipe:
    from edgeseg.checkpoints.file import load_checkpoint

    recipe = load_checkpoint(path).meta.get("recipe")
    if not isinstance(recipe, dict):
        raise DataError(
            f"{path} holds no recipe",
            hint=f"name the recipe, and the weights with --checkpoint {quoted(path)}",
        )
    return load.recipe_of(recipe, f"the recipe in {path}", overrides)
