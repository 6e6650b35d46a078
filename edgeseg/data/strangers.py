"""Why images have no label: files of another tool or kind that lie there instead, names and folders that do
not match.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgeseg.data.formats import Folders, SplitName
from edgeseg.data.label_values import first, masks_command
from edgeseg.data.pairs import Found, composed, walk
from edgeseg.errors import DataError, require
from edgeseg.recipe.schema import Data

_PICTURES = (".jpg", ".jpeg", ".webp", ".gif")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
_MAX_JSON_BYTES = 1 << 24
_LOOKED_AT = 3


def why_unpaired(found: Found, split: SplitName, root: Path) -> tuple[str, str]:
    """What lies where the labels of images should be, and the line that mends it; both empty where nothing
    tells.

    Called where images lack labels, or labels images.
    """
    images, labels = root / found.folders.images, root / found.folders.labels
    for text, mend in (
        _template(found.without_label, found.without_image, found.folders, split),
        _beside(found, split) if os.path.realpath(images) == os.path.realpath(labels) else ("", ""),
        _other_files(found, labels, images, split, root),
        _archives(labels),
    ):
        if text:
            return text, mend
    return "", ""


def why_no_folder(data: Data, split: SplitName, root: Path) -> tuple[str, str]:
    """The same for a folder that is not there: labels that lie beside their images, archives that were not
    unpacked.
    """
    chosen = data.train if split == "train" else data.val
    if chosen is not None and (root / chosen.images).is_dir() and not (root / chosen.labels).is_dir():
        stems = [
            composed(path.relative_to(root / chosen.images).with_suffix("").as_posix())
            for path in _files(root / chosen.images)
        ]
        known = set(stems)
        ends = Counter(longer[len(stem) :] for longer in known for stem in _shorter(longer, known))
        if ends and ends.most_common(1)[0][1] * 3 >= len(known):
            end = ends.most_common(1)[0][0]
            return (
                f"the labels lie beside the images, called NAME{end}",
                (
                    f'data.{split}.labels: {chosen.images}, and data.{split}.label_name: "{{}}{end}"   in the'
                    " recipe"
                ),
            )
    return _archives(root)


def _shorter(name: str, known: set[str]) -> Iterable[str]:
    return (name[:end] for end in range(1, len(name)) if name[:end] in known and not name[end].isdigit())


def _template(
    without_label: Sequence[str], without_image: Sequence[str], folders: Folders, split: SplitName
) -> tuple[str, str]:
    """Names that differ by folder, or by what stands before and after the part that they share."""
    if not without_label or not without_image:
        return "", ""
    needed = max(1, min(len(without_label), len(without_image)) // 2)
    bases = [{os.path.basename(name): name for name in names} for names in (without_label, without_image)]
    shared = bases[0].keys() & bases[1].keys()
    if len(shared) >= needed:
        example = min(shared)
        below = [bases[side][example].rpartition("/")[0] for side in (0, 1)]
        lines = [
            f"data.{split}.{key}: {folder}/{inner}"
            for key, folder, inner in zip(
                ("images", "labels"), (folders.images, folders.labels), below, strict=True
            )
            if inner
        ]
        return (
            f"their labels lie in other sub-folders, such as {example}",
            f"{', and '.join(lines)}   in the recipe",
        )
    (before_i, after_i), (before_l, after_l) = (_affixes(list(side)) for side in bases)
    cores = [
        {name[len(before) : len(name) - len(after)] for name in side}
        for side, before, after in ((bases[0], before_i, after_i), (bases[1], before_l, after_l))
    ]
    if len(cores[0] & cores[1]) < needed:
        return "", ""
    # What one side has and the other has too belongs to the name.
    if before_l.endswith(before_i):
        before_i, before_l = "", before_l[: len(before_l) - len(before_i)]
    elif before_i.endswith(before_l):
        before_i, before_l = before_i[: len(before_i) - len(before_l)], ""
    if after_l.startswith(after_i):
        after_i, after_l = "", after_l[len(after_i) :]
    elif after_i.startswith(after_l):
        after_i, after_l = after_i[len(after_l) :], ""
    keys = [
        (key, f"{b}{{}}{a}")
        for key, b, a in (("image_name", before_i, after_i), ("label_name", before_l, after_l))
        if b or a
    ]
    written = ", and ".join(f'data.{split}.{key}: "{called}"' for key, called in keys)
    options = " ".join(f"--set {shlex.quote(f'data.{split}.{key}={called}')}" for key, called in keys)
    return f"their labels are called {before_l}NAME{after_l}", f"{written}   in the recipe, or {options}"


def _affixes(names: list[str]) -> tuple[str, str]:
    """What all names begin and end with, without the digits that count them."""
    before = _common(names).rstrip("0123456789")
    rest = [name[len(before) :] for name in names]
    after = _common([name[::-1] for name in rest])[::-1].lstrip("0123456789") if len(names) > 1 else ""
    if len(names) == 1:  # one name tells no pattern: its digits are what is shared
        digits = max(
            (part for part in "".join(c if c.isdigit() else " " for c in names[0]).split()),
            key=len,
            default="",
        )
        before, _, after = names[0].rpartition(digits) if digits else ("", "", "")
    return before, after


def _common(names: Sequence[str]) -> str:
    """What all begin with."""
    low, high = min(names), max(names)
    return low[
        : next(
            (place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
            min(len(low), len(high)),
        )
    ]


def _beside(found: Found, split: SplitName) -> tuple[str, str]:
    known = set(found.without_label)
    ends = Counter(longer[len(stem) :] for longer in known for stem in _shorter(longer, known))
    if not ends:
        return (
            "images and labels are one folder, and no file of it is a label of another",
            f"data.{split}.labels: name the folder of the label files in the recipe",
        )
    end = ends.most_common(1)[0][0]
    return (
        f"images and labels are one folder; the labels are called NAME{end}",
        (
            f'data.{split}.label_name: "{{}}{end}"   in the recipe, or --set'
            f" {shlex.quote(f'data.{split}.label_name={{}}{end}')}"
        ),
    )


def _other_files(found: Found, labels: Path, images: Path, split: SplitName, root: Path) -> tuple[str, str]:
    """Files of the images' names that are no label files, first in the label folder, then beside the
    images.
    """
    wanted = {name.rpartition("/")[2].casefold() for name in found.without_label}
    for folder in dict.fromkeys((labels, images)):
        files = [
            path
            for path in _files(folder)
            if composed(path.name).partition(".")[0].casefold() in wanted or path.stem in wanted
        ]
        if folder == images:
            files = [
                path for path in files if path.suffix.lower() in (".json", ".txt", ".xml", ".npy", ".mat")
            ]
        if not files:
            continue
        suffix = Counter(path.suffix.lower() for path in files).most_common(1)[0][0]
        same = [path for path in files if path.suffix.lower() == suffix]
        told = _kind(suffix, same, folder, found, split)
        if told[0]:
            return f"{len(same)} {told[0]} lie in {folder}", told[1]
    return _one_json(root, labels, images, split)


def _kind(suffix: str, files: list[Path], folder: Path, found: Found, split: SplitName) -> tuple[str, str]:
    draw = f"draw them as masks: {masks_command(folder, split)}"
    if suffix in _PICTURES:
        values = _frequent(files[:_LOOKED_AT], found.format.labels.num_classes)
        what = "JPEG files" if suffix.startswith(".j") else f"{suffix[1:].upper()} files"
        why = "whose compression changes label values" if suffix != ".gif" else "which are not read as labels"
        command = masks_command(folder, split, () if found.format.by_colour else values, out=folder)
        return (
            f"{what}, {why},",
            f"make the labels anew as PNG, or round them to the nearest value: {command}",
        )
    if suffix == ".txt":
        columns = _yolo_columns(files[0])
        if columns == 5:
            return (
                "box files of YOLO, which hold no outlines,",
                "masks cannot be made of boxes: annotate outlines, or export them",
            )
        return ("polygon files of YOLO", draw) if columns else ("", "")
    if suffix == ".json":
        kind = _json_kind(files[0])
        if kind == "labelme":
            return "annotations of labelme", draw
        return (
            (f"annotations of {kind}", "export them as masks from there (PNG, one value a class)")
            if kind
            else ("JSON files", "")
        )
    if suffix == ".xml":
        return (
            "annotations in XML (Pascal VOC, CVAT)",
            "export masks from there: in CVAT, format Segmentation mask 1.1",
        )
    if suffix == ".npy":
        script = (
            "import sys, pathlib, numpy as np; from PIL import Image; "
            "[Image.fromarray(np.load(p).squeeze().astype('uint8')).save(p.with_suffix('.png')) "
            "for p in pathlib.Path(sys.argv[1]).rglob('*.npy')]"
        )
        return (
            "NumPy arrays",
            f"write them as PNG: python -c {shlex.quote(script)} {shlex.quote(str(folder))}",
        )
    if suffix == ".mat":
        return "MATLAB files", "write them as PNG: scipy.io.loadmat reads them"
    return f"{suffix} files", "label files are PNG, BMP or TIFF"


def _one_json(root: Path, labels: Path, images: Path, split: SplitName) -> tuple[str, str]:
    """One file that annotates all images: COCO's, VIA's."""
    places = dict.fromkeys((labels, images, labels.parent, images.parent, root, root / "annotations"))
    for path in (path for place in places if place.is_dir() for path in sorted(place.glob("*.json"))):
        kind = _json_kind(path)
        if kind == "COCO":
            return f"{path} holds annotations of COCO", f"draw them as masks: {masks_command(path, split)}"
        if kind:
            return (
                f"{path} holds annotations of {kind}",
                "export them as masks from there (PNG, one value a class)",
            )
    return "", ""


def _json_kind(path: Path) -> str:
    """The tool that wrote a JSON file; empty where it is none that is known."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            head = path.open("rb").read(4096)
            return "COCO" if b'"images"' in head or b'"annotations"' in head or b'"info"' in head else ""
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if isinstance(held, list):
        return (
            "Label Studio"
            if held and isinstance(held[0], dict) and {"annotations", "completions"} & held[0].keys()
            else ""
        )
    if not isinstance(held, dict):
        return ""
    for kind, keys in (
        ("labelme", {"shapes"}),
        ("COCO", {"images", "annotations"}),
        ("VIA", {"_via_img_metadata"}),
        ("Cityscapes' polygons", {"imgHeight", "objects"}),
        ("Supervisely", {"objects", "size"}),
        ("Label Studio", {"completions"}),
    ):
        if keys <= held.keys():
            return kind
    return "VIA" if any(isinstance(item, dict) and "regions" in item for item in held.values()) else ""


def _yolo_columns(path: Path) -> int:
    """Numbers on the first line: 5 for a box, more for an outline; 0 where it is no file of YOLO."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        numbers = [[float(word) for word in line] for line in lines]
    except (OSError, ValueError):
        return 0
    return (
        len(numbers[0])
        if numbers and all(len(row) == 5 or (len(row) >= 7 and len(row) % 2) for row in numbers)
        else 0
    )


def _frequent(files: Sequence[Path], count: int) -> list[int]:
    """The commonest values of grey pictures, in order: what they meant before they were compressed."""
    pillow = require("PIL.Image", extra="video", purpose="read label files")
    pixels = np.zeros(256, np.int64)
    for path in files:
        try:
            with pillow.open(path) as file:
                pixels += np.bincount(np.asarray(file.convert("L")).ravel(), minlength=256)
        except (OSError, SyntaxError, ValueError):
            continue
    return sorted(np.argsort(-pixels, kind="stable")[:count].tolist())


def _archives(folder: Path) -> tuple[str, str]:
    if not folder.is_dir():
        folder = folder.parent
    if not folder.is_dir():
        return "", ""
    packed = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ARCHIVES)
    if not packed:
        return "", ""
    quoted = [shlex.quote(str(part)) for part in (packed[0], folder)]
    unpack = (
        f"unzip {quoted[0]} -d {quoted[1]}"
        if packed[0].suffix.lower() == ".zip"
        else f"tar -xf {quoted[0]} -C {quoted[1]}"
    )
    return f"an archive lies there, not unpacked: {first([path.name for path in packed])}", unpack


def _files(folder: Path) -> list[Path]:
    try:
        return list(walk(folder)) if folder.is_dir() else []
    except DataError:
        return []
