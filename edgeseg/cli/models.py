"""edgeseg models."""

from __future__ import annotations

import click

from edgeseg.cli import render


@click.command()
@click.option("--size-hw", nargs=2, type=int, default=(512, 512), show_default=True, help="Image size for the MAC count.")
@click.option("--classes", default=19, show_default=True, type=click.IntRange(1, 255), help="Classes of the logits.")
@render.json_option
def models(size_hw: tuple[int, int], classes: int, as_json: bool) -> None:
    """List the models that a recipe can name, with parameters and multiply-adds."""
    from edgeseg.models.catalog import CATALOGUE, describe

    rows = [describe(name, classes, size_hw) for name in CATALOGUE]
    render.result(
        {"size_hw": size_hw, "classes": classes, "models": rows},
        as_json,
        lambda: render.table(
            f"{classes} classes, {size_hw[0]}x{size_hw[1]}, multiply-adds with the attention products counted",
            ["model", "parameters", "GMAC", "output stride", "what"],
            [[r["name"], f"{r['parameters']:,}", f"{r['macs'] / 1e9:.2f}", r["output_stride"], r["summary"]] for r in rows],
        ),
    )
