"""Look at a whole data set before hours of training do: every file is read, and every problem reported, not
the first alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import NoProgress, Progress, SegDataset
from edgeseg.data.between import across
from edgeseg.data.datasets import FolderDataset, classes_of, open_dataset, read_raw_label, require_same_size
from edgeseg.data.findings import Looked, Problem, ProblemKind, Seen, errors_of, of_samples, warnings_of
from edgeseg.data.formats import NO_MEANING, SplitName
from edgeseg.data.label_values import counted, exclude_line
from edgeseg.data.pairs import Found, find_samples
from edgeseg.data.strangers import why_no_folder, why_unpaired
from edgeseg.errors import DataError
from edgeseg.images import (
    contact_sheet,
    decode_image,
    jpeg_facts,
    opencv,
    read_image,
    resize_image,
    resize_mask,
)
from edgeseg.recipe.schema import Data
from edgeseg.specs import ImageU8, MaskU8

_FLAT = 24
"""Grey levels between the darkest and the brightest part of a picture, below which it looks like any
other.
"""


@dataclass(frozen=True, slots=True)
class ClassShare:
    """How much of a split is one class: of the labelled pixels, and of the images that show it at all."""

    name: str
    pixels: int
    pixel_share: float
    images: int
    image_share: float


@dataclass(frozen=True, slots=True)
class SplitReport:
    """Figures of one split, over the samples that could be read.

    Attributes:
        samples: pairs found; `read` of them could be read.
        pixels: label pixels read; `ignored_share` of them are ignored.
        classes: in class order.
        sizes: "WIDTHxHEIGHT" -> images, the most frequent first.
    """

    split: SplitName
    samples: int
    read: int
    pixels: int
    ignored_share: float
    classes: tuple[ClassShare, ...]
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check_dataset` found. Sound where there are no problems; warnings may be meant so."""

    format: str
    root: str
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()


def check_dataset(
    data: Data,
    root: Path,
    splits: Sequence[SplitName] = ("train", "val"),
    progress: Progress | None = None,
    threads: int = 4,
) -> CheckReport:
    """Read every sample of the splits, count, and judge.

    Args:
        data: the recipe's `data` section.
        root: data root.
        splits: which splits; duplicates are looked for between them where both are given.
        threads: files read at once.
    Raises:
        RecipeError: the section contradicts itself.
        DataError: the data root is missing. All else that is wrong with the data is in the report.
    """
    if data.format != "synthetic" and not root.is_dir():
        raise DataError(
            f"data root {root}: no such folder",
            hint=f"give the folder of the {data.format} data with --data-root",
        )
    progress = progress or NoProgress()
    problems: list[Problem] = []
    warnings: list[Problem] = []
    every: list[Looked] = []
    for split in splits:
        dataset, found, told = _open(data, split, root)
        problems += told
        if dataset is None:
            continue
        seen = _read_all(dataset, f"check {split}", progress, threads)
        form = dataset.format if isinstance(dataset, FolderDataset) else None
        names = tuple(dataset.name(index) for index in range(len(dataset)))
        folder = root / found.folders.labels if found else root
        looked = Looked(split, dataset.labels, names, tuple(seen), found, form, folder)
        every.append(looked)
        problems += [*of_samples(looked), *errors_of(looked)]
        warnings += warnings_of(looked)
    errors, warned = across(every)
    return CheckReport(
        data.format,
        str(root),
        tuple(_summary(looked) for looked in every),
        (*problems, *errors),
        (*warnings, *warned),
    )


def sample_sheet(
    data: Data, root: Path, splits: Sequence[SplitName], count: int = 12, tile_px: int = 320
) -> ImageU8 | None:
    """A contact sheet: pairs of an image with its name and its labels laid over it, evenly spread over the
    splits, and a legend.

    Samples that cannot be read are passed over.

    Args:
        count: pairs shown, over all splits.
        tile_px: width of one picture.
    Returns:
        (H, W, 3) uint8 RGB; None where no sample can be read.
    Raises:
        RecipeError: the section contradicts itself.
    """
    opened = [
        dataset for split in splits if (dataset := _open(data, split, root)[0]) is not None and len(dataset)
    ]
    pictures: list[ImageU8] = []
    masks: list[MaskU8] = []
    for dataset in opened:
        share = -(-count // len(opened))
        for index in np.unique(
            np.linspace(0, len(dataset) - 1, min(share, len(dataset))).round().astype(int)
        ).tolist():
            try:
                image, mask = dataset.load(index)
            except DataError:
                continue
            size_hw = (max(1, round(tile_px * image.shape[0] / image.shape[1])), tile_px)
            image, mask = resize_image(image, size_hw), resize_mask(mask, size_hw)
            pictures += [_named(image, dataset.name(index)), image]
            masks += [np.full_like(mask, dataset.labels.ignore_index), mask]
    return contact_sheet(pictures, masks, opened[0].labels, columns=4, tile_px=tile_px) if pictures else None


def _open(data: Data, split: SplitName, root: Path) -> tuple[SegDataset | None, Found | None, list[Problem]]:
    """A split's whole pairs, and what is wrong with its folders."""
    if data.format == "synthetic":
        return open_dataset(data, split, root), None, []
    try:
        found = find_samples(data, split, root)
    except DataError as error:
        told, mend = why_no_folder(data, split, root)
        return (
            None,
            None,
            [Problem("folder", split, "", f"{error}", f"{told}: {mend}" if told else error.hint)],
        )
    where = {"image": root / found.folders.images, "label": root / found.folders.labels}
    told, mend = why_unpaired(found, split, root) if found.without_label or found.without_image else ("", "")
    lone = (*found.without_label, *found.without_image)
    mend = (
        f"{told}: {mend}" if told else f"complete the files, or leave them out: {exclude_line(split, lone)}"
    )
    problems = [
        *(Problem("pair", split, name, f"{name}: image without label file in {where['label']}", mend)
          for name in found.without_label),
        *(Problem("pair", split, name, f"{name}: label file without image in {where['image']}", mend)
          for name in found.without_image),
        *(Problem("pair", split, name, f"{name}: listed in {found.folders.list_file}, but not there")
          for name in found.not_found),
    ]  # fmt: skip
    if not found.samples:
        told, mend = ("", "") if problems else why_no_folder(data, split, root)
        mend = f"{told}: {mend}" if told else ""
        return (
            None,
            found,
            [
                *problems,
                Problem("empty", split, "", f"{where['image']}: no samples for the {split} split", mend),
            ],
        )
    return FolderDataset(found.format, found.samples), found, problems


def _read_all(dataset: SegDataset, task: str, progress: Progress, threads: int) -> list[Seen]:
    read: Callable[[int], Seen] = partial(_read_loaded, dataset)
    if isinstance(dataset, FolderDataset):
        read = partial(_read_files, dataset)
    progress.start(task, len(dataset))
    seen: list[Seen] = []
    problems = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for sample in pool.map(read, range(len(dataset))):
            seen.append(sample)
            problems += len(sample.problems)
            progress.advance(task, problems=problems)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for a hundred thousand files
    progress.finish(task)
    return seen


def _read_files(dataset: FolderDataset, index: int) -> Seen:
    """Read the two files apart, so that one broken file does not hide the other."""
    sample = dataset.samples[index]
    seen = Seen()
    image: ImageU8 | None = None
    try:
        image = _look_at(sample.image, seen)
    except DataError as error:
        seen.problems.append(("image", str(error), error.hint))
    kind: ProblemKind = "label"
    try:
        raw = read_raw_label(sample.label, dataset.format)
        kind = "values"
        if not dataset.format.by_colour:
            seen.values = counted(raw)
        table = dataset.format.table
        if seen.values and raw.dtype == np.uint8 and all(table[value] != NO_MEANING for value in seen.values):
            seen.counts = np.zeros(256, np.int64)  # as below, without a look at every pixel
            for value, count in seen.values.items():
                seen.counts[table[value]] += count
        else:
            seen.counts = np.bincount(classes_of(raw, dataset.format, sample.label).ravel(), minlength=256)
    except DataError as error:
        same = seen.digest and seen.digest == _digest(sample.label)
        own = ("label", f"{sample.label}: is the image itself, not its label", _OWN_LABEL)
        seen.problems.append(own if same else (kind, str(error), error.hint))  # type: ignore[arg-type]
        return seen
    if image is not None:
        try:
            require_same_size(sample, image, raw[..., 0] if raw.ndim == 3 else raw)
        except DataError as error:
            seen.problems.append(("size", str(error), error.hint))
    return seen


_OWN_LABEL = (
    "name the folder of the label files in the recipe (labels, label_name under data.train and data.val)"
)


def _look_at(path: Path, seen: Seen) -> ImageU8:
    """Read an image, and note what there is to be said of it. Raises DataError."""
    data = path.read_bytes() if path.is_file() else b""
    image = decode_image(data, path) if data else read_image(path)
    seen.digest = hashlib.blake2b(data, digest_size=16).digest()
    seen.size_hw = (image.shape[0], image.shape[1])
    seen.orientation, channels = jpeg_facts(data)
    sparse = image[:: max(1, image.shape[0] // 64), :: max(1, image.shape[1] // 64)]
    grey = bool((sparse[..., 0] == sparse[..., 1]).all() and (sparse[..., 1] == sparse[..., 2]).all())
    seen.channels = "CMYK" if channels == 4 else "grey" if grey else "colour"
    seen.look = _look_hash(sparse[..., 1])
    return image


def _look_hash(grey: npt.NDArray[np.uint8]) -> int | None:
    """Which of 64 places are brighter than their right neighbours, as bits; None for a flat picture."""
    small = (
        opencv()
        .resize(np.ascontiguousarray(grey), (9, 8), interpolation=opencv().INTER_AREA)
        .astype(np.int16)
    )
    if int(small.max()) - int(small.min()) < _FLAT:
        return None
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _digest(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:
        return b""


def _read_loaded(dataset: SegDataset, index: int) -> Seen:
    image, mask = dataset.load(index)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    return Seen(digest, (image.shape[0], image.shape[1]), np.bincount(mask.ravel(), minlength=256))


def _summary(looked: Looked) -> SplitReport:
    seen, labels = looked.seen, looked.labels
    counts = [sample.counts for sample in seen if sample.counts is not None]
    stacked = np.stack(counts) if counts else np.zeros((0, 256), np.int64)
    pixels, images = stacked.sum(axis=0), (stacked > 0).sum(axis=0)
    total, labelled = int(pixels.sum()), int(pixels[: labels.num_classes].sum())
    sizes = Counter(f"{sample.size_hw[1]}x{sample.size_hw[0]}" for sample in seen if sample.size_hw)
    return SplitReport(
        split=looked.split,
        samples=len(seen),
        read=sum(not sample.problems for sample in seen),
        pixels=total,
        ignored_share=1.0 - labelled / total if total else 0.0,
        classes=tuple(
            ClassShare(
                name,
                int(pixels[index]),
                int(pixels[index]) / max(1, labelled),
                int(images[index]),
                int(images[index]) / max(1, len(counts)),
            )
            for index, name in enumerate(labels.names)
        ),
        sizes=dict(sizes.most_common()),
    )


def _named(image_rgb: ImageU8, name: str) -> ImageU8:
    """A copy with the name written into the lower left corner; of a long name the end."""
    cv2, font = opencv(), opencv().FONT_HERSHEY_SIMPLEX
    image: ImageU8 = image_rgb.copy()
    text = name if len(name) <= 44 else f"...{name[-41:]}"
    (width, height), _ = cv2.getTextSize(text, font, 0.4, 1)
    bottom = image.shape[0]
    cv2.rectangle(image, (0, bottom - height - 10), (width + 12, bottom), (20, 20, 20), cv2.FILLED)
    cv2.putText(image, text, (6, bottom - 6), font, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return image
