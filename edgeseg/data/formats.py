"""The formats: for each public data set its folders, file names and label encoding, as its archive unpacks.

A format is plain data. `format_of` turns a recipe's `data` section into one; finding and reading files is the
business of `datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError, RecipeError
from edgeseg.recipe.labels import label_space
from edgeseg.recipe.schema import DATA_FORMATS, Data
from edgeseg.specs import LabelSpace

SplitName = Literal["train", "val"]

IGNORE = 255
NO_MEANING = -1
"""Entry of a label table for raw values that must not occur."""

ANY_IMAGE = r"(.+)\.(?:jpe?g|png|bmp|tiff?|webp)"
ANY_LABEL = r"(.+)\.(?:png|bmp|tiff?)"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where one split lies: folders below the data root, and a file that lists its samples (None: all files
    belong).
    """

    images: str
    labels: str
    list_file: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """What a recipe's `data` section comes to.

    Attributes:
        labels: names and colours of the values that decoded masks hold.
        table: (n,) int16, raw label value -> class index, ignore index or NO_MEANING. Values from n up have
            no meaning.
        train, val: where the splits may lie; the first that exists is meant.
        image_files, label_files: regular expressions, upper and lower case alike, for the whole path of a
        file below its
            folder; group 1 is the sample's name, by which image and label pair up. Other files are not looked
            at.
        by_colour: label pixels are the colours of `labels`, not values; black means ignored unless a class is
            black.
    """

    labels: LabelSpace
    table: npt.NDArray[np.int16]
    train: tuple[Folders, ...] = ()
    val: tuple[Folders, ...] = ()
    image_files: str = ANY_IMAGE
    label_files: str = ANY_LABEL
    by_colour: bool = False


def format_of(data: Data, root: Path) -> Format:
    """The format of a recipe's `data` section.

    Args:
        data: the section.
        root: data root; looked at only where the data set itself says which of its encodings it has.
    Raises:
        RecipeError: classes or index_map do not fit the format.
        DataError: a class list that belongs into `root` is missing or malformed.
        Unsupported: the package that adds the format is not installed, or cannot be imported.
    """
    found: Format = DATA_FORMATS.load(data.format)(data, root)
    own = data.format == "folders" or data.classes is None
    return found if own else replace(found, labels=_renamed(found.labels, data))


def _table(
    labels: LabelSpace, classes: Mapping[int, int], ignored: range = range(0)
) -> npt.NDArray[np.int16]:
    """Raw values in `ignored`, and ignore_index itself, are ignored; those in `classes` are classes; others
    mean nothing.
    """
    table = np.full(max(256, *classes) + 1, NO_MEANING, np.int16)
    table[[*ignored, labels.ignore_index]] = labels.ignore_index
    for raw, index in classes.items():
        table[raw] = index
    return table


def _identity(labels: LabelSpace) -> dict[int, int]:
    return {index: index for index in range(labels.num_classes)}


def folders(data: Data, root: Path) -> Format:
    if data.classes is None:
        raise RecipeError(
            "data.classes: format folders needs them", hint="name the classes and their colours in the recipe"
        )
    labels = data.classes.label_space()
    allowed = {*range(labels.num_classes), labels.ignore_index}
    wrong = {
        raw: index for raw, index in data.index_map.items() if index not in allowed or not 0 <= raw <= 65535
    }
    if wrong:
        raise RecipeError(
            f"data.index_map: {wrong}: label values are 0..65535, classes 0..{labels.num_classes - 1}, "
            f"and ignored is {labels.ignore_index}",
            hint="correct data.index_map in the recipe",
        )
    by_colour = data.encoding == "palette"
    if by_colour and data.index_map:
        raise RecipeError(
            "data.index_map: coloured label files have no values to map",
            hint="drop index_map, or use encoding: index",
        )
    if by_colour and len(set(labels.palette_rgb)) < labels.num_classes:
        raise RecipeError(
            "data.classes.palette_rgb: two classes share a colour, so coloured label files would be"
            " ambiguous",
            hint="give every class its own colour, or use encoding: index",
        )
    return Format(labels, _table(labels, {**_identity(labels), **data.index_map}), by_colour=by_colour)


def _renamed(own: LabelSpace, data: Data) -> LabelSpace:
    """The recipe's names and colours for a format that has classes of its own."""
    assert data.classes is not None  # the caller's condition
    given = data.classes.label_space()
    if (given.num_classes, given.ignore_index) != (own.num_classes, own.ignore_index):
        raise RecipeError(
            f"data.classes: {given.num_classes} classes and ignore_index {given.ignore_index}, but format"
            f" {data.format} has {own.num_classes} and {own.ignore_index}",
            hint="write classes: null to take the format's own, or use format: folders",
        )
    return given


def camvid(data: Data, root: Path) -> Format:
    """11 classes of the SegNet split, raw 11 is void; in its folders (train, trainannot) or as images/ and
    labels/.
    """
    labels = label_space("camvid")
    return Format(
        labels,
        _table(labels, _identity(labels), ignored=range(11, 12)),
        train=(Folders("images/train", "labels/train"), Folders("train", "trainannot")),
        val=(Folders("images/val", "labels/val"), Folders("val", "valannot")),
    )


def synthetic(data: Data, root: Path) -> Format:
    """10 classes of the generated street; it has no files."""
    labels = label_space("synthetic")
    return Format(labels, _table(labels, _identity(labels)))


def idd_lite(data: Data, root: Path) -> Format:
    """7 classes; as images/ and labels/, or in the archive's leftImg8bit and gtFine (instance maps lie beside
    the labels).
    """
    labels = label_space("idd_lite")

    def split_folders(split: str) -> tuple[Folders, ...]:
        return (
            Folders(f"images/{split}", f"labels/{split}"),
            Folders(f"leftImg8bit/{split}", f"gtFine/{split}"),
        )

    return Format(
        labels,
        _table(labels, _identity(labels)),
        train=split_folders("train"),
        val=split_folders("val"),
        image_files=r"(.+?)(?:_image)?\.(?:jpg|png)",
        label_files=r"(?!.*_inst_label)(.+?)(?:_label)?\.png",
    )


def cityscapes(data: Data, root: Path) -> Format:
    """19 classes; raw ids, or train ids where the data set's own script has written them."""
    labels = label_space("cityscapes")
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    has_train_ids = next((root / "gtFine").glob("*/*/*_gtFine_labelTrainIds.png"), None) is not None
    if has_train_ids:
        table, kind = _table(labels, _identity(labels)), "labelTrainIds"
    else:
        table, kind = (
            _table(labels, {raw: index for index, raw in enumerate(ids)}, ignored=range(34)),
            "labelIds",
        )
    return Format(
        labels,
        table,
        train=(Folders("leftImg8bit/train", "gtFine/train"),),
        val=(Folders("leftImg8bit/val", "gtFine/val"),),
        image_files=r"(.+)_leftImg8bit\.png",
        label_files=rf"(.+)_gtFine_{kind}\.png",
    )


def ade20k(data: Data, root: Path) -> Format:
    """150 classes of the scene parsing challenge; raw 0 is ignored, raw k is class k - 1."""
    labels = label_space("ade20k")
    return Format(
        labels,
        _table(labels, {index + 1: index for index in range(labels.num_classes)}, ignored=range(1)),
        train=_below(("", "ADEChallengeData2016/"), "images/training", "annotations/training"),
        val=_below(("", "ADEChallengeData2016/"), "images/validation", "annotations/validation"),
    )


def coco_stuff(data: Data, root: Path) -> Format:
    """171 classes of the 164k release: 80 things, 91 stuff. Raw ids are COCO's minus 1; 11 of them were never
    used.
    """
    labels = label_space("coco_stuff")
    never_used = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    used = [raw for raw in range(182) if raw not in never_used]

    def split_folders(split: str) -> tuple[Folders, ...]:
        maps = ("stuffthingmaps", "annotations", "stuffthingmaps_trainval2017")
        return tuple(
            Folders(f"{images}{split}", f"{labels}/{split}") for images in ("images/", "") for labels in maps
        )

    return Format(
        labels,
        _table(labels, {raw: index for index, raw in enumerate(used)}),
        train=split_folders("train2017"),
        val=split_folders("val2017"),
        label_files=r"(?!.*_labelTrainIds)(.+)\.png",
    )


def pascal_context(data: Data, root: Path) -> Format:
    """59 classes; raw 0 (background) is ignored. All images lie in one folder, so lists say which belong to a
    split.
    """
    labels = label_space("pascal_context")

    def split_folders(split: str) -> tuple[Folders, ...]:
        return tuple(
            Folders(
                f"{parent}JPEGImages",
                f"{parent}SegmentationClassContext",
                f"{parent}ImageSets/SegmentationContext/{split}.txt",
            )
            for parent in ("", "VOC2010/", "VOCdevkit/VOC2010/")
        )

    return Format(
        labels,
        _table(labels, {index + 1: index for index in range(labels.num_classes)}, ignored=range(1)),
        train=split_folders("train"),
        val=split_folders("val"),
    )


def mapillary(data: Data, root: Path) -> Format:
    """Mapillary Vistas. Its classes are those that the config.json in the data root marks for evaluation;
    others are ignored.

    Of a root with both label versions v1.2 is meant, unless the recipe's folders name v2.0.
    """
    named = {
        version
        for split in (data.train, data.val)
        if split
        for version in ("v1.2", "v2.0")
        if version in split.labels
    }
    versions = ("v2.0", "v1.2") if named == {"v2.0"} else ("v1.2", "v2.0")
    candidates = [root / f"config_{version}.json" for version in versions] + [root / "config.json"]
    config = next((path for path in candidates if path.is_file()), None)
    if config is None:
        raise DataError(
            f"{root}: none of {', '.join(path.name for path in candidates)}, so the classes are unknown",
            hint="give the folder that the Vistas archive unpacks to with --data-root",
        )
    labels, table = _mapillary_classes(config)
    version = config.stem.removeprefix("config").removeprefix("_")
    parts = [version] if version else ["v1.2", "v2.0"]

    def split_folders(split: str) -> tuple[Folders, ...]:
        choices = [*(f"{split}/{part}/labels" for part in parts), f"{split}/labels"]
        return tuple(Folders(f"{split}/images", labels) for labels in choices)

    return Format(labels, table, train=split_folders("training"), val=split_folders("validation"))


def _mapillary_classes(config: Path) -> tuple[LabelSpace, npt.NDArray[np.int16]]:
    try:
        rows: list[dict[str, Any]] = json.loads(config.read_text(encoding="utf-8"))["labels"]
        evaluated = [raw for raw, row in enumerate(rows) if row.get("evaluate", True)]
        readable = [str(rows[raw]["readable"]) for raw in evaluated]
        names = (
            readable if len(set(readable)) == len(readable) else [str(rows[raw]["name"]) for raw in evaluated]
        )
        colours = [tuple(int(value) for value in rows[raw]["color"]) for raw in evaluated]
        labels = LabelSpace(tuple(names), tuple((r, g, b) for r, g, b in colours))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{config}: not a Vistas class list ({error})", hint="copy the file again from the archive"
        ) from error
    table = _table(labels, {raw: index for index, raw in enumerate(evaluated)}, ignored=range(len(rows)))
    return labels, table


def _below(parents: tuple[str, ...], images: str, labels: str) -> tuple[Folders, ...]:
    return tuple(Folders(parent + images, parent + labels) for parent in parents)
