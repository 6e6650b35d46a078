"""Calibration sets: which images, in which order, with their hashes, and how they were chosen. Never the
images themselves.

A set is a YAML file. Its paths are relative to the data root, so that it travels; its hashes say whether the
images below some root are the ones that were meant. An image of the format `synthetic` has no file and no
hash: it is made from its name alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from edgeseg.data.formats import SplitName
from edgeseg.data.label_values import NAMED_AT_MOST
from edgeseg.errors import DataError
from edgeseg.files import Target, json_digest
from edgeseg.recipe.explain import nearest
from edgeseg.recipe.load import dump_yaml
from edgeseg.recipe.schema import DATA_FORMATS, Fraction, PositiveInt, Section
from edgeseg.recipe.strict_yaml import dotted, read_yaml

MIN_IMAGES = 2
"""The ranges of one image are that image's."""
FEW_IMAGES = 16
"""Below so many, a set is usable and said to be small."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PACKAGE = Path(__file__).resolve().parent.parent
_MAX_BYTES = 1 << 24


class CalibImage(Section):
    """One image.

    `path` is below the data root, with forward slashes; `sha256` is of the file's bytes, null for a generated
    image; `brightness` is the mean luma (Rec. 601) of its pixels, 0..255.
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
    """One class: how many images of the set show it, out of how many candidates did; its share of the set's
    labelled pixels.
    """

    name: str
    images: int = Field(ge=0)
    available: int = Field(ge=0)
    pixel_share: Fraction


class Chosen(Section):
    """How the images were chosen; see `calib_choice`.

    `candidates` images were looked at, of `split_images` in the split; `brightness` is the darkest and the
    brightest of them.
    """

    by: Literal["greedy"]
    seed: int = Field(ge=0)
    candidates: PositiveInt
    split_images: PositiveInt
    brightness: tuple[float, float]


def _known(form: str) -> str:
    if form not in DATA_FORMATS:
        near = nearest(form, DATA_FORMATS.names())
        raise ValueError(f"there is no data format {form!r}" + (f"; did you mean {near}?" if near else ""))
    return form


class CalibSet(Section):
    """The whole file. `images` are in the order in which they were chosen: the first few are a good smaller
    set.
    """

    name: str = Field(min_length=1)
    format: Annotated[str, AfterValidator(_known)]
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
        wrong = [
            image.path for image in self.images if (image.sha256 is None) != (self.format == "synthetic")
        ]
        if wrong:
            raise ValueError(
                "images of files have a sha256, generated ones (format synthetic) null:"
                f" {', '.join(wrong[:3])}"
            )
        return self

    @property
    def sha256(self) -> str:
        """Of what calibration depends on: format, paths and hashes, in order. Hex."""
        content = [self.format, *((image.path, image.sha256) for image in self.images)]
        return json_digest(content, separators=(",", ":"))

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
            told.append(
                f"calibration set {self.name}: only {len(self.images)} images; ranges may be too narrow"
            )
        return told


def calib_catalogue() -> dict[str, Path]:
    """Name -> file of the sets that ship with edgeseg, by name."""
    shipped = _PACKAGE / "_calib"  # where the wheel puts the checkout's calib/
    folder = shipped if shipped.is_dir() else _PACKAGE.parent / "calib"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_calib(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a set: the name of one that ships, else a path from the current folder. Raises
    DataError.
    """
    known = calib_catalogue()
    text = os.fspath(name_or_path)
    if text in known:
        return known[text]
    path = Path(text)
    if os.path.isfile(path):  # False, too, for a name that no file can have
        return path
    near = nearest(path.stem, known)
    make = "edgeseg calib make RECIPE --data-root DIR makes one"
    raise DataError(
        f"there is no calibration set {text}: neither one that ships ({', '.join(known) or 'none'}) nor a"
        " file",
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
        raise DataError(
            f"{file}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
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
                line = next(
                    (reading.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in reading.lines), 1
                )
                message = details["msg"].removeprefix("Value error, ")
                told.append(f"{file}:{line}: {f'{dotted(path)}: ' if path else ''}{message}")
    if told or found is None:
        raise DataError("\n".join([f"{file} is no calibration set:", *told[:NAMED_AT_MOST]]), hint=hint)
    return found


def write_calib(calib_set: CalibSet, place: Path | Target, comment: str) -> None:
    """Write a set, one image a line; `comment` heads the file. Raises DataError where it cannot be
    written.
    """
    head = calib_set.model_dump(mode="json", exclude={"images", "classes"})
    lines = [*(f"# {line}".rstrip() for line in comment.splitlines()), dump_yaml(head).rstrip("\n")]
    for name, rows in (("classes", calib_set.classes), ("images", calib_set.images)):
        lines += [
            f"{name}:",
            *(f"  - {dump_yaml(row.model_dump(mode='json'), one_line=True)}" for row in rows),
        ]
    Target.of(place, DataError).write(("\n".join(lines) + "\n").encode())
