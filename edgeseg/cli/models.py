"""edgeseg models."""

from __future__ import annotations

from typing import Any

import click

from edgeseg.cli import render


@click.command()
@click.option(
    "--size-hw",
    nargs=2,
    type=int,
    default=(512, 512),
    show_default=True,
    help="Image size for MACs and ISR choices.",
)
@click.option(
    "--classes", default=150, show_default=True, type=click.IntRange(1, 255), help="Classes of the logits."
)
@click.option(
    "--markdown",
    is_flag=True,
    help="Print the README's table: 512x512, 150 classes, published figures beside ours.",
)
@render.json_option
def models(size_hw: tuple[int, int], classes: int, markdown: bool, as_json: bool) -> None:
    """List the models that a recipe can name: cost, ISR choices, licence of published weights."""
    from edgeseg.models import describe

    if markdown:
        click.echo(describe.markdown_table())
        return
    rows = describe.describe_all(classes, size_hw)
    render.result(
        {"size_hw": size_hw, "classes": classes, "models": rows},
        as_json,
        lambda: _human(rows, size_hw, classes),
    )


def _human(rows: list[dict[str, Any]], size_hw: tuple[int, int], classes: int) -> list[Any]:
    from edgeseg.models import describe
    from edgeseg.recipe.architectures import known_parts

    table = render.table(
        f"{classes} classes, {size_hw[0]}x{size_hw[1]}; one MAC is one multiply-add, attention products"
        " counted; -: not a size for this model",
        [
            "model",
            "parameters",
            "GMAC",
            "stride",
            "sides",
            "ISR multipliers",
            "published weights",
            "what",
        ],
        [
            [
                row["name"],
                f"{row['parameters']:,}",
                None if row["macs"] is None else f"{row['macs'] / 1e9:.2f}",
                row["output_stride"],
                f"x {row['size_multiple_px']}",
                describe.isr_text(row["isr"]),
                row["weights"],
                row["summary"],
            ]
            for row in rows
        ],
    )
    encoders, decoders = (", ".join(known_parts(role)) for role in ("encoder", "decoder"))
    return [table, f"or any pair ENCODER+DECODER\nencoders: {encoders}\ndecoders: {decoders}"]
