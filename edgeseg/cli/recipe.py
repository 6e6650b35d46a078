"""edgeseg recipe: the shipped recipes, and help with one's own."""

from __future__ import annotations

import json

import click

from edgeseg.cli import render
from edgeseg.errors import RecipeError

_SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one recipe value; repeatable."
)


@click.group()
def recipe() -> None:
    """List, show and check recipes; print their JSON schema for editors.

    A RECIPE is a YAML file, or the name of one that ships with edgeseg.
    """


@recipe.command("list")
@render.json_option
def list_(as_json: bool) -> None:
    """List the recipes that ship."""
    from edgeseg.recipe.load import catalogue, load_recipe

    rows = []
    for name, path in catalogue().items():
        loaded = load_recipe(path)
        rows.append(
            {
                "name": name,
                "arch": loaded.model.arch,
                "format": loaded.data.format,
                "crop_hw": list(loaded.augment.crop_hw),
                "steps": loaded.train.steps,
                "batch_size": loaded.train.batch_size,
                "summary": loaded.summary,
                "path": str(path),
            }
        )
    render.result(
        {"recipes": rows},
        as_json,
        lambda: [
            render.table("", ["recipe", "summary"], [(row["name"], row["summary"]) for row in rows]),
            "Copy one to edit it:  edgeseg recipe show NAME > mine.yaml",
        ],
    )


@recipe.command(short_help="Print a recipe as it will be used.")
@click.argument("name_or_path", metavar="RECIPE")
@_SET
@render.json_option
def show(name_or_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print RECIPE as it will be used: overrides applied, defaults written out."""
    from edgeseg.pipeline.recipes import load_recipe
    from edgeseg.recipe.load import dump_recipe

    loaded = load_recipe(name_or_path, overrides)
    render.result(loaded.model_dump(mode="json"), as_json, lambda: dump_recipe(loaded).rstrip("\n"))


@recipe.command(short_help="Check recipes: ok, or every mistake.")
@click.argument("names_or_paths", metavar="RECIPE...", nargs=-1, required=True)
@_SET
@render.json_option
def check(names_or_paths: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Check each RECIPE; print `ok` and its digest, or every mistake with its line.

    Model, options, runtimes, ISR plan and calibration set are looked up, and every value is held against what
    training and building make of it. No torch is needed, except for the layers of quant.keep_float: without
    it, they are said to be unchecked.

    Two recipes of one digest train and build the same, whatever their comments and order.
    """
    from edgeseg.pipeline.recipes import load_recipe, unchecked
    from edgeseg.recipe.load import find_recipe, recipe_digest

    checked, failures = [], []
    for given in names_or_paths:
        try:
            path = find_recipe(given)
            loaded = load_recipe(path, overrides)
        except RecipeError as error:
            failures.append(error)
            continue
        row = {"name": loaded.name, "path": str(path), "digest": recipe_digest(loaded)}
        checked.append({**row, "unchecked": unchecked(loaded)})
    if failures:
        raise RecipeError("\n".join(map(str, failures)), hint=failures[0].hint)

    def human() -> list[str]:
        told = [
            [f"ok {row['digest']} {row['path']}", *(f"not checked: {what}" for what in row["unchecked"])]
            for row in checked
        ]
        return [line for lines in told for line in lines]

    render.result({"ok": True, "recipes": checked}, as_json, human)


@recipe.command(short_help="Print the JSON Schema, for editors.")
def schema() -> None:
    """Print the JSON Schema of a recipe, for completion and checks while typing.

    Save it beside your recipes and name it in the first line of each; editors with a YAML language server (VS
    Code's YAML extension, Neovim, JetBrains) follow it:

    \b
        edgeseg recipe schema > recipe.schema.json
        # yaml-language-server: $schema=recipe.schema.json
    """
    from edgeseg.recipe.editor_schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))
    click.echo(
        "to use it: save it as recipe.schema.json and begin a recipe beside it with the line", err=True
    )
    click.echo("# yaml-language-server: $schema=recipe.schema.json", err=True)
