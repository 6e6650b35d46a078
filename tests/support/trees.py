"""Tiny data sets on disk in every format, as their archives unpack, with the masks that a reader must make of
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseg.recipe.schema import Data
from edgeseg.specs import MaskU8

SIZE_HW = (12, 16)


@dataclass(frozen=True)
class Tree:
    """A data set that was written.

    Attributes:
        data: the recipe section that describes it.
        root: where it lies.
        num_classes: of its label space.
        train: sample name -> the mask that `load` must return.
    """

    data: Data
    root: Path
    num_classes: int
    train: dict[str, MaskU8]


def section(format_name: str, **given: Any) -> Data:
    """A recipe's data section; what is not given is null."""
    return Data.model_validate({"format": format_name, "classes": None, "train": None, "val": None, **given})


def write_image(path: Path, size_hw: tuple[int, int] = SIZE_HW, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_label(path: Path, values: npt.ArrayLike, palette: bool = False) -> Path:
    """Write a label file: single-channel, indexed with misleading colours (`palette`), or coloured where (H,
    W, 3).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    if palette:
        image = image.convert("P")
        image.putpalette([(7 * value + 90) % 256 for value in range(768)])
        image.putdata(np.asarray(values).ravel().tolist())
    image.save(path)
    return path


def stripes(values: list[int], size_hw: tuple[int, int] = SIZE_HW, dtype: Any = np.uint8) -> npt.NDArray[Any]:
    """A label map whose columns run through `values`."""
    return np.tile(np.resize(np.array(values, dtype), size_hw[1]), (size_hw[0], 1))


def _pairs(root: Path, rows: dict[str, tuple[str, str]], raw: list[int], palette: bool = False) -> None:
    for seed, (image, label) in enumerate(rows.values()):
        write_image(root / image, seed=seed)
        write_label(root / label, stripes(raw), palette)


def folders(root: Path) -> Tree:
    rows = {
        f"pics/{split}/{n}": (f"pics/{split}/{n}.jpg", f"maps/{split}/{n}.png")
        for split in "ab"
        for n in ("x/0", "1")
    }
    _pairs(root, rows, [0, 1, 9, 7])
    data = section(
        "folders",
        classes={"names": ["ground", "thing"], "palette_rgb": [[0, 90, 0], [200, 0, 0]], "ignore_index": 9},
        train={"images": "pics/a", "labels": "maps/a"},
        val={"images": "pics/b", "labels": "maps/b"},
        index_map={7: 1},
    )
    return Tree(data, root, 2, {name: stripes([0, 1, 9, 1]) for name in rows if "/a/" in name})


def camvid(root: Path) -> Tree:
    rows = {
        f"{split}/{n}": (f"{split}/{n}.png", f"{split}annot/{n}.png")
        for split in ("train", "val")
        for n in "01"
    }
    _pairs(root, rows, [0, 10, 11])
    return Tree(
        section("camvid"), root, 11, {name: stripes([0, 10, 255]) for name in rows if "train" in name}
    )


def idd_lite(root: Path) -> Tree:
    rows = {
        f"leftImg8bit/{split}/7/{n}": (
            f"leftImg8bit/{split}/7/{n}_image.jpg",
            f"gtFine/{split}/7/{n}_label.png",
        )
        for split in ("train", "val")
        for n in "01"
    }
    _pairs(root, rows, [0, 6, 255])
    write_label(root / "gtFine/train/7/0_inst_label.png", stripes([3, 200]))
    return Tree(
        section("idd_lite"), root, 7, {name: stripes([0, 6, 255]) for name in rows if "train" in name}
    )


def cityscapes(root: Path) -> Tree:
    rows = {
        f"leftImg8bit/{split}/ulm/{n}": (
            f"leftImg8bit/{split}/ulm/{n}_leftImg8bit.png",
            f"gtFine/{split}/ulm/{n}_gtFine_labelIds.png",
        )
        for split in ("train", "val")
        for n in ("ulm_0", "ulm_1")
    }
    _pairs(root, rows, [7, 33, 0, 14, 26])
    write_label(root / "gtFine/train/ulm/ulm_0_gtFine_color.png", np.zeros((*SIZE_HW, 4), np.uint8))
    write_label(root / "gtFine/train/ulm/ulm_0_gtFine_instanceIds.png", stripes([26001], dtype=np.uint16))
    return Tree(
        section("cityscapes"),
        root,
        19,
        {name: stripes([0, 18, 255, 255, 13]) for name in rows if "train" in name},
    )


def ade20k(root: Path) -> Tree:
    top = "ADEChallengeData2016/"
    rows = {
        f"{top}images/{split}/ADE_{n}": (
            f"{top}images/{split}/ADE_{n}.jpg",
            f"{top}annotations/{split}/ADE_{n}.png",
        )
        for split in ("training", "validation")
        for n in "01"
    }
    _pairs(root, rows, [0, 1, 150])
    return Tree(
        section("ade20k"), root, 150, {name: stripes([255, 0, 149]) for name in rows if "training" in name}
    )


def coco_stuff(root: Path) -> Tree:
    rows = {
        f"images/{split}/{n}": (f"images/{split}/{n}.jpg", f"stuffthingmaps/{split}/{n}.png")
        for split in ("train2017", "val2017")
        for n in ("000000000009", "000000000025")
    }
    _pairs(root, rows, [0, 10, 12, 89, 91, 181, 255])
    write_label(root / "stuffthingmaps/train2017/000000000009_labelTrainIds.png", stripes([3]))
    return Tree(
        section("coco_stuff"),
        root,
        171,
        {name: stripes([0, 10, 11, 79, 80, 170, 255]) for name in rows if "train2017" in name},
    )


def pascal_context(root: Path) -> Tree:
    rows = {
        name: (f"JPEGImages/{name}.jpg", f"SegmentationClassContext/{name}.png")
        for name in ("2008_0", "2008_1", "2008_2")
    }
    _pairs(root, rows, [0, 1, 59])
    write_image(root / "JPEGImages/2008_unlabelled.jpg")
    lists = root / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_0\n2008_2\n")
    (lists / "val.txt").write_text("2008_1\n")
    return Tree(
        section("pascal_context"), root, 59, {f"JPEGImages/2008_{n}": stripes([255, 0, 58]) for n in "02"}
    )


def mapillary(root: Path) -> Tree:
    rows = {
        f"{split}/images/{n}": (f"{split}/images/{n}.jpg", f"{split}/v1.2/labels/{n}.png")
        for split in ("training", "validation")
        for n in "ab"
    }
    _pairs(root, rows, [0, 1, 2, 3], palette=True)
    write_config(root / "config_v1.2.json", [("Bird", True), ("Void", False), ("Road", True), ("Sky", True)])
    write_config(root / "config_v2.0.json", [("Bird", True), ("Road", True)])
    return Tree(
        section("mapillary"), root, 3, {name: stripes([0, 255, 1, 2]) for name in rows if "training" in name}
    )


def write_config(path: Path, classes: list[tuple[str, bool]]) -> Path:
    """A Mapillary class list: readable names, and whether they are evaluated."""
    rows = [
        {
            "color": [number, 50, 90],
            "readable": name,
            "name": f"group--{name.lower()}-{number}",
            "evaluate": evaluate,
        }
        for number, (name, evaluate) in enumerate(classes)
    ]
    path.write_text(json.dumps({"labels": rows, "version": "1"}))
    return path


def synthetic(root: Path) -> Tree:
    return Tree(section("synthetic"), root, 10, {})


TREES: dict[str, Callable[[Path], Tree]] = {
    tree.__name__: tree
    for tree in (
        folders,
        camvid,
        idd_lite,
        cityscapes,
        ade20k,
        coco_stuff,
        pascal_context,
        mapillary,
        synthetic,
    )
}
"""Format name -> writer of a tiny tree with two training samples and one or two validation samples."""
