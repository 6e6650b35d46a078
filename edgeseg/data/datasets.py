"""Data sets as they lie on disk: pairs of an image and a label file, decoded to RGB and class indices.

A format (see `formats`) says where the two lie and what a label value means; everything else is the same for all of them
and is here. Nothing is converted or cached.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import SegDataset
from edgeseg.data.formats import NO_MEANING, Folders, Format, SplitName, format_of
from edgeseg.errors import DataError, require
from edgeseg.files import is_clutter
from edgeseg.images import read_image
from edgeseg.recipe.schema import Data, Split
from edgeseg.specs import ImageU8, LabelSpace, MaskU8
from edgeseg.synthetic import LABELS, Scene
from edgeseg.text import shown

NAMED_AT_MOST = 10
"""Files, values or colours that a message names before it only counts."""

SYNTHETIC_SIZE_HW = (256, 320)
SYNTHETIC_COUNTS: dict[SplitName, int] = {"train": 512, "val": 64}


@dataclass(frozen=True, slots=True)
class Sample:
    """A pair of files; `name` is the image's path below the data root, without suffix."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The files of one split.

    Attributes:
        format: how to read them.
        folders: where they were found, below the data root.
        samples: the pairs, by name.
        without_label, without_image: names of files that lack their other half.
        not_found: names that the split's list holds and the folders do not.
    """

    format: Format
    folders: Folders
    samples: tuple[Sample, ...]
    without_label: tuple[str, ...]
    without_image: tuple[str, ...]
    not_found: tuple[str, ...]


class FolderDataset:
    """Pairs of files. A SegDataset."""

    def __init__(self, form: Format, samples: Sequence[Sample]) -> None:
        self.labels = form.labels
        self.format = form
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return self.samples[index].name

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        sample = self.samples[index]
        image, mask = read_image(sample.image), read_mask(sample.label, self.format)
        require_same_size(sample, image, mask)
        return image, mask


class SyntheticDataset:
    """Street scenes, one a sample, made when they are asked for. A SegDataset; train and val share no scene."""

    def __init__(self, split: SplitName) -> None:
        self.labels = LABELS
        self.split = split

    def __len__(self) -> int:
        return SYNTHETIC_COUNTS[self.split]

    def name(self, index: int) -> str:
        return f"synthetic/{self.split}/{range(len(self))[index]:06d}"

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        number = range(len(self))[index]
        return Scene(2 * number + (self.split == "val"), SYNTHETIC_SIZE_HW).frame(number)


def open_dataset(data: Data, split: SplitName, root: Path) -> SegDataset:
    """Open one split of a data set. Files are found now and read by `load`.

    Args:
        data: the recipe's `data` section.
        split: which split.
        root: data root, the folder that holds the data set's own folders; not looked at for `synthetic`.
    Raises:
        RecipeError: the section contradicts itself.
        DataError: missing folders, images without label files or the reverse, no samples.
    """
    if data.format == "synthetic":
        return SyntheticDataset(split)
    found = find_samples(data, split, root)
    images, labels = root / found.folders.images, root / found.folders.labels
    _require_none(found.not_found, "listed sample(s) without image", root / (found.folders.list_file or ""))
    _require_none(found.without_label, f"image(s) without label file in {labels}", images)
    _require_none(found.without_image, f"label file(s) without image in {images}", labels)
    if not found.samples:
        raise DataError(
            f"{images}: no samples for the {split} split",
            hint=f"check the folder, and data.{split} in the recipe (images, include, exclude)",
        )
    return FolderDataset(found.format, found.samples)


def find_samples(data: Data, split: SplitName, root: Path) -> Found:
    """Pair up the files of one split; what does not pair up is reported in the result.

    Raises:
        RecipeError: the section contradicts itself.
        DataError: a folder or list is missing, or two files claim one name.
    """
    if not root.is_dir():
        raise DataError(f"data root {root}: no such folder", hint=f"give the folder of the {data.format} data with --data-root")
    form = format_of(data, root)
    chosen = data.train if split == "train" else data.val
    if chosen is None:
        folders = _existing(form.train if split == "train" else form.val, root, data, split)
    else:
        folders = Folders(chosen.images, chosen.labels)
    images = _named_files(root / folders.images, form.image_files)
    labels = _named_files(root / folders.labels, form.label_files)
    names = images.keys() | labels.keys()
    listed = set(names) if folders.list_file is None else _read_list(root / folders.list_file)
    kept = {name for name in listed if chosen is None or _is_kept(name, chosen)}
    return Found(
        form,
        folders,
        tuple(
            Sample(f"{folders.images}/{name}", images[name], labels[name])
            for name in sorted(kept & images.keys() & labels.keys())
        ),
        without_label=tuple(sorted((kept & images.keys()) - labels.keys())),
        without_image=tuple(sorted((kept & labels.keys()) - images.keys())),
        not_found=tuple(sorted(kept - names)),
    )


def read_mask(path: Path, form: Format) -> MaskU8:
    """Read a label file as class indices, (H, W) uint8. Raises DataError as `read_raw_label` and `classes_of` do."""
    return classes_of(read_raw_label(path, form), form, path)


def read_raw_label(path: Path, form: Format) -> npt.NDArray[Any]:
    """Pixels as stored: (H, W) integer values, or (H, W, 3) uint8 colours where the format goes by colour.

    The value of an indexed PNG is its index, whatever colours its palette has.

    Raises:
        DataError: missing, unreadable or truncated file; colours where values are expected.
    """
    pillow = require("PIL.Image", extra="train", purpose="read label files")
    try:
        with pillow.open(path) as file:
            if form.by_colour:
                return np.asarray(file.convert("RGB"))
            raw = np.asarray(file)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: not a readable label file ({reason})", hint="replace the file, or exclude the sample"
        ) from error
    if raw.ndim != 2 or raw.dtype.kind not in "iub":
        raise DataError(
            f"{path}: the label file holds {'colours' if raw.ndim == 3 else 'fractions'}, where class indices are expected",
            hint="use format: folders with encoding: palette for coloured labels, or convert them to single-channel PNG",
        )
    return raw.astype(np.uint8) if raw.dtype.kind == "b" else raw


def classes_of(raw: npt.NDArray[Any], form: Format, path: Path) -> MaskU8:
    """Raw label pixels to class indices, (H, W) uint8.

    Raises:
        DataError: values or colours that no class has; names them, with their pixel counts, and the file.
    """
    labels = form.labels
    if form.by_colour:
        raw, table = _pack(raw), _colour_table(labels)
        known = np.array(list(table), np.int32)
        slot = np.minimum(np.searchsorted(known, raw), len(known) - 1)
        mask = np.where(known[slot] == raw, np.array(list(table.values()), np.int16)[slot], np.int16(NO_MEANING))
    elif raw.dtype == np.uint8:
        mask = form.table[raw]
    else:
        inside = (raw >= 0) & (raw < len(form.table))
        mask = np.where(inside, form.table[np.where(inside, raw, 0)], np.int16(NO_MEANING))
    if mask.min() == NO_MEANING:
        values, counts = np.unique(raw[mask == NO_MEANING], return_counts=True)
        named = [
            f"{_unpack(value) if form.by_colour else value} ({count} px)"
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        ]
        if form.by_colour:
            raise DataError(
                f"{path}: colours that are not in the palette: {_first(named)}",
                hint="add the classes to data.classes, or make the labels anew (JPEG and smooth resizing blend colours at edges)",
            )
        raise DataError(
            f"{path}: label values without a class: {_first(named)}; there are {labels.num_classes} classes, "
            f"and {labels.ignore_index} is ignored",
            hint="correct the labels or the list of classes, or map the values with data.index_map (format folders)",
        )
    return mask.astype(np.uint8)


def require_same_size(sample: Sample, image: ImageU8, mask: MaskU8) -> None:
    """Raises DataError where image and label differ in height or width."""
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{sample.label}: the label is {mask.shape[1]}x{mask.shape[0]}, but its image {sample.image} is "
            f"{image.shape[1]}x{image.shape[0]}",
            hint="make the label anew at the image's size (nearest neighbour), or exclude the sample",
        )


def _existing(candidates: Sequence[Folders], root: Path, data: Data, split: str) -> Folders:
    present = [folders for folders in candidates if (root / folders.images).is_dir()]
    complete = [folders for folders in present if (root / folders.labels).is_dir()]
    if present:
        return (complete or present)[0]
    places = " or ".join(dict.fromkeys(folders.images for folders in candidates))
    raise DataError(
        f"data root {root}: no folder {places} (format {data.format}, {split} split)",
        hint=f"give the folder that holds it with --data-root, or name the folders in the recipe under data.{split}",
    )


def _named_files(folder: Path, pattern: str) -> dict[str, Path]:
    """Files anywhere below a folder that match, by sample name."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", hint="check --data-root, and the folders under data in the recipe")
    matcher = re.compile(pattern, re.IGNORECASE)
    files: dict[str, Path] = {}
    for path in _walk(folder):
        if shown(path) != str(path):
            raise DataError(
                f"{shown(path)}: the name is not UTF-8 text", hint="rename the file: recipes and reports name samples"
            )
        match = matcher.fullmatch(path.relative_to(folder).as_posix())
        if match is None:
            continue
        if match[1] in files:
            raise DataError(f"{path}: sample {match[1]} has a file already, {files[match[1]]}", hint="keep one of the two")
        files[match[1]] = path
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_clutter(name)]
        yield from (Path(parent, file) for file in files if not is_clutter(file))


def _read_list(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", hint="the format lists its samples in this file; check --data-root"
        ) from error


def _is_kept(name: str, split: Split) -> bool:
    included = not split.include or any(fnmatchcase(name, pattern) for pattern in split.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in split.exclude)


def _require_none(names: Collection[str], what: str, where: Path) -> None:
    if names:
        raise DataError(
            f"{where}: {len(names)} {what}: {_first(names)}",
            hint="complete the files, or leave the samples out with `exclude` under data in the recipe",
        )


def _first(items: Collection[str]) -> str:
    shown = ", ".join(list(items)[:NAMED_AT_MOST])
    return shown if len(items) <= NAMED_AT_MOST else f"{shown} and {len(items) - NAMED_AT_MOST} more"


def _pack(colours: Iterable[Sequence[int]] | npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(..., 3) RGB to one number each, red highest."""
    return np.asarray(colours, np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _unpack(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255


def _colour_table(labels: LabelSpace) -> dict[int, int]:
    """Packed colour -> class index, sorted by colour; black is ignored unless it is a class."""
    classes = dict(zip(_pack(labels.palette_rgb).tolist(), range(labels.num_classes), strict=True))
    return dict(sorted({0: labels.ignore_index, **classes}.items()))
