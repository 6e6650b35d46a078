"""edgeseg data: look at a data set before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import render
from edgeseg.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.data.check import CheckReport


@click.group()
def data() -> None:
    """Check a data set before training on it."""


@data.command()
@click.argument("recipe")
@click.option(
    "--data-root", type=click.Path(path_type=Path), required=True, help="Folder that the recipe's data paths start from."
)
@click.option("--split", default="all", show_default=True, type=click.Choice(["train", "val", "all"]))
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a contact sheet of samples to this PNG file.")
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1), help="Files read at once.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one recipe value; repeatable.")
@render.json_option
def check(
    recipe: str, data_root: Path, split: str, sheet: Path | None, threads: int, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Read every image and label of RECIPE's data set; count classes and sizes, and list all problems.

    Exit code 3 where there are problems.
    """
    from edgeseg.data.check import check_dataset, sample_sheet
    from edgeseg.data.formats import SplitName
    from edgeseg.files import Target
    from edgeseg.images import encode_png
    from edgeseg.recipe.load import find_recipe, load_recipe

    section = load_recipe(find_recipe(recipe), overrides).data
    chosen: dict[str, tuple[SplitName, ...]] = {"train": ("train",), "val": ("val",), "all": ("train", "val")}
    sheet_to = Target(sheet, DataError) if sheet else None
    picture = sample_sheet(section, data_root, chosen[split]) if sheet else None
    if sheet_to and picture is not None:
        sheet_to.write(encode_png(picture))
    with render.RichProgress() as progress:
        report = check_dataset(section, data_root, chosen[split], progress, threads)
    written = sheet if picture is not None else None
    render.result({**render.plain(report), "sheet": written}, as_json, lambda: _shown(report, written), file=written)
    if report.problems:
        if as_json:  # the document on stdout holds the problems; a second one would break its reader
            click.get_current_context().exit(DataError.exit_code)
        raise DataError(
            f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''} in the data of {recipe}",
            hint="mend the files listed above, or leave the samples out with `exclude` under data in the recipe",
        )


def _shown(report: CheckReport, sheet: Path | None) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for split in report.splits:
        sizes = ", ".join(f"{size} ({count})" for size, count in list(split.sizes.items())[:6])
        more = f" and {len(split.sizes) - 6} more sizes" if len(split.sizes) > 6 else ""
        rows = [
            (
                index,
                share.name,
                render.percent(share.pixel_share, 2),
                share.images,
                render.percent(share.image_share) if share.pixels else "never",
            )
            for index, share in enumerate(split.classes)
        ]
        parts += [
            render.table(
                f"{split.split}: {split.samples} samples, {render.percent(split.ignored_share, 2)} of the pixels ignored",
                ["", "class", "pixels", "images", "of images"],
                rows,
            ),
            f"sizes: {sizes}{more}\n",
        ]
    parts += [f"{problem.split} {problem.kind}: {problem.message}" for problem in report.problems]
    if not report.problems:
        parts.append("no problems")
    if sheet is not None:
        parts.append(f"contact sheet: {sheet}")
    return parts
