"""edgeseg recipe list | show | check | schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeseg.cli.recipe import recipe
from edgeseg.errors import RecipeError
from edgeseg.recipe.load import catalogue, load_recipe, recipe_digest

NANO = "edaformer_nano_synthetic"


def run(*args: str) -> Result:
    return CliRunner().invoke(recipe, args)


def succeed(*args: str) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_names_every_shipped_recipe() -> None:
    text = succeed("list")
    assert all(name in text for name in catalogue())
    rows = json.loads(succeed("list", "--json"))["recipes"]
    assert [row["name"] for row in rows] == list(catalogue())
    assert next(row for row in rows if row["name"] == NANO)["steps"] == load_recipe(NANO).train.steps


def test_show_prints_a_recipe_that_loads_with_its_overrides(tmp_path: Path) -> None:
    text = succeed("show", NANO, "--set", "train.steps=60", "--set", "train.lr=1e-3")
    copy = tmp_path / "mine.yaml"
    copy.write_text(text, encoding="utf-8")
    assert load_recipe(copy) == load_recipe(NANO, ["train.steps=60", "train.lr=1e-3"])
    assert json.loads(succeed("show", NANO, "--json"))["model"]["arch"] == "edaformer_nano"


def test_check_prints_ok_and_the_digest() -> None:
    digest = recipe_digest(load_recipe(NANO))
    assert succeed("check", NANO).splitlines() == [f"ok {digest} {catalogue()[NANO]}"]
    document = json.loads(succeed("check", NANO, str(catalogue()["edaformer_t_cityscapes"]), "--json"))
    assert document["ok"] is True
    assert [row["name"] for row in document["recipes"]] == [NANO, "edaformer_t_cityscapes"]
    assert document["recipes"][0]["digest"] == digest


def test_check_tells_the_mistakes_of_every_file(tmp_path: Path) -> None:
    good = catalogue()[NANO].read_text(encoding="utf-8")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(good.replace("quant: null", "quant: int8"), encoding="utf-8")
    second.write_text(good.replace("\nname:", "\nnane:"), encoding="utf-8")
    result = run("check", str(first), NANO, str(second))
    assert isinstance(result.exception, RecipeError)
    message = str(result.exception)
    assert f"1 mistake in {first}\n{first}:" in message
    assert "nane: unknown key; did you mean name" in message
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_recipe_offers_the_nearest(command: str) -> None:
    result = run(command, "edaformer_nano_sinthetic")
    assert isinstance(result.exception, RecipeError)
    assert NANO in result.exception.hint


def test_schema_is_one_json_document_and_says_how_to_use_it() -> None:
    result = run("schema")
    assert json.loads(result.stdout)["properties"]["train"]
    assert "yaml-language-server" in result.stderr
