"""Chooses the images of a calibration set: every class often, rare ones first, and the whole range of
brightness.

Each image is a vector of features: for every class, how much of it the image shows, 1 being as much as the
median image that shows the class at all; and for each of `BRIGHTNESS_BINS` equal parts of the candidates'
range of brightness, whether the image lies in it. The value of a set is the sum over features of the square
root of the sum over its images. It is monotone and submodular, so the greedy choice reaches at least 1 - 1/e
of the best set's value.

Source: Nemhauser, Wolsey, Fisher, An analysis of approximations for maximizing submodular set functions
    (1978), for the bound;
Wei, Iyer, Bilmes, Fast multi-stage submodular maximization (ICML 2014), for feature-based functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import NoProgress, Progress, SegDataset
from edgeseg.data.calib import MIN_IMAGES, CalibImage, CalibSet, Chosen, ClassCount
from edgeseg.data.calib_images import image_sha256
from edgeseg.data.datasets import FolderDataset, open_dataset
from edgeseg.errors import DataError
from edgeseg.images import opencv
from edgeseg.recipe.schema import Data
from edgeseg.specs import ImageU8

BRIGHTNESS_BINS = 8
MAX_CANDIDATES = 4096
_TASK = "look at images"


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What is known of the candidates.

    Attributes:
        counts: (N, K) int64, pixels of each class in each image; ignored pixels are in none.
        brightness: (N,) float64, mean luma, 0..255.
    """

    counts: npt.NDArray[np.int64]
    brightness: npt.NDArray[np.float64]


def make_calib(
    data: Data,
    root: Path,
    count: int,
    name: str,
    *,
    seed: int = 0,
    max_candidates: int = MAX_CANDIDATES,
    progress: Progress | None = None,
    threads: int = 4,
) -> CalibSet:
    """Choose a calibration set from the training split. The same data, count and seed give the same set.

    Args:
        data: the recipe's `data` section.
        root: data root.
        count: images wanted, from MIN_IMAGES up.
        name: of the set.
        seed: breaks ties between equally good images.
        max_candidates: look at so many images at most, evenly spread over a larger split.
        threads: images read at once.
    Raises:
        DataError: missing or unreadable files, or fewer images than wanted.
    """
    dataset = open_dataset(data, "train", root)
    if count < MIN_IMAGES:
        raise DataError(
            f"a calibration set of {count} image(s)", hint=f"--n {MIN_IMAGES} or more; 64 is usual"
        )
    if count > len(dataset):
        raise DataError(
            f"{count} images wanted, the training split has {len(dataset)}",
            hint=f"--n {len(dataset)} or fewer",
        )
    total = max(count, min(max_candidates, len(dataset)))
    candidates = [int(index) for index in np.linspace(0, len(dataset) - 1, total)]
    looks = look(dataset, candidates, progress or NoProgress(), threads)
    order = choose(looks, count, seed)
    return CalibSet(
        name=name,
        format=data.format,
        split="train",
        chosen=Chosen(
            by="greedy",
            seed=seed,
            candidates=total,
            split_images=len(dataset),
            brightness=(round(float(looks.brightness.min()), 2), round(float(looks.brightness.max()), 2)),
        ),
        classes=_class_counts(dataset.labels.names, looks.counts, order),
        images=tuple(_image(dataset, candidates[i], root, float(looks.brightness[i])) for i in order),
    )


def look(dataset: SegDataset, indices: Sequence[int], progress: Progress, threads: int) -> Looks:
    """Read images and labels, and count. Raises DataError naming the first file that cannot be read."""
    num_classes = dataset.labels.num_classes

    def one(index: int) -> tuple[npt.NDArray[np.int64], float]:
        image, mask = dataset.load(index)
        return np.bincount(mask.ravel(), minlength=256)[:num_classes], mean_luma(image)

    rows = []
    progress.start(_TASK, len(indices))
    with ThreadPoolExecutor(threads) as pool:
        for row in pool.map(one, indices):
            rows.append(row)
            progress.advance(_TASK)
    progress.finish(_TASK)
    return Looks(np.stack([counts for counts, _ in rows]), np.array([brightness for _, brightness in rows]))


def choose(looks: Looks, count: int, seed: int = 0) -> list[int]:
    """Positions of `count` candidates, the most useful first; see the module. `count` is at most their
    number.
    """
    features = features_of(looks)
    tied = np.random.default_rng(seed).permutation(len(features))
    features = features[tied]  # argmax takes the first of equals
    held = np.zeros(features.shape[1])
    left = np.ones(len(features), bool)
    order: list[int] = []
    for _ in range(count):
        gains = (np.sqrt(held + features) - np.sqrt(held)).sum(axis=1)
        best = int(np.argmax(np.where(left, gains.round(12), -1.0)))
        left[best] = False
        held += features[best]
        order.append(int(tied[best]))
    return order


def bins_of(brightness: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.int64]:
    """Which of the equal parts of low..high each value lies in, 0..BRIGHTNESS_BINS - 1."""
    scaled = (brightness - low) / max(high - low, 1e-9) * BRIGHTNESS_BINS
    return np.clip(scaled.astype(np.int64), 0, BRIGHTNESS_BINS - 1)


def mean_luma(image_rgb: ImageU8) -> float:
    """Mean of 0.299 R + 0.587 G + 0.114 B, 0..255."""
    cv2: Any = opencv()
    return float(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).mean())


def features_of(looks: Looks) -> npt.NDArray[np.float64]:
    """(N, K + bins), each 0..1."""
    shares = looks.counts / np.maximum(looks.counts.sum(axis=1, keepdims=True), 1)
    shown = np.where(shares > 0, shares, np.nan)
    median = np.array([np.nanmedian(column) if np.isfinite(column).any() else 1.0 for column in shown.T])
    classes = np.minimum(shares / median, 1.0)
    place = bins_of(looks.brightness, looks.brightness.min(), looks.brightness.max())
    return np.concatenate([classes, np.eye(BRIGHTNESS_BINS)[place]], axis=1)


def _class_counts(
    names: Sequence[str], counts: npt.NDArray[np.int64], order: Sequence[int]
) -> tuple[ClassCount, ...]:
    own = counts[list(order)]
    total = max(1, int(own.sum()))
    return tuple(
        ClassCount(
            name=name,
            images=int((own[:, k] > 0).sum()),
            available=int((counts[:, k] > 0).sum()),
            pixel_share=round(int(own[:, k].sum()) / total, 6),
        )
        for k, name in enumerate(names)
    )


def _image(dataset: SegDataset, index: int, root: Path, brightness: float) -> CalibImage:
    brightness = round(brightness, 2)
    if not isinstance(dataset, FolderDataset):
        return CalibImage(path=dataset.name(index), sha256=None, brightness=brightness)
    path = dataset.samples[index].image
    return CalibImage(
        path=path.relative_to(root).as_posix(), sha256=image_sha256(path), brightness=brightness
    )
