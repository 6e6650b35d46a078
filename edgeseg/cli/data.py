"""edgeseg data: look at a data set before training on it."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import options, render
from edgeseg.errors import DataError
from edgeseg.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.data.check import CheckReport
    from edgeseg.data.findings import Problem
    from edgeseg.specs import LabelSpace


_SHOWN = 5
"""Problems that are mended alike and shown one by one."""


@click.group()
def data() -> None:
    """Check a data set before training on it; draw masks of annotated outlines."""


@data.command()
@click.argument("recipe")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of labelme or YOLO files, or COCO's .json.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the masks, NAME.png for each image.",
)
@options.data_root()
@click.option(
    "--split",
    default="train",
    show_default=True,
    type=click.Choice(["train", "val"]),
    help="Whose images they are of.",
)
@click.option("--background", help="Class where nothing is drawn, by name; default: the pixels are ignored.")
@click.option(
    "--values",
    metavar="V,V,...",
    help="FROM holds grey pictures: their values, in class order; a pixel gets the nearest.",
)
@options.overrides
@render.json_option
def masks(
    recipe: str,
    source: Path,
    out: Path,
    data_root: Path,
    split: str,
    background: str | None,
    values: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make masks for RECIPE's classes of what another tool left in --from.

    Outlines of labelme (.json), YOLO (.txt, whose numbers are class indices) and COCO (one .json) are drawn.
    Pictures of labels that JPEG or smooth resizing has blended are rounded: to the nearest of --values, or to
    the nearest colour of the recipe.
    """
    from edgeseg.data.formats import format_of
    from edgeseg.data.outlines import Drawn, draw_masks, round_masks
    from edgeseg.data.pairs import walk
    from edgeseg.recipe.load import find_recipe, load_recipe

    section = load_recipe(find_recipe(recipe), overrides).data
    labels = format_of(section, data_root).labels
    if background is not None and background not in labels.names:
        raise DataError(f"--background {background}: no such class", hint=f"one of {', '.join(labels.names)}")
    chosen = section.train if split == "train" else section.val
    images = data_root / chosen.images if chosen else data_root
    value = labels.ignore_index if background is None else labels.names.index(background)
    pictures = source.is_dir() and not any(path.suffix.lower() in (".json", ".txt") for path in walk(source))
    if pictures or values is not None:
        drawn = Drawn(round_masks(source, out, labels, _numbers(values, labels)), {})
    else:
        drawn = draw_masks(source, images, out, labels, value)

    def human() -> str:
        missed = ", ".join(f"{name} ({count})" for name, count in drawn.passed_over.items())
        lines = [
            f"{len(drawn.written)} masks in {out}, 0 to {labels.num_classes - 1}, {value} where nothing is"
            " drawn"
        ]
        lines += [f"passed over, no class of the recipe: {missed}"] if missed else []
        place = os.path.relpath(out, data_root)
        return "\n".join([*lines, f"next  data.{split}.labels: {place}   in the recipe"])

    render.result(
        {"masks": [str(path) for path in drawn.written], "passed_over": drawn.passed_over}, as_json, human
    )


def _numbers(values: str | None, labels: LabelSpace) -> list[int]:
    try:
        found = [int(value) for value in values.split(",")] if values else []
    except ValueError:
        found = [-1]
    if (found and len(found) != labels.num_classes) or any(not 0 <= value <= 255 for value in found):
        raise DataError(
            f"--values {values}: not one value of 0 to 255 for each of {labels.num_classes} classes",
            hint="e.g. 0,255",
        )
    return found


@data.command()
@click.argument("recipe")
@options.data_root()
@click.option("--split", default="all", show_default=True, type=click.Choice(["train", "val", "all"]))
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Write a contact sheet of samples to this PNG file."
)
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1), help="Files read at once.")
@options.overrides
@render.json_option
def check(
    recipe: str,
    data_root: Path,
    split: str,
    sheet: Path | None,
    threads: int,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Read every image and label of RECIPE's data set; count classes and sizes, and list all problems with
    what mends them.

    Exit code 3 where there are problems; warnings alone end with 0.
    """
    from edgeseg.data.check import check_dataset, sample_sheet
    from edgeseg.data.formats import SplitName
    from edgeseg.files import Target
    from edgeseg.images import encode_png
    from edgeseg.pipeline.recipes import load_recipe

    section = load_recipe(recipe, overrides).data
    chosen: dict[str, tuple[SplitName, ...]] = {"train": ("train",), "val": ("val",), "all": ("train", "val")}
    sheet_to = Target(sheet, DataError) if sheet else None
    picture = sample_sheet(section, data_root, chosen[split]) if sheet else None
    if sheet_to and picture is not None:
        sheet_to.write(encode_png(picture))
    with render.RichProgress() as progress:
        report = check_dataset(section, data_root, chosen[split], progress, threads)
    report = _with_names(report, f"{shlex.quote(recipe)} --data-root {shlex.quote(str(data_root))}")
    written = sheet if picture is not None else None
    render.result({**plain(report), "sheet": written}, as_json, lambda: _shown(report, written), file=written)
    if report.problems:
        if as_json:  # the document on stdout holds the problems; a second one would break its reader
            click.get_current_context().exit(DataError.exit_code)
        raise DataError(
            f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''} in the data of"
            f" {recipe}",
            hint="mend what is listed above, or leave samples out with `exclude` under data in the recipe",
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
                f"{split.split}: {split.samples} samples, {render.percent(split.ignored_share, 2)} of the"
                " pixels ignored",
                ["", "class", "pixels", "images", "of images"],
                rows,
            ),
            f"sizes: {sizes}{more}\n",
        ]
    parts += _grouped(report.problems, "")
    parts += _grouped(report.warnings, "warning: ")
    if not report.problems:
        parts.append(
            "no problems"
            + (
                f", {len(report.warnings)} warning{'s' if len(report.warnings) > 1 else ''}"
                if report.warnings
                else ""
            )
        )
    if sheet is not None:
        parts.append(f"contact sheet: {sheet}")
    return parts


def _grouped(problems: Sequence[Problem], prefix: str) -> list[str]:
    """A line a problem, and below it what mends it; of many that are mended alike the first few."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.split, problem.kind, problem.mend), []).append(problem)
    lines = []
    shown = Counter[tuple[str, str]]()
    for (split, kind, mend), alike in groups.items():
        shown[split, kind] += 1
        if shown[split, kind] > _SHOWN:
            continue
        lines += [f"{prefix}{split} {kind}: {problem.message}" for problem in alike[:_SHOWN]]
        if len(alike) > _SHOWN:
            lines.append(
                f"{prefix}{split} {kind}: and {len(alike) - _SHOWN} more like these (--json lists all)"
            )
        lines += [f"  mend: {mend}"] if mend else []
    lines += [
        f"{prefix}{split} {kind}: and {count - _SHOWN} more (--json lists all)"
        for (split, kind), count in shown.items()
        if count > _SHOWN
    ]
    return lines


def _with_names(report: CheckReport, here: str) -> CheckReport:
    """The report with this recipe and this data root in its commands."""
    from edgeseg.data.label_values import RECIPE_AND_ROOT

    def named(problems: Sequence[Problem]) -> tuple[Problem, ...]:
        return tuple(
            replace(problem, mend=problem.mend.replace(RECIPE_AND_ROOT, here)) for problem in problems
        )

    return replace(report, problems=named(report.problems), warnings=named(report.warnings))
