"""Look at a whole data set before hours of training do: every file is read, and every problem reported, not the first alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import NoProgress, Progress, SegDataset
from edgeseg.data.datasets import (
    FolderDataset,
    Sample,
    classes_of,
    find_samples,
    open_dataset,
    read_raw_label,
    require_same_size,
)
from edgeseg.data.formats import SplitName
from edgeseg.errors import DataError
from edgeseg.images import contact_sheet, opencv, read_image, resize_image, resize_mask
from edgeseg.recipe.schema import Data
from edgeseg.specs import ImageU8, LabelSpace, MaskU8

ProblemKind = Literal["folder", "empty", "pair", "image", "label", "values", "size", "duplicate"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend.

    Attributes:
        kind: "folder" or list missing, "empty" split, "pair" incomplete, "image" or "label" unreadable, label "values" without a
            class, "size" of image and label different, "duplicate" of a training image in the validation split.
        split: where.
        sample: its name; empty for a problem of the whole split.
        message: what happened, naming the file.
    """

    kind: ProblemKind
    split: SplitName
    sample: str
    message: str


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
    """What `check_dataset` found. Sound where there are no problems."""

    format: str
    root: str
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _Seen:
    """One sample, read."""

    digest: bytes = b""
    size_hw: tuple[int, int] | None = None
    counts: npt.NDArray[np.int64] | None = None
    problems: list[tuple[ProblemKind, str]] = field(default_factory=list)


def check_dataset(
    data: Data,
    root: Path,
    splits: Sequence[SplitName] = ("train", "val"),
    progress: Progress | None = None,
    threads: int = 4,
) -> CheckReport:
    """Read every sample of the splits and count.

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
        raise DataError(f"data root {root}: no such folder", hint=f"give the folder of the {data.format} data with --data-root")
    progress = progress or NoProgress()
    reports: list[SplitReport] = []
    problems: list[Problem] = []
    digests: dict[bytes, tuple[SplitName, str]] = {}
    for split in splits:
        dataset, found = _open(data, split, root)
        problems += found
        if dataset is None:
            continue
        seen = _read_all(dataset, f"check {split}", progress, threads)
        reports.append(_summary(split, dataset.labels, seen))
        for index, sample in enumerate(seen):
            name = dataset.name(index)
            problems += [Problem(kind, split, name, message) for kind, message in sample.problems]
            twin_split, twin = digests.setdefault(sample.digest, (split, name)) if sample.digest else (split, name)
            if twin_split != split:
                problems.append(Problem("duplicate", split, name, f"{name}: the same file as {twin} of the {twin_split} split"))
    return CheckReport(data.format, str(root), tuple(reports), tuple(problems))


def sample_sheet(data: Data, root: Path, splits: Sequence[SplitName], count: int = 12, tile_px: int = 320) -> ImageU8 | None:
    """A contact sheet: pairs of an image with its name and its labels laid over it, evenly spread over the splits, and a legend.

    Samples that cannot be read are passed over.

    Args:
        count: pairs shown, over all splits.
        tile_px: width of one picture.
    Returns:
        (H, W, 3) uint8 RGB; None where no sample can be read.
    Raises:
        RecipeError: the section contradicts itself.
    """
    opened = [dataset for split in splits if (dataset := _open(data, split, root)[0]) is not None]
    pictures: list[ImageU8] = []
    masks: list[MaskU8] = []
    for dataset in opened:
        share = -(-count // len(opened))
        for index in np.unique(np.linspace(0, len(dataset) - 1, min(share, len(dataset))).round().astype(int)).tolist():
            try:
                image, mask = dataset.load(index)
            except DataError:
                continue
            size_hw = (max(1, round(tile_px * image.shape[0] / image.shape[1])), tile_px)
            image, mask = resize_image(image, size_hw), resize_mask(mask, size_hw)
            pictures += [_named(image, dataset.name(index)), image]
            masks += [np.full_like(mask, dataset.labels.ignore_index), mask]
    return contact_sheet(pictures, masks, opened[0].labels, columns=4, tile_px=tile_px) if pictures else None


def _open(data: Data, split: SplitName, root: Path) -> tuple[SegDataset | None, list[Problem]]:
    """A split's whole pairs, and what is wrong with its folders."""
    if data.format == "synthetic":
        return open_dataset(data, split, root), []
    try:
        found = find_samples(data, split, root)
    except DataError as error:
        return None, [Problem("folder", split, "", str(error))]
    where = {"image": root / found.folders.images, "label": root / found.folders.labels}
    problems = [
        *(Problem("pair", split, name, f"{name}: image without label file in {where['label']}") for name in found.without_label),
        *(Problem("pair", split, name, f"{name}: label file without image in {where['image']}") for name in found.without_image),
        *(
            Problem("pair", split, name, f"{name}: listed in {found.folders.list_file}, but not there")
            for name in found.not_found
        ),
    ]
    if not found.samples:
        return None, [*problems, Problem("empty", split, "", f"{where['image']}: no samples for the {split} split")]
    return FolderDataset(found.format, found.samples), problems


def _read_all(dataset: SegDataset, task: str, progress: Progress, threads: int) -> list[_Seen]:
    read: Callable[[int], _Seen] = partial(_read_loaded, dataset)
    if isinstance(dataset, FolderDataset):
        read = partial(_read_files, dataset)
    progress.start(task, len(dataset))
    seen: list[_Seen] = []
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


def _read_files(dataset: FolderDataset, index: int) -> _Seen:
    """Read the two files apart, so that one broken file does not hide the other."""
    sample: Sample = dataset.samples[index]
    seen = _Seen()
    image: ImageU8 | None = None
    mask: MaskU8 | None = None
    try:
        image = read_image(sample.image)
        seen.digest = hashlib.blake2b(sample.image.read_bytes(), digest_size=16).digest()
        seen.size_hw = (image.shape[0], image.shape[1])
    except DataError as error:
        seen.problems.append(("image", str(error)))
    kind: ProblemKind = "label"
    try:
        raw = read_raw_label(sample.label, dataset.format)
        kind = "values"
        mask = classes_of(raw, dataset.format, sample.label)
        seen.counts = np.bincount(mask.ravel(), minlength=256)
    except DataError as error:
        seen.problems.append((kind, str(error)))
    if image is not None and mask is not None:
        try:
            require_same_size(sample, image, mask)
        except DataError as error:
            seen.problems.append(("size", str(error)))
    return seen


def _read_loaded(dataset: SegDataset, index: int) -> _Seen:
    image, mask = dataset.load(index)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    return _Seen(digest, (image.shape[0], image.shape[1]), np.bincount(mask.ravel(), minlength=256))


def _summary(split: SplitName, labels: LabelSpace, seen: Sequence[_Seen]) -> SplitReport:
    counts = [sample.counts for sample in seen if sample.counts is not None]
    stacked = np.stack(counts) if counts else np.zeros((0, 256), np.int64)
    pixels, images = stacked.sum(axis=0), (stacked > 0).sum(axis=0)
    total, labelled = int(pixels.sum()), int(pixels[: labels.num_classes].sum())
    sizes = Counter(f"{sample.size_hw[1]}x{sample.size_hw[0]}" for sample in seen if sample.size_hw)
    return SplitReport(
        split=split,
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
