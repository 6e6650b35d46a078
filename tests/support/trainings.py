"""A training of a few steps on drawn scenes."""

from __future__ import annotations

from pathlib import Path

from edgeseg.recipe.load import load_recipe
from edgeseg.recipe.schema import Recipe
from edgeseg.training.float import train
from edgeseg.training.loop import TrainResult
from locations import RECIPES

RECIPE = RECIPES / "edaformer_nano_synthetic.yaml"
SMALL = (
    "augment.crop_hw=[64, 64]",
    "export.size_hw=[64, 64]",
    "train.batch_size=4",
    "train.warmup_steps=2",
    "train.checkpoint_every=4",
    "train.val_every=1000",
    "train.steps=8",
)


def recipe(*changes: str) -> Recipe:
    return load_recipe(RECIPE, (*SMALL, *changes))


def run(loaded: Recipe, run_dir: Path, **options: object) -> TrainResult:
    return train(loaded, Path(), run_dir, device="cpu", **{"workers": 0, **options})  # type: ignore[arg-type]
