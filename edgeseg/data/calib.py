"""Calibration sets: which images, in which order, with their hashes, and how they were chosen. Never the images themselves.

A set is a YAML file. Its paths are relative to the data root, so that it travels; its hashes say whether the images below some
root are the ones that were meant. An image of the format `synthetic` has no file and no hash: it is made from its name alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from edgeseg.data.datasets import NAMED_AT_MOST, SyntheticDataset, find_samples
from edgeseg.data.formats import SplitName, format_of
from edgeseg.errors import DataError
from edgeseg.files import replace_file
from edgeseg.images import read_image
from edgeseg.recipe.explain import nearest
from edgeseg.recipe.load import dump_yaml
from edgeseg.recipe.schema import Data, DataFormat, Fraction, PositiveInt, Section
from edgeseg.recipe.strict_yaml import dotted, read_yaml
from edgeseg.specs import ImageU8
from edgeseg.synthetic import LABELS

MIN_IMAGES = 2
"""The ranges of one image are that image's."""
FEW_IMAGES = 16
"""Below so many, a set is usable and said to be small."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PACKAGE = Path(__file__).resolve().parent.parent
_MAX_BYTES = 1 << 24


class CalibImage(Section):
    """One image.

    `path` is below the data root, with forward slashes; `sha256` is of the file's bytes, null for a generated image; `brightness`
    is the mean luma (Rec. 601) of its pixels, 0..255.
    """

    path: str = Field(min_length=1)
    sha256: Sha256 | None
    brightness: float = Field(ge=0, le=255)

    @field_validator("path")
    @classmethod
    def _is_below_the_root(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"must be a path below the data root, not {path}")
        return path


class ClassCount(Section):
    """One class: how many images of the set show it, out of how many candidates did; its share of the set's labelled pixels."""

    name: str
    images: int = Field(ge=0)
    available: int = Field(ge=0)
    pixel_share: Fraction


class Chosen(Section):
    """How the images were chosen; see `calib_choice`.

    `candidates` images were looked at, of `split_images` in the split; `brightness` is the darkest and the brightest of them.
    """

    by: Literal["greedy"]
    seed: int = Field(ge=0)
    candidates: PositiveInt
    split_images: PositiveInt
    brightness: tuple[float, float]


class CalibSet(Section):
    """The whole file. `images` are in the order in which they were chosen: the first few are a good smaller set."""

    name: str = Field(min_length=1)
    format: DataFormat
    split: SplitName
    chosen: Chosen
    classes: tuple[ClassCount, ...] = Field(min_length=1)
    images: tuple[CalibImage, ...]

    @model_validator(mode="after")
    def _fits(self) -> CalibSet:
        paths = [image.path for image in self.images]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice[:NAMED_AT_MOST])}")
        wrong = [image.path for image in self.images if (image.sha256 is None) != (self.format == "synthetic")]
        if wrong:
            raise ValueError(f"images of files have a sha256, generated ones (format synthetic) null: {', '.join(wrong[:3])}")
        return self

    @property
    def sha256(self) -> str:
        """Of what calibration depends on: format, paths and hashes, in order. Hex."""
        content = [self.format, *((image.path, image.sha256) for image in self.images)]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    @property
    def never_seen(self) -> tuple[str, ...]:
        """Classes that no image shows."""
        return tuple(row.name for row in self.classes if not row.images)

    def warnings(self) -> list[str]:
        """What is doubtful about the set itself."""
        told = []
        if self.never_seen:
            told.append(
                f"calibration set {self.name}: no image shows {', '.join(self.never_seen)}; "
                "ranges that only these classes reach will be cut"
            )
        if len(self.images) < FEW_IMAGES:
            told.append(f"calibration set {self.name}: only {len(self.images)} images; ranges may be too narrow")
        return told


class CalibImages:
    """A set's images below a data root, every hash checked. Iterate it as often as you like; images are read one at a time.

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


def calib_catalogue() -> dict[str, Path]:
    """Name -> file of the sets that ship with edgeseg, by name."""
    shipped = _PACKAGE / "_calib"  # where the wheel puts the checkout's calib/
    folder = shipped if shipped.is_dir() else _PACKAGE.parent / "calib"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_calib(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a set: the name of one that ships, else a path from the current folder. Raises DataError."""
    known = calib_catalogue()
    text = os.fspath(name_or_path)
    if text in known:
        return known[text]
    path = Path(text)
    if path.is_file():
        return path
    near = nearest(path.stem, known)
    make = "edgeseg calib make RECIPE --data-root DIR makes one"
    raise DataError(
        f"there is no calibration set {text}: neither one that ships ({', '.join(known) or 'none'}) nor a file",
        hint=f"did you mean {near}? {make}" if near else make,
    )


def load_calib(name_or_path: str | os.PathLike[str]) -> CalibSet:
    """Read a set; no image is looked at yet.

    Raises:
        DataError: no such file, or it is no calibration set; the message names every mistake with its line.
    """
    file = find_calib(name_or_path)
    hint = "make the set anew: edgeseg calib make RECIPE --data-root DIR"
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file} is larger than {_MAX_BYTES} bytes: no calibration set", hint=hint)
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}", hint="check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text", hint=hint) from error
    reading = read_yaml(text, str(file), by_section=False)
    told = [str(mistake) for mistake in reading.mistakes]
    found: CalibSet | None = None
    if not told:
        try:
            found = CalibSet.model_validate_json(json.dumps(reading.data), strict=True)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                path = tuple(details["loc"])
                line = next((reading.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in reading.lines), 1)
                message = details["msg"].removeprefix("Value error, ")
                told.append(f"{file}:{line}: {f'{dotted(path)}: ' if path else ''}{message}")
    if told or found is None:
        raise DataError("\n".join([f"{file} is no calibration set:", *told[:NAMED_AT_MOST]]), hint=hint)
    return found


def open_calib(calib_set: CalibSet, data: Data, root: Path) -> CalibImages:
    """The images of a set for a recipe's data, after checking that they are the ones that were meant.

    Args:
        data: the recipe's `data` section.
        root: data root; not looked at for `synthetic`.
    Raises:
        DataError: too few images; a set of another data format or of other classes; an image that is missing or was changed.
    """
    if calib_set.format != data.format:
        raise DataError(
            f"the calibration set {calib_set.name} is of {calib_set.format} data, the recipe's are {data.format}",
            hint="name a set of the recipe's data in quant.calibration.images, or make one: edgeseg calib make",
        )
    verify(calib_set, root)
    names = LABELS.names if data.format == "synthetic" else format_of(data, root).labels.names
    own = tuple(row.name for row in calib_set.classes)
    if own != names:
        raise DataError(
            f"the calibration set {calib_set.name} was chosen for the classes {', '.join(own)}; "
            f"the recipe's are {', '.join(names)}",
            hint="make a set for this recipe: edgeseg calib make RECIPE --data-root DIR",
        )
    return CalibImages(calib_set, root, [*calib_set.warnings(), *_outside_training(calib_set, data, root)])


def verify(calib_set: CalibSet, root: Path) -> None:
    """Read every image's bytes below a data root and compare its hash. Raises DataError naming those that are not the same."""
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
        raise DataError(f"data root {root}: no such folder", hint=f"give the folder of the {calib_set.format} data")
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
            f"calibration set {calib_set.name}: none of its {total} images lies below {root} ({len(missing)} missing, "
            f"{len(changed)} different; the first is {calib_set.images[0].path}): another data set, or another copy of it",
            hint="correct --data-root, or make a set from these images: edgeseg calib make RECIPE --data-root DIR",
        )
    told = [f"{len(paths)} {what}: {_first(paths)}" for paths, what in ((missing, "missing"), (changed, "changed")) if paths]
    raise DataError(
        f"calibration set {calib_set.name}, {total} images below {root}: {'; '.join(told)}",
        hint="put the images back as they were, or make the set anew: edgeseg calib make RECIPE --data-root DIR",
    )


def write_calib(calib_set: CalibSet, path: Path, comment: str) -> None:
    """Write a set, one image a line; `comment` heads the file. Raises DataError."""
    head = calib_set.model_dump(mode="json", exclude={"images", "classes"})
    lines = [*(f"# {line}".rstrip() for line in comment.splitlines()), dump_yaml(head).rstrip("\n")]
    for name, rows in (("classes", calib_set.classes), ("images", calib_set.images)):
        lines += [f"{name}:", *(f"  - {dump_yaml(row.model_dump(mode='json'), one_line=True)}" for row in rows)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, ("\n".join(lines) + "\n").encode())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: {error}", hint="give -o a file in a folder that can be written") from error


def file_sha256(path: Path) -> str:
    """Of a file's bytes, hex. Raises DataError where it cannot be read."""
    digest = _file_digest(path)
    if digest is None:
        raise DataError(f"{path}: cannot be read", hint="edgeseg data check RECIPE --data-root DIR")
    return digest


def _file_digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _verify_names(calib_set: CalibSet) -> None:
    dataset = SyntheticDataset(calib_set.split)
    known = {dataset.name(index) for index in range(len(dataset))}
    unknown = [image.path for image in calib_set.images if image.path not in known]
    if unknown:
        raise DataError(
            f"calibration set {calib_set.name}: no generated images have these names: {_first(unknown)}",
            hint=f"the {calib_set.split} split has {dataset.name(0)} to {dataset.name(len(dataset) - 1)}; make the set anew",
        )


def _outside_training(calib_set: CalibSet, data: Data, root: Path) -> list[str]:
    """A warning where images are not of the recipe's training split: what is measured on them later is flattered."""
    if data.format == "synthetic":
        outside = [image.path for image in calib_set.images if calib_set.split != "train"]
    else:
        train = {sample.image.relative_to(root).as_posix() for sample in find_samples(data, "train", root).samples}
        outside = [image.path for image in calib_set.images if image.path not in train]
    if not outside:
        return []
    return [f"calibration set {calib_set.name}: {len(outside)} images are not of the recipe's training split: {_first(outside)}"]


def _first(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:NAMED_AT_MOST])
    return shown if len(paths) <= NAMED_AT_MOST else f"{shown} and {len(paths) - NAMED_AT_MOST} more"
