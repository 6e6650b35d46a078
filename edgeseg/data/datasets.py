"""Data sets as they lie on disk: pairs of an image and a label file, decoded to RGB and class indices.

A format (see `formats`) says where the two lie and what a label value means; everything else is the same for
all of them and is here. Nothing is converted or cached.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import SegDataset
from edgeseg.data.formats import NO_MEANING, Format, SplitName
from edgeseg.data.label_values import (
    counted,
    explain_coloured,
    explain_colours,
    explain_values,
    first,
    pack,
)
from edgeseg.data.pairs import Found, Sample, find_samples
from edgeseg.data.strangers import why_unpaired
from edgeseg.errors import DataError, require
from edgeseg.file_kinds import kind_of
from edgeseg.images import jpeg_facts, read_image
from edgeseg.recipe.schema import Data
from edgeseg.specs import ImageU8, LabelSpace, MaskU8
from edgeseg.synthetic.scene import LABELS, Scene

_LOOKED_AT = 8
"""Labels that are looked at when a split is opened."""
_LITTLE_IGNORED, MUCH_IGNORED = 0.01, 0.5
"""Shares of the pixels: up to the first it is the edges of things; beyond the second it is told."""
SYNTHETIC_SIZE_HW = (256, 320)
SYNTHETIC_COUNTS: dict[SplitName, int] = {"train": 512, "val": 64}


class FolderDataset:
    """Pairs of files. A SegDataset.

    Attributes:
        warnings: what the user should be told of the labels.
    """

    def __init__(self, form: Format, samples: Sequence[Sample], warnings: Sequence[str] = ()) -> None:
        self.labels = form.labels
        self.format = form
        self.samples = samples
        self.warnings = tuple(warnings)

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
    """Street scenes, one a sample, made when they are asked for. A SegDataset; train and val share no
    scene.
    """

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
    """Open one split of a data set. Files are found now and read by `load`; a few labels are looked at, so
    that labels from which nothing can be learned are known before any work.

    Args:
        data: the recipe's `data` section.
        split: which split.
        root: data root, the folder that holds the data set's own folders; not looked at for `synthetic`.
    Raises:
        RecipeError: the section contradicts itself.
        DataError: missing folders, images without label files or the reverse, no samples; label values
            without a class; labels of one class alone.
    """
    if data.format == "synthetic":
        return SyntheticDataset(split)
    found = find_samples(data, split, root)
    images, labels = root / found.folders.images, root / found.folders.labels
    if found.twins:
        name, first, second = found.twins[0]
        raise DataError(f"{second}: sample {name} has a file already, {first}", hint="keep one of the two")
    why, mend = why_unpaired(found, split, root) if found.without_label or found.without_image else ("", "")
    hint = (
        f"{why}: {mend}"
        if why
        else "complete the files, or leave the samples out with `exclude` under data in the recipe"
    )
    _require_none(
        found.not_found, "listed sample(s) without image", root / (found.folders.list_file or ""), hint
    )
    _require_none(found.without_label, f"image(s) without label file in {labels}", images, hint)
    _require_none(found.without_image, f"label file(s) without image in {images}", labels, hint)
    if not found.samples:
        raise DataError(
            f"{images}: no samples for the {split} split",
            hint=f"check the folder, and data.{split} in the recipe (images, include, exclude)",
        )
    return FolderDataset(found.format, found.samples, _look_at_labels(found, split, labels))


def _look_at_labels(found: Found, split: SplitName, folder: Path) -> list[str]:
    """Read a few labels, and more of them only while all show one class; returns what the user should be
    told.

    Raises:
        DataError: a label cannot be read, or has values without a class; or no label of the split shows a
            second class.
    """
    form, samples = found.format, found.samples
    spread = np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).round().astype(int)).tolist()
    order = [*spread, *(index for index in range(len(samples)) if index not in set(spread))]
    pixels, raw_values = np.zeros(256, np.int64), dict[int, int]()
    for place, index in enumerate(order):
        shown = np.flatnonzero(pixels[: form.labels.num_classes])
        ignored = 1.0 - pixels[shown].sum() / max(1, pixels.sum())
        # A validation split of one class is poor, but no sign of labels that are misread, unless much is
        # ignored beside it.
        if place >= len(spread) and (len(shown) > 1 or (split == "val" and ignored < _LITTLE_IGNORED)):
            break
        raw = read_raw_label(samples[index].label, form)
        pixels += np.bincount(classes_of(raw, form, samples[index].label).ravel(), minlength=256)
        if not form.by_colour:
            for value, count in counted(raw).items():
                raw_values[value] = raw_values.get(value, 0) + count
    return one_class(pixels, raw_values, form, split, folder)


def one_class(
    pixels: npt.NDArray[np.int64], raw_values: Mapping[int, int], form: Format, split: SplitName, folder: Path
) -> list[str]:
    """Judge the labels of a split by their pixels.

    Args:
        pixels: (256,), of each class, and of the ignore index.
        raw_values: value as stored -> pixels; empty where labels are coloured.
    Returns:
        Warnings.
    Raises:
        DataError: no pixel counts, or all are of one class.
    """
    labels = form.labels
    shown = [labels.names[index] for index in np.flatnonzero(pixels[: labels.num_classes])]
    ignored = 1.0 - pixels[: labels.num_classes].sum() / max(1, pixels.sum())
    share = f"{100 * ignored:.2f} % of the pixels are ignored"
    if len(shown) < 2 <= labels.num_classes and (split == "train" or not shown or ignored >= _LITTLE_IGNORED):
        told, hint = (
            explain_values(raw_values, labels, known_values(form), folder) if raw_values else ("", "")
        )
        values = (
            f"; their values are {first(sorted(raw_values))}{f' ({told})' if told else ''}"
            if raw_values
            else ""
        )
        what = f"of one class alone, {shown[0]}" if shown else "of no class"
        raise DataError(
            f"{folder}: the labels of the {split} split are {what}, and {share}{values}",
            hint=hint or "edgeseg data check RECIPE --data-root DIR",
        )
    return [f"{folder}: {share}, and nothing is learned from them"] if ignored > MUCH_IGNORED else []


def read_mask(path: Path, form: Format) -> MaskU8:
    """Read a label file as class indices, (H, W) uint8. Raises DataError as `read_raw_label` and `classes_of`
    do.
    """
    return classes_of(read_raw_label(path, form), form, path)


def read_raw_label(path: Path, form: Format) -> npt.NDArray[Any]:
    """Pixels as stored: (H, W) integer values, or (H, W, 3) uint8 colours where the format goes by colour.

    The value of an indexed PNG is its index, whatever colours its palette has; grey that is stored as RGB is
    its value.

    Raises:
        DataError: missing, unreadable or truncated file; colours where values are expected; transparency in
            places.
    """
    pillow = require("PIL.Image", extra="video", purpose="read label files")
    try:
        with pillow.open(path) as file:
            mode, has_alpha = file.mode, file.mode in ("LA", "RGBA", "PA", "La", "RGBa")
            raw = np.asarray(file.convert("RGB") if form.by_colour and not has_alpha else file)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        kind = kind_of(path)
        reason = getattr(error, "strerror", None) or (f"it is {kind.name}" if kind else error)
        cure = kind.cure if kind else ""
        raise DataError(
            f"{path}: not a readable label file ({reason})",
            hint=cure or "replace the file, or exclude the sample",
        ) from error
    if has_alpha and raw[..., -1].min() != raw[..., -1].max():
        raise DataError(
            f"{path}: the label file is transparent in places, and does not say what transparent pixels are",
            hint="save the labels without transparency (alpha), as single-channel PNG",
        )
    if form.by_colour:
        return np.repeat(raw[..., :1], 3, axis=2) if mode[0] == "L" else np.ascontiguousarray(raw[..., :3])
    if raw.ndim == 3:
        raw = _one_channel(raw if mode[0] != "L" else raw[..., :1], path, form)
    if raw.dtype.kind not in "iub":
        raise DataError(
            f"{path}: the label file holds fractions, where class indices are expected",
            hint="convert the labels to single-channel PNG with the class index as value",
        )
    return raw.astype(np.uint8) if raw.dtype.kind == "b" else raw


def _one_channel(raw: npt.NDArray[Any], path: Path, form: Format) -> npt.NDArray[Any]:
    """The values of channels that are all the same. Raises DataError naming the colours where they are
    not.
    """
    values: npt.NDArray[Any] = raw[..., 0]
    if raw.shape[2] == 1 or ((values == raw[..., 1]).all() and (values == raw[..., 2]).all()):
        return np.ascontiguousarray(values)
    told, hint = explain_coloured(counted(pack(raw[..., :3])), form.labels)
    raise DataError(
        f"{path}: the label file holds colours, where class indices are expected: {told}", hint=hint
    )


def classes_of(raw: npt.NDArray[Any], form: Format, path: Path) -> MaskU8:
    """Raw label pixels to class indices, (H, W) uint8.

    Raises:
        DataError: values or colours that no class has; names them, with their pixel counts, and the file.
    """
    labels = form.labels
    if form.by_colour:
        raw, table = pack(raw), _colour_table(labels)
        known = np.array(list(table), np.int32)
        slot = np.minimum(np.searchsorted(known, raw), len(known) - 1)
        mask = np.where(
            known[slot] == raw, np.array(list(table.values()), np.int16)[slot], np.int16(NO_MEANING)
        )
    elif raw.dtype == np.uint8:
        mask = form.table[raw]
    else:
        inside = (raw >= 0) & (raw < len(form.table))
        mask = np.where(inside, form.table[np.where(inside, raw, 0)], np.int16(NO_MEANING))
    if mask.min() == NO_MEANING:
        unknown = counted(raw[mask == NO_MEANING])
        if form.by_colour:
            told, hint = explain_colours(unknown, labels, path.parent)
            raise DataError(f"{path}: colours that are not in the palette: {told}", hint=hint)
        told, hint = explain_values(counted(raw), labels, known_values(form), path.parent)
        named = first([f"{value} ({count} px)" for value, count in unknown.items()])
        raise DataError(
            f"{path}: label values without a class: {named}; there are {labels.num_classes} classes, "
            f"and {labels.ignore_index} is ignored{f' ({told})' if told else ''}",
            hint=hint,
        )
    return mask.astype(np.uint8)


def known_values(form: Format) -> set[int]:
    """Raw label values that have a meaning, ignored ones included."""
    return set(np.flatnonzero(form.table != NO_MEANING).tolist())


def require_same_size(sample: Sample, image: ImageU8, mask: MaskU8) -> None:
    """Raises DataError where image and label differ in height or width."""
    if image.shape[:2] == mask.shape:
        return
    turned = image.shape[1::-1] == mask.shape and jpeg_facts(_head(sample.image))[0] >= 5
    size = f"{image.shape[1]}x{image.shape[0]}"
    resize = (
        "import sys; from PIL import Image; p, w, h = sys.argv[1:]; Image.open(p).resize((int(w), int(h)),"
        " 0).save(p)"
    )
    command = (
        f"python -c {shlex.quote(resize)} {shlex.quote(str(sample.label))} {image.shape[1]} {image.shape[0]}"
    )
    raise DataError(
        f"{sample.label}: the label is {mask.shape[1]}x{mask.shape[0]}, but its image {sample.image} is"
        f" {size}"
        + (", turned by its EXIF orientation: the label was drawn on the image as stored" if turned else "")
        + (": its sides are swapped" if not turned and image.shape[1::-1] == mask.shape else ""),
        hint=(
            "show the image as stored: exiftool -overwrite_original -Orientation="
            f" {shlex.quote(str(sample.image))}"
            if turned
            else (
                "make the label anew at the image's size (nearest neighbour), or exclude the sample:"
                f" {command}"
            )
        ),
    )


def _head(path: Path) -> bytes:
    """The part of an image file that holds its EXIF data."""
    with open(path, "rb") as file:
        return file.read(1 << 17)


def _require_none(names: Collection[str], what: str, where: Path, hint: str) -> None:
    if names:
        raise DataError(f"{where}: {len(names)} {what}: {first(list(names))}", hint=hint)


def _colour_table(labels: LabelSpace) -> dict[int, int]:
    """Packed colour -> class index, sorted by colour; black is ignored unless it is a class."""
    classes = dict(zip(pack(labels.palette_rgb).tolist(), range(labels.num_classes), strict=True))
    return dict(sorted({0: labels.ignore_index, **classes}.items()))
