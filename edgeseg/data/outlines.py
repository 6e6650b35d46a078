"""Masks, PNG files of class indices, from what other tools left: outlines of labelme, YOLO and COCO, and
blended pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.data.pairs import composed, walk
from edgeseg.errors import DataError, require
from edgeseg.files import replace_file
from edgeseg.images import encode_png, read_image
from edgeseg.specs import LabelSpace

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Outlines:
    """What is drawn on one image.

    Attributes:
        name: the image's path below its folder, without suffix.
        size_wh: in pixels.
        shapes: class name, or class index as text, and its outline in pixels; later ones lie above.
    """

    name: str
    size_wh: tuple[int, int]
    shapes: tuple[tuple[str, Points], ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What `draw_masks` did: files written, and names of shapes that are no class, with their number."""

    written: tuple[Path, ...]
    passed_over: dict[str, int]


def draw_masks(source: Path, images: Path, out: Path, labels: LabelSpace, background: int) -> Drawn:
    """Draw a mask for every annotated image; an image of labelme or YOLO is annotated where its file is
    there.

    Args:
        source: folder of labelme's .json or YOLO's .txt files, or a .json file of COCO.
        images: folder of the images.
        out: gets NAME.png, single-channel, for each.
        labels: classes; a shape's class is its name, or in YOLO's files its index.
        background: value where nothing is drawn: a class index, or the ignore index.
    Raises:
        DataError: nothing there to draw, files that cannot be read, boxes without outlines, or `out` cannot
            be written.
    """
    pillow, drawing = (
        require(f"PIL.{name}", extra="video", purpose="draw masks") for name in ("Image", "ImageDraw")
    )
    written: list[Path] = []
    passed: dict[str, int] = {}
    for outlines in _annotated(source, images):
        mask = pillow.new("L", outlines.size_wh, background)
        draw = drawing.Draw(mask)
        for kind, points in outlines.shapes:
            index = (
                labels.names.index(kind) if kind in labels.names else int(kind) if kind.isdecimal() else -1
            )
            if 0 <= index < labels.num_classes:
                draw.polygon(points, fill=index)
            else:
                passed[kind] = passed.get(kind, 0) + 1
        path = out / f"{outlines.name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
        except OSError as error:
            raise DataError(
                f"{path}: {error.strerror}", hint="give --out a folder that can be written"
            ) from error
        written.append(path)
    if not written:
        raise DataError(
            f"{source}: no annotations of labelme, YOLO or COCO",
            hint="give their folder, or COCO's .json, with --from",
        )
    return Drawn(tuple(written), passed)


def round_masks(source: Path, out: Path, labels: LabelSpace, values: Sequence[int]) -> tuple[Path, ...]:
    """Make masks of pictures of labels, whose values JPEG or smooth resizing has blended: each pixel gets the
    nearest class.

    Args:
        source: folder of pictures.
        out: gets NAME.png for each; may be `source`, where that overwrites none of the pictures.
        values: of grey pictures, in class order; empty: the nearest colour of `labels`.
    Raises:
        DataError: no pictures, an unreadable one, one that would be overwritten, or `out` cannot be written.
    """
    pictures = (
        [path for path in walk(source) if path.suffix.lower() in (*_IMAGES, ".gif")]
        if source.is_dir()
        else []
    )
    written = []
    meant = np.asarray([[value] * 3 for value in values] or labels.palette_rgb, np.int16)
    for path in pictures:
        target = (out / path.relative_to(source)).with_suffix(".png")
        if target.exists() and target.samefile(path):
            raise DataError(f"{target}: would be overwritten", hint="give --out another folder")
        image = read_image(path).astype(np.int16)
        distance = np.stack([np.abs(image - colour).sum(axis=2) for colour in meant])
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(
                target, encode_png(np.repeat(distance.argmin(axis=0).astype(np.uint8)[..., None], 3, axis=2))
            )
        except OSError as error:
            raise DataError(
                f"{target}: {error.strerror}", hint="give --out a folder that can be written"
            ) from error
        written.append(target)
    if not written:
        raise DataError(
            f"{source}: no pictures of labels", hint="give the folder of the label pictures with --from"
        )
    return tuple(written)


def _annotated(source: Path, images: Path) -> Iterator[Outlines]:
    if source.is_file():
        yield from _coco(source)
        return
    pictures = (
        {_name(path, images): path for path in walk(images) if path.suffix.lower() in _IMAGES}
        if images.is_dir()
        else {}
    )
    for path in walk(source) if source.is_dir() else ():
        name = _name(path, source)
        if path.suffix.lower() == ".json":
            found = _labelme(path, name, pictures.get(name))
            if found is not None:
                yield found
        elif path.suffix.lower() == ".txt" and name in pictures:
            height, width = read_image(pictures[name]).shape[:2]
            yield Outlines(name, (width, height), tuple(_yolo(path, width, height)))


def _name(path: Path, folder: Path) -> str:
    return composed(path.relative_to(folder).with_suffix("").as_posix())


def _labelme(path: Path, name: str, picture: Path | None) -> Outlines | None:
    held = _json(path)
    if not isinstance(held, dict) or "shapes" not in held:
        return None
    try:
        shapes = []
        for shape in held["shapes"]:
            points = [(float(x), float(y)) for x, y in shape["points"]]
            if shape.get("shape_type") == "rectangle" and len(points) == 2:
                (left, top), (right, bottom) = points
                points = [(left, top), (right, top), (right, bottom), (left, bottom)]
            if len(points) >= 3:
                shapes.append((str(shape["label"]), points))
        if "imageWidth" not in held and picture is not None:
            height, width = read_image(picture).shape[:2]
            return Outlines(name, (width, height), tuple(shapes))
        return Outlines(name, (int(held["imageWidth"]), int(held["imageHeight"])), tuple(shapes))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not an annotation of labelme ({error!r})", hint="save it again in labelme"
        ) from error


def _yolo(path: Path, width: int, height: int) -> Iterator[tuple[str, Points]]:
    try:
        rows = [
            [float(word) for word in line.split()]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a label file of YOLO ({error})", hint="move other text files away"
        ) from error
    for row in rows:
        if len(row) == 5:
            raise DataError(
                f"{path}: holds boxes, and a mask needs outlines", hint="annotate outlines, or export them"
            )
        if len(row) < 7 or len(row) % 2 == 0:
            raise DataError(
                f"{path}: a line of {len(row)} numbers is no outline",
                hint="write class x1 y1 x2 y2 x3 y3 ...",
            )
        yield str(int(row[0])), [(x * width, y * height) for x, y in zip(row[1::2], row[2::2], strict=True)]


def _coco(path: Path) -> Iterator[Outlines]:
    held = _json(path)
    try:
        kinds = {row["id"]: str(row["name"]) for row in held["categories"]}
        shapes: dict[Any, list[tuple[str, Points]]] = {row["id"]: [] for row in held["images"]}
        for row in sorted(held["annotations"], key=lambda row: -float(row.get("area", 0))):
            outline = row.get("segmentation")
            if isinstance(outline, dict):
                raise DataError(
                    f"{path}: holds run lengths (RLE), not outlines",
                    hint="pycocotools' COCO(FILE).annToMask makes masks of them",
                )
            for flat in outline or ():
                if len(flat) >= 6:
                    points = [(float(x), float(y)) for x, y in zip(flat[::2], flat[1::2], strict=True)]
                    shapes[row["image_id"]].append((kinds[row["category_id"]], points))
        sized: Sequence[Any] = held["images"]
        for row in sized:
            name = composed(Path(str(row["file_name"])).with_suffix("").as_posix())
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise DataError(
                    f"{path}: the image {row['file_name']} lies outside",
                    hint="write names below the images' folder",
                )
            yield Outlines(name, (int(row["width"]), int(row["height"])), tuple(shapes[row["id"]]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: not an annotation file of COCO ({error!r})", hint="export it again, as COCO"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})", hint="copy the file again") from error
