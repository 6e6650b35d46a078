"""A small sound data set of two classes for tests to spoil, and what the check says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.data.check import CheckReport, check_dataset
from edgeseg.data.findings import Problem
from edgeseg.recipe.schema import Data
from trees import section, write_label

SIZE_HW = (48, 64)
CLASSES = {"names": ["ground", "thing"], "palette_rgb": [[0, 90, 0], [200, 0, 0]]}


def two_classes(**given: Any) -> Data:
    """A `folders` section: images/SPLIT and labels/SPLIT."""
    splits = {split: {"images": f"images/{split}", "labels": f"labels/{split}"} for split in ("train", "val")}
    return section("folders", **{"classes": CLASSES, **splits, **given})


def picture(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> npt.NDArray[np.uint8]:
    """Coarse coloured noise: no two seeds look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST)


def blob(
    thing: int = 1, ground: int = 0, size_hw: tuple[int, int] = SIZE_HW, dtype: Any = np.uint8
) -> npt.NDArray[Any]:
    """A label map: a rectangle of `thing` on `ground`."""
    mask = np.full(size_hw, ground, dtype)
    mask[size_hw[0] // 4 : -size_hw[0] // 4, size_hw[1] // 4 : -size_hw[1] // 4] = thing
    return mask


def write_set(
    root: Path, count: int = 3, mask: npt.NDArray[Any] | None = None, image_suffix: str = ".png"
) -> Path:
    """train0.. and val0.., each with `mask` as its label."""
    for number, split in enumerate(("train", "val")):
        for index in range(count):
            name = f"{split}{index}"
            path = root / f"images/{split}/{name}{image_suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture(100 * number + index))
            write_label(root / f"labels/{split}/{name}.png", blob() if mask is None else mask)
    return root


def checked(root: Path, data: Data | None = None) -> CheckReport:
    return check_dataset(data or two_classes(), root)


def only(problems: tuple[Problem, ...], kind: str, split: str = "train") -> Problem:
    """The one problem of a kind in a split."""
    (found,) = [problem for problem in problems if (problem.kind, problem.split) == (kind, split)]
    return found
