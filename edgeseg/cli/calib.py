"""edgeseg calib: the images by which INT8 ranges are found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import options, render
from edgeseg.errors import DataError
from edgeseg.text import quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.data.calib import CalibSet

_BAR_WIDTH = 40


@click.group()
def calib() -> None:
    """Choose and check the images by which INT8 ranges are found.

    A SET is a YAML file of paths below the data root and their hashes, or the name of one that ships; a
    recipe names it in quant.calibration.images.
    """


@calib.command()
@click.argument("recipe")
@options.data_root()
@click.option("--n", "count", default=64, show_default=True, type=click.IntRange(0), help="Number of images.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="File to write; default calib/FORMAT_train_N.yaml."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Breaks ties between equally good images.",
)
@click.option(
    "--candidates", type=click.IntRange(1), help="Look at so many images, evenly spread; default 4096."
)
@click.option("--threads", default=4, show_default=True, type=click.IntRange(1), help="Images read at once.")
@click.option("--force", is_flag=True, help="Replace a file that holds another set.")
@options.overrides
@render.json_option
def make(
    recipe: str,
    data_root: Path,
    count: int,
    out: Path | None,
    seed: int,
    candidates: int | None,
    threads: int,
    force: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Choose images of RECIPE's training split, so that every class appears often and all of the brightness
    is there.
    """
    from edgeseg.data.calib import load_calib, write_calib
    from edgeseg.data.calib_choice import MAX_CANDIDATES, make_calib
    from edgeseg.files import Target
    from edgeseg.recipe.load import load_recipe

    loaded = load_recipe(
        recipe, overrides
    )  # not what it names: the set that is to be made may be named there already
    out = out or Path("calib") / f"{loaded.data.format}_train_{count}.yaml"
    target = Target(out, DataError)
    with render.RichProgress() as progress:
        made = make_calib(
            loaded.data,
            data_root,
            count,
            out.stem,
            seed=seed,
            max_candidates=candidates or MAX_CANDIDATES,
            progress=progress,
            threads=threads,
        )
    if out.is_file() and not force and load_calib(out).sha256 != made.sha256:
        raise DataError(
            f"{out} holds another calibration set",
            hint="choose another file with -o, or replace it with --force",
        )
    write_calib(made, target, _comment(made, loaded.name))
    render.result(_figures(made, out), as_json, lambda: [*_shown(made), f"written  {out}"], file=out)


@calib.command()
@click.argument("name_or_path", metavar="SET")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Write a contact sheet of the images to this PNG file."
)
@options.data_root("Folder of the images of the contact sheet.", required=False)
@render.json_option
def show(name_or_path: str, sheet: Path | None, data_root: Path | None, as_json: bool) -> None:
    """Show a SET: which classes its images show, how bright they are, how they were chosen."""
    from edgeseg.data.calib import find_calib, load_calib

    found = load_calib(name_or_path)
    if sheet is not None:
        _write_sheet(found, data_root, sheet)
    told = [f"contact sheet: {sheet}"] if sheet else []
    data = {**_figures(found, find_calib(name_or_path)), "sheet": sheet}
    render.result(data, as_json, lambda: [*_shown(found), *told], file=sheet)


@calib.command()
@click.argument("name_or_path", metavar="SET")
@options.data_root("Folder that the set's paths start from.")
@click.option(
    "--recipe", help="Check also that the set fits this recipe's data: format, classes, training split."
)
@options.overrides
@render.json_option
def check(
    name_or_path: str, data_root: Path, recipe: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Check that every image of a SET is below the data root, and is the file that was chosen.

    Exit code 3 where one is missing or was changed.
    """
    from edgeseg.data.calib import load_calib
    from edgeseg.data.calib_images import open_calib, verify
    from edgeseg.recipe.load import load_recipe

    found = load_calib(name_or_path)
    warnings = found.warnings()
    if recipe is None:
        verify(found, data_root)
    else:
        warnings = list(open_calib(found, load_recipe(recipe, overrides).data, data_root).warnings)
    data = {
        "name": found.name,
        "sha256": found.sha256,
        "images": len(found.images),
        "ok": True,
        "warnings": warnings,
    }
    what = "generated by name" if found.format == "synthetic" else "present and unchanged"
    lines = [
        f"{len(found.images)} images, {what}",
        f"sha256  {found.sha256}",
        *(f"warning: {text}" for text in warnings),
    ]
    render.result(data, as_json, lambda: lines)


@calib.command()
@click.argument("recipe")
@options.data_root()
@options.float_weights
@click.option("--methods", metavar="NAMES", help="With commas between; default max,percentile,mse,entropy.")
@options.limit()
@options.overrides
@render.json_option
def sweep(
    recipe: str,
    data_root: Path,
    checkpoint: Path | None,
    methods: str | None,
    limit: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Calibrate RECIPE's model by each method, and measure mIoU and SQNR against float.

    RECIPE is a YAML file, a catalogue name, or a run folder of `edgeseg train`. Nothing is trained and
    nothing is written: put the method that you choose into the recipe, as quant.calibration.method.
    """
    from edgeseg.api import open_run
    from edgeseg.int8_study.methods import parse_methods, sweep_methods

    run = open_run(recipe, checkpoint=checkpoint, overrides=overrides)
    chosen = parse_methods(methods)
    with render.RichProgress() as progress:
        swept = sweep_methods(
            run.recipe, run.checkpoint, data_root, methods=chosen, limit=limit, progress=progress
        )
    data = swept.to_json()
    render.result(data, as_json, lambda: _swept(data))


def _swept(data: dict[str, Any]) -> list[RenderableType]:
    from edgeseg.cli.sensitivity import points

    height, width = data["size_hw"]
    rows = [
        (
            f"percentile {row['percentile']:g}" if row["percentile"] else row["method"],
            render.percent(row["miou"], 2),
            points(-row["drop"]),
            "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.2f}",
            render.percent(row["agreement"], 2),
            render.percent(row["clipped_share"], 3),
            "recipe" if row["method"] == data["recipe_method"] else "",
        )
        for row in data["methods"]
    ]
    calibration = data["calibration"]
    return [
        (
            f"{data['recipe']} at {width}x{height}, ISR {data['isr']}: calibrated on {calibration['images']}"
            f" images of {calibration['set']}; float has mIoU {render.percent(data['float_miou'], 2)} on"
            f" {data['images']} validation images"
        ),
        render.table("", ["method", "mIoU", "points", "SQNR dB", "agreement", "clipped", ""], rows),
        (
            "SQNR of the logits and agreement of the mask: against float. Torch with fake quantization; the"
            " engine is measured by\nedgeseg quantize."
        ),
    ]


def _comment(made: CalibSet, recipe: str) -> str:
    chosen = made.chosen
    return (
        f"{len(made.images)} images for the calibration of INT8 ranges, from the {made.split} split of"
        f" {recipe}'s data.\nMade by: edgeseg calib make {quoted(recipe)} --data-root DIR --n"
        f" {len(made.images)} --seed {chosen.seed}\nPaths are below the data root. Nothing here but paths,"
        f" hashes and counts: bring the images yourself.\n{len(made.classes) - len(made.never_seen)} of"
        f" {len(made.classes)} classes appear. Check: edgeseg calib check FILE --data-root DIR"
    )


def _figures(made: CalibSet, path: Path) -> dict[str, Any]:
    return {"path": path, "sha256": made.sha256, "warnings": made.warnings(), **made.model_dump(mode="json")}


def _shown(made: CalibSet) -> list[RenderableType]:
    chosen = made.chosen
    rows = [
        (
            (row.name, row.images, row.available, render.percent(row.pixel_share, 2))
            if row.images
            else (row.name, 0, row.available, "-")
        )
        for row in made.classes
    ]
    title = (
        f"{made.name}: {len(made.images)} of {chosen.candidates} candidates ({made.format}, {made.split}"
        " split)"
    )
    lines = [
        *_histogram(made),
        (
            f"chosen   {chosen.by}, seed {chosen.seed}, from {chosen.candidates} of the split's"
            f" {chosen.split_images} images"
        ),
        f"sha256   {made.sha256}",
        *(f"warning: {text}" for text in made.warnings()),
    ]
    return [render.table(title, ["class", "images", "of candidates", "of pixels"], rows), "\n".join(lines)]


def _histogram(made: CalibSet) -> list[str]:
    """Images by brightness, one bar a line, over the range of all candidates."""
    import numpy as np

    from edgeseg.data.calib_choice import BRIGHTNESS_BINS, bins_of

    low, high = made.chosen.brightness
    place = bins_of(np.array([image.brightness for image in made.images], np.float64), low, high)
    counts = np.bincount(place, minlength=BRIGHTNESS_BINS).tolist()
    edges = np.linspace(low, high, BRIGHTNESS_BINS + 1).tolist()
    unit = max(1, *counts) / _BAR_WIDTH
    bars = [
        f"  {edges[i]:5.0f} to {edges[i + 1]:3.0f}  {'#' * round(count / unit):{_BAR_WIDTH}} {count}"
        for i, count in enumerate(counts)
    ]
    return ["images by mean brightness, 0..255, over the candidates' range:", *bars]


def _write_sheet(found: CalibSet, data_root: Path | None, sheet: Path) -> None:
    from edgeseg.data.calib_images import CalibImages, verify
    from edgeseg.files import Target
    from edgeseg.images import contact_sheet, encode_png
    from edgeseg.specs import LabelSpace

    if data_root is None and found.format != "synthetic":
        raise click.UsageError("--sheet needs --data-root: the set holds no images")
    root = data_root or Path()
    target = Target(sheet, DataError)
    verify(found, root)
    import numpy as np

    pictures = list(CalibImages(found, root))
    nothing = LabelSpace(("none",), ((0, 0, 0),))
    masks = [np.full(picture.shape[:2], nothing.ignore_index, np.uint8) for picture in pictures]
    target.write(encode_png(contact_sheet(pictures, masks, nothing, columns=8, tile_px=160)))
