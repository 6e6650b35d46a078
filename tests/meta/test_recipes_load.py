"""Every shipped recipe loads, is what its name says, and stands in the catalogue's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.recipe.load import catalogue, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))


def test_the_catalogue_is_the_folder() -> None:
    assert list(catalogue()) == [file.stem for file in FILES]
    assert len(FILES) >= 7
    assert [path.name for path in RECIPES.iterdir() if path.suffix not in (".yaml", ".md")] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_loads_and_is_what_its_name_says(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.name == file.stem
    assert file.stem.startswith(f"{recipe.model.arch}_{recipe.data.format}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_says_what_it_needs_and_stands_in_the_catalogue(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    header = text[: text.index("\nname:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "Data on disk" in header
    assert f"edgeseg data check {file.stem}" in header
    assert f"[{file.stem}]({file.name})" in (RECIPES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recipe_names_a_model_of_the_catalogue_with_its_options(file: Path) -> None:
    models = pytest.importorskip("edgeseg.models.catalog", reason="needs torch")
    model = load_recipe(file).model
    assert model.options.keys() <= models.model_options(model.arch).keys()
