"""The images of a calibration set below a data root: checked to be the ones that were meant, then read one at
a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeseg.data.calib import MIN_IMAGES, CalibSet
from edgeseg.data.datasets import SyntheticDataset
from edgeseg.data.formats import format_of
from edgeseg.data.label_values import NAMED_AT_MOST
from edgeseg.data.pairs import find_samples
from edgeseg.errors import DataError
from edgeseg.files import file_sha256
from edgeseg.images import read_image
from edgeseg.recipe.labels import require_same
from edgeseg.recipe.schema import Data
from edgeseg.specs import ImageU8


class CalibImages:
    """A set's images below a data root, every hash checked. Iterate it as often as you like; images are read
    one at a time.

    Attributes:
        calib_set: what they are.
        warnings: what the user should be told.
    """

    def __init__(self, calib_set: CalibSet, root: Path, warnings: Sequence[str] = ()) -> None:
        self.calib_set = calib_set
        self.warnings = tuple(warnings)
        self._root = root

    def __len__(self) -> int:
        return len(self.calib_set.images)

    def __iter__(self) -> Iterator[ImageU8]:
        """(H, W, 3) uint8 RGB, in the set's order."""
        return (self.load(index) for index in range(len(self)))

    def load(self, index: int) -> ImageU8:
        path = self.calib_set.images[index].path
        if self.calib_set.format == "synthetic":
            return SyntheticDataset(self.calib_set.split).load(int(path.rpartition("/")[2]))[0]
        return read_image(self._root / path)


def open_calib(calib_set: CalibSet, data: Data, root: Path) -> CalibImages:
    """The images of a set for a recipe's data, after checking that they are the ones that were meant.

    Args:
        data: the recipe's `data` section.
        root: data root; not looked at for `synthetic`.
    Raises:
        DataError: too few images; a set of another data format or of other classes; an image that is missing
            or was changed.
    """
    if calib_set.format != data.format:
        raise DataError(
            f"the calibration set {calib_set.name} is of {calib_set.format} data, the recipe's are"
            f" {data.format}",
            hint=(
                "name a set of the recipe's data in quant.calibration.images, or make one: edgeseg calib make"
            ),
        )
    verify(calib_set, root)
    names = format_of(data, root).labels.names
    own = tuple(row.name for row in calib_set.classes)
    mend = "make a set for this recipe: edgeseg calib make RECIPE --data-root DIR"
    require_same(names, own, "the recipe", f"the calibration set {calib_set.name}", hint=mend)
    return CalibImages(calib_set, root, [*calib_set.warnings(), *_outside_training(calib_set, data, root)])


def verify(calib_set: CalibSet, root: Path) -> None:
    """Read every image's bytes below a data root and compare its hash. Raises DataError naming those that are
    not the same.
    """
    total = len(calib_set.images)
    if total < MIN_IMAGES:
        count = "holds no images" if not total else "holds 1 image: its ranges would be that image's"
        raise DataError(
            f"the calibration set {calib_set.name} {count}",
            hint="make one of some dozens: edgeseg calib make RECIPE --data-root DIR --n 64",
        )
    if calib_set.format == "synthetic":
        _verify_names(calib_set)
        return
    if not root.is_dir():
        raise DataError(
            f"data root {root}: no such folder", hint=f"give the folder of the {calib_set.format} data"
        )
    missing, changed = [], []
    for image in calib_set.images:
        digest = _file_digest(root / image.path)
        if digest is None:
            missing.append(image.path)
        elif digest != image.sha256:
            changed.append(image.path)
    if not missing and not changed:
        return
    if len(missing) + len(changed) == total:
        raise DataError(
            f"calibration set {calib_set.name}: none of its {total} images lies below {root} ({len(missing)}"
            f" missing, {len(changed)} different; the first is {calib_set.images[0].path}): another data set,"
            " or another copy of it",
            hint=(
                "correct --data-root, or make a set from these images: edgeseg calib make RECIPE"
                " --data-root DIR"
            ),
        )
    told = [
        f"{len(paths)} {what}: {_first(paths)}"
        for paths, what in ((missing, "missing"), (changed, "changed"))
        if paths
    ]
    raise DataError(
        f"calibration set {calib_set.name}, {total} images below {root}: {'; '.join(told)}",
        hint=(
            "put the images back as they were, or make the set anew: edgeseg calib make RECIPE"
            " --data-root DIR"
        ),
    )


def image_sha256(path: Path) -> str:
    """Return the sha256 of an image's bytes, hex. Raises DataError where it cannot be read."""
    digest = _file_digest(path)
    if digest is None:
        raise DataError(f"{path}: cannot be read", hint="edgeseg data check RECIPE --data-root DIR")
    return digest


def _file_digest(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:
        return None


def _verify_names(calib_set: CalibSet) -> None:
    dataset = SyntheticDataset(calib_set.split)
    known = {dataset.name(index) for index in range(len(dataset))}
    unknown = [image.path for image in calib_set.images if image.path not in known]
    if unknown:
        raise DataError(
            f"calibration set {calib_set.name}: no generated images have these names: {_first(unknown)}",
            hint=(
                f"the {calib_set.split} split has {dataset.name(0)} to {dataset.name(len(dataset) - 1)}; make"
                " the set anew"
            ),
        )


def _outside_training(calib_set: CalibSet, data: Data, root: Path) -> list[str]:
    """A warning where images are not of the recipe's training split: what is measured on them later is
    flattered.
    """
    if data.format == "synthetic":
        outside = [image.path for image in calib_set.images if calib_set.split != "train"]
    else:
        train = {
            sample.image.relative_to(root).as_posix() for sample in find_samples(data, "train", root).samples
        }
        outside = [image.path for image in calib_set.images if image.path not in train]
    if not outside:
        return []
    return [
        f"calibration set {calib_set.name}: {len(outside)} images are not of the recipe's training split:"
        f" {_first(outside)}"
    ]


def _first(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:NAMED_AT_MOST])
    return shown if len(paths) <= NAMED_AT_MOST else f"{shown} and {len(paths) - NAMED_AT_MOST} more"
