"""Recipes: values set from the command line."""

from __future__ import annotations

from pathlib import Path

from edgeseg.recipe.load import load_recipe
from recipes import GOOD, mistakes, write


def test_overrides_are_yaml_values_applied_in_order(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, GOOD),
        [
            "train.steps=300",
            "train.steps=400",
            "train.lr=1e-3",
            "augment.crop_hw=[64, 96]",
            "model.options.drop_path=0.1",
            "train.amp=off",
            "data.format=mapillary",
            "data.train={images: a, labels: b}",
            "model.options.dropout=0",
            "train.clip_norm=null",
            "summary=a = b",
        ],
    )
    assert (recipe.train.steps, recipe.train.lr, recipe.train.amp) == (400, 1e-3, "off")
    assert recipe.augment.crop_hw == (64, 96)
    assert recipe.model.options == {"drop_path": 0.1, "dropout": 0}
    assert recipe.data.train is not None
    assert recipe.data.train.images == "a"
    assert recipe.summary == "a = b"


def test_wrong_overrides_are_told_together_after_the_files_mistakes(tmp_path: Path) -> None:
    told = mistakes(
        tmp_path,
        GOOD.replace("batch_size: 8", "batch_size: none"),
        "train.steps=two",
        "train.stepz=3",
        "steps=3",
        "train.lr",
        "train.lr=",
        "augment.crop_hw=[1",
        "augment.crop_hw=[33, 64]",
        "data.classes.ignore_index=3",
        "name.beyond_all_keys=x",
    )
    assert told == [
        'F:14: train.batch_size: must be an integer, not "none"',
        "--set train.stepz=3: train.stepz: unknown key; did you mean steps?",
        "--set steps=3: steps: unknown key; did you mean train.steps?",
        "--set train.lr: expected key.path=value (value null for nothing)",
        "--set train.lr=: expected key.path=value (value null for nothing)",
        "--set augment.crop_hw=[1: augment.crop_hw: a list whose ']' or ',' is missing",
        (
            "--set data.classes.ignore_index=3: data.classes.ignore_index: "
            "data.classes is null in the recipe: write the section there, or set all of it at once"
        ),
        "--set name.beyond_all_keys=x: name.beyond_all_keys: unknown key; name holds no keys",
        '--set train.steps=two: train.steps: must be an integer, not "two"',
        (
            "--set augment.crop_hw=[33, 64]: augment.crop_hw.0: must be a multiple of 32 px, e.g. 32 or 64,"
            " not 33"
        ),
    ]


def test_an_override_mends_a_wrong_value(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("steps: 200", "steps: many"))
    assert load_recipe(file, ["train.steps=50"]).train.steps == 50
