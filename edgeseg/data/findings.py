"""What hurts in a whole data set: rules over what was read of every sample, each with the line that mends
it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg.data.datasets import MUCH_IGNORED, known_values, one_class
from edgeseg.data.formats import Format, SplitName
from edgeseg.data.label_values import exclude_line, explain_values, first, index_map_line
from edgeseg.data.pairs import Found
from edgeseg.errors import DataError, require
from edgeseg.specs import LabelSpace

ProblemKind = Literal[
    "folder",
    "empty",
    "pair",
    "image",
    "label",
    "values",
    "size",
    "duplicate",
    "classes",
    "ignored",
    "name",
    "link",
    "orientation",
]
HUGE_PIXELS = 40_000_000
_TINY_SHARE = 1e-4
_PALETTES = 8
"""Label files whose palettes are looked at."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend.

    Attributes:
        kind: "folder" or list missing, "empty" split, "pair" incomplete, "image" or "label" unreadable or not
            what it should be, label "values" without a class, "size" of image and label different,
            "duplicate" image, "classes" that are never seen or alone, "ignored" pixels, a "name" that two
            files claim or spell differently, a "link" that leads back, "orientation" that the camera noted.
        split: where.
        sample: its name; empty for a problem of the whole split.
        message: what happened, naming the file.
        mend: the command or the recipe line that mends it; empty where there is none.
    """

    kind: ProblemKind
    split: SplitName
    sample: str
    message: str
    mend: str = ""


@dataclass(slots=True)
class Seen:
    """One sample, read.

    Attributes:
        digest: of the image file's bytes; empty where it cannot be read.
        size_hw: of the image, upright.
        counts: (256,) pixels by class and of the ignore index; None where the label cannot be read.
        values: label value as stored -> pixels; empty for coloured labels.
        look: 64 bits that similar pictures share most of; None for a flat picture.
        orientation: EXIF, 1 to 8.
        channels: "colour", "grey" or "CMYK".
    """

    digest: bytes = b""
    size_hw: tuple[int, int] | None = None
    counts: npt.NDArray[np.int64] | None = None
    values: dict[int, int] = field(default_factory=dict)
    look: int | None = None
    orientation: int = 1
    channels: str = "colour"
    problems: list[tuple[ProblemKind, str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """One split, read. `found` and `format` are None for generated data."""

    split: SplitName
    labels: LabelSpace
    names: tuple[str, ...]
    seen: tuple[Seen, ...]
    found: Found | None
    format: Format | None
    label_folder: Path

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """(256,) pixels of each class and of the ignore index, over the split."""
        counted = [sample.counts for sample in self.seen if sample.counts is not None]
        return np.sum(counted, axis=0) if counted else np.zeros(256, np.int64)

    @property
    def values(self) -> Counter[int]:
        """Label values as stored -> pixels, over the split; empty for coloured labels."""
        values: Counter[int] = Counter()
        for sample in self.seen:
            values.update(sample.values)
        return values


def of_samples(looked: Looked) -> Iterator[Problem]:
    """What is wrong with single files. What mends values is judged by all files: one alone may lack half of
    the classes.
    """
    values = looked.values
    for name, sample in samples_of(looked):
        for kind, message, mend in sample.problems:
            if kind == "values" and values and looked.format is not None:
                mend = explain_values(
                    values, looked.labels, known_values(looked.format), looked.label_folder
                )[1]
            yield Problem(kind, looked.split, name, message, mend)


def errors_of(looked: Looked) -> Iterator[Problem]:
    """What makes a split useless as it is."""
    pixels = looked.pixels
    if looked.labels.num_classes < 2:
        only = looked.labels.names[0]
        yield Problem(
            "classes", looked.split, "", f"one class, {only}: every pixel is of it, whatever a model says",
            f"name the rest as a class too: data.classes.names: [background, {only}], and a colour for it",
        )  # fmt: skip
    elif (
        looked.format is not None
        and pixels.any()
        and 2 * sum(s.counts is not None for s in looked.seen) >= len(looked.seen)
    ):
        try:
            one_class(pixels, looked.values, looked.format, looked.split, looked.label_folder)
        except DataError as error:
            yield Problem("classes", looked.split, "", str(error), error.hint)
    contrary = _contrary_palettes(looked)
    if contrary:
        yield Problem(
            "values", looked.split, "",
            f"{contrary}: its values and its colours mean different classes of the recipe",
            "where the colours are right: data.encoding: palette   in the recipe; "
            "else correct data.classes.palette_rgb",
        )  # fmt: skip
    for name, kept, other in looked.found.twins if looked.found else ():
        yield Problem(
            "name", looked.split, name, f"{other}: sample {name} has a file already, {kept}",
            f"keep one of the two: rm {shlex.quote(str(other))}",
        )  # fmt: skip


def _contrary_palettes(looked: Looked) -> str:
    """A label file whose palette has the recipe's colours in another order; empty where there is none among a
    few.
    """
    if looked.found is None or looked.format is None or looked.format.by_colour:
        return ""
    pillow = require("PIL.Image", extra="video", purpose="read label files")
    index_of = {colour: index for index, colour in enumerate(looked.labels.palette_rgb)}
    samples = looked.found.samples
    for place in np.unique(np.linspace(0, len(samples) - 1, _PALETTES).round().astype(int)).tolist():
        try:
            with pillow.open(samples[place].label) as file:
                palette = (file.getpalette() or []) if file.mode == "P" else []
        except (OSError, SyntaxError, ValueError):
            continue
        meant = [
            (looked.format.table[value], index_of.get(tuple(palette[3 * value : 3 * value + 3])))
            for value in looked.seen[place].values
            if value < len(looked.format.table)
        ]
        named = [(index, by_colour) for index, by_colour in meant if by_colour is not None]
        if len(named) > 1 and all(index != by_colour for index, by_colour in named):
            return str(samples[place].label)
    return ""


def warnings_of(looked: Looked) -> Iterator[Problem]:
    """What a user should know of a split, and may want so."""
    split, labels, pixels = looked.split, looked.labels, looked.pixels
    labelled = int(pixels[: labels.num_classes].sum())
    ignored = 1.0 - labelled / max(1, int(pixels.sum()))
    if labelled and ignored > MUCH_IGNORED:
        yield Problem(
            "ignored",
            split,
            "",
            f"{100 * ignored:.1f} % of the pixels are ignored, and nothing is learned from them",
            "where they mean a class, map their value: " + index_map_line({labels.ignore_index: 0}),
        )
    if split == "train" and labelled:
        never = [labels.names[index] for index in range(labels.num_classes) if not pixels[index]]
        if never and len(never) < labels.num_classes - 1:
            yield Problem(
                "classes",
                split,
                "",
                f"never seen, and so never learned: {first(never)}",
                "give images that show them, or take them out of data.classes",
            )
        tiny = [
            f"{labels.names[index]} ({100 * pixels[index] / labelled:.4f} %)"
            for index in range(labels.num_classes)
            if 0 < pixels[index] < _TINY_SHARE * labelled
        ]
        if tiny:
            yield Problem(
                "classes",
                split,
                "",
                f"hardly seen: {first(tiny)} of the labelled pixels",
                "give more images that show them, or weigh them: train.class_weights",
            )
    empty = [
        name
        for name, s in samples_of(looked)
        if s.counts is not None and not s.counts[: labels.num_classes].any()
    ]
    if empty and labelled:
        yield Problem(
            "ignored",
            split,
            "",
            f"{len(empty)} labels are ignored as a whole: {first(empty)}",
            exclude(looked, empty),
        )
    yield from _of_images(looked)
    if looked.found is not None:
        for link in looked.found.loops:
            yield Problem(
                "link",
                split,
                "",
                f"{link}: a link to a folder that it lies in; not followed",
                f"rm {shlex.quote(str(link))}",
            )
    yield from _spellings(looked)


def _spellings(looked: Looked) -> Iterator[Problem]:
    found, folder = looked.found, looked.label_folder
    if found is None:
        return
    if found.respelled:
        yield Problem(
            "name", looked.split, "",
            f"{len(found.respelled)} names are spelled in another Unicode form than their labels' "
            "(a Mac's NFD, others' NFC): "
            f"{first(found.respelled)}; paired all the same",
            "other tools will not pair them: "
            f"convmv -f utf8 -t utf8 --nfc -r --notest {shlex.quote(str(folder.parent))}",
        )  # fmt: skip
    if found.recased:
        yield Problem(
            "name", looked.split, "",
            f"{len(found.recased)} names differ from their labels' in upper and lower case: "
            f"{first(found.recased)}; paired all "
            "the same",
            "other tools will not pair them: name both alike",
        )  # fmt: skip


def _of_images(looked: Looked) -> Iterator[Problem]:
    split = looked.split
    turned = [name for name, sample in samples_of(looked) if sample.orientation != 1]
    if turned:
        yield Problem(
            "orientation",
            split,
            "",
            f"{len(turned)} images carry an EXIF orientation and are turned upright: {first(turned)}",
            "look whether their labels are turned too (--sheet sheet.png); where they are not, take the tag"
            " away: exiftool -overwrite_original -Orientation= FILES",
        )
    huge = [name for name, s in samples_of(looked) if s.size_hw and s.size_hw[0] * s.size_hw[1] > HUGE_PIXELS]
    if huge:
        yield Problem(
            "size", split, "",
            f"{len(huge)} images have more than {HUGE_PIXELS // 10**6} megapixels: {first(huge)}",
            "cut them into tiles: each is read whole for every crop",
        )  # fmt: skip
    read = [(name, sample.channels) for name, sample in samples_of(looked) if sample.size_hw]
    for channels, means in (("CMYK", "whose colours depend on a profile"), ("grey", "among coloured ones")):
        some = [name for name, kind in read if kind == channels]
        if some and (channels == "CMYK" or len(some) < len(read)):
            mend = "convert them: mogrify -colorspace sRGB FILES" if channels == "CMYK" else ""
            yield Problem(
                "image", split, "", f"{len(some)} images are {channels}, {means}: {first(some)}", mend
            )
    same: dict[bytes, list[str]] = {}
    for name, sample in samples_of(looked):
        if sample.digest:
            same.setdefault(sample.digest, []).append(name)
    for names in same.values():
        if len(names) > 1:
            yield Problem(
                "duplicate", split, names[1], f"{names[0]} is there {len(names)} times: {first(names[1:])}",
                exclude(looked, names[1:]),
            )  # fmt: skip


def samples_of(looked: Looked) -> Iterator[tuple[str, Seen]]:
    return zip(looked.names, looked.seen, strict=True)


def short(name: str, looked: Looked) -> str:
    """A sample's name as `include` and `exclude` know it."""
    return name.removeprefix(f"{looked.found.folders.images}/") if looked.found else name


def exclude(looked: Looked, names: Sequence[str]) -> str:
    return exclude_line(looked.split, [short(name, looked) for name in names])
