"""What label values and colours without a class mean, and the line that mends them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.specs import LabelSpace
from edgeseg.text import quoted

NAMED_AT_MOST = 10
"""Files, values or colours that a message names before it only counts."""
RECIPE_AND_ROOT = "RECIPE --data-root DIR"
"""What a command to paste has where the recipe and the data root are not known."""
NEAR = 48
"""Colours this near to one of the palette, by their largest channel, are that colour after JPEG or smooth
resizing.
"""


def first(items: Sequence[object], count: int = NAMED_AT_MOST) -> str:
    """The first few of many things, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:count])
    return shown if len(items) <= count else f"{shown} and {len(items) - count} more"


def index_map_line(index_map: Mapping[int, int]) -> str:
    """A recipe line, and the option that does the same, to paste."""
    text = "{" + ", ".join(f"{raw}: {index}" for raw, index in sorted(index_map.items())) + "}"
    return (
        f"data.index_map: {text}   in the recipe (format folders), or --set"
        f" {shlex.quote(f'data.index_map={text}')}"
    )


def exclude_line(split: str, names: Sequence[str]) -> str:
    """A recipe line that leaves samples out; of many the first few."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return (
        f"data.{split}.exclude: {json.dumps(list(names[:NAMED_AT_MOST]), ensure_ascii=False)}{more}   in the"
        " recipe"
    )


def masks_command(
    source: Path, split: str = "train", values: Iterable[int] = (), out: Path | None = None
) -> str:
    """The command that makes masks of what lies in a folder, to paste; RECIPE and DIR are put in where they
    are known.

    Args:
        values: what grey pictures meant by their values, in class order; empty: go by the colours of the
            recipe.
        out: where the masks go; by default a folder beside.
    """
    words = [f"edgeseg data masks {RECIPE_AND_ROOT} --split {split} --from {quoted(source)}"]
    words.append(f"--out {quoted(out or source.with_name(f'{source.stem}_masks'))}")
    listed = ",".join(map(str, values))
    return " ".join([*words, *([f"--values {listed}"] if listed else [])])


def explain_values(
    counts: Mapping[int, int], labels: LabelSpace, known: Iterable[int], folder: Path, suffix: str = ".png"
) -> tuple[str, str]:
    """What the values of label files mean where some have no class, or where one class alone has pixels.

    Args:
        counts: value as stored -> pixels, of one file or of many.
        known: values that have a meaning already, ignored ones included.
        folder: where the files lie, for the command.
    Returns:
        What they look like (may be empty), and the line that mends it.
    """
    seen, ignored, classes = sorted(counts), labels.ignore_index, labels.num_classes
    unknown = [value for value in seen if value not in set(known)]
    total = sum(counts.values())
    if len(seen) > max(classes + 2, 8) and len(unknown) > classes:
        frequent = sorted(sorted(counts, key=lambda value: -counts[value])[:classes])
        if sum(counts[value] for value in frequent) > 0.5 * total:
            return (
                (
                    f"{len(seen)} different values, mostly {first(frequent)}: edges blended by JPEG or smooth"
                    " resizing"
                ),
                (
                    "make the labels anew as PNG, resized with nearest neighbour; or round them to the"
                    f" nearest value, into class indices: {masks_command(folder, values=frequent)}"
                ),
            )
        return (
            f"{len(seen)} different values: a picture, or blended edges, and not class indices",
            "name the folder of the label files in the recipe (data.train.labels, data.val.labels)",
        )
    mappable = bool(seen) and seen[-1] <= 65535  # what data.index_map takes
    if mappable and len(seen) == classes and seen != list(range(classes)):
        shift = seen == list(range(1, classes + 1))
        return (
            "they begin at 1, not at 0" if shift else "as many values as classes",
            index_map_line(
                {value: index for index, value in enumerate(seen) if value != index or value == ignored}
            ),
        )
    if unknown and all(1000 <= value < 256_000 for value in unknown):
        return (
            "class * 1000 + number: instance ids",
            "take the data set's class maps in place of its instance maps",
        )
    if unknown and seen[0] == 0 and set(seen) <= {*range(classes + 1), ignored} and unknown == [classes]:
        zero_ignored = {0: ignored, **{value: value - 1 for value in range(1, classes + 1)}}
        return (
            f"0 to {classes} are {classes + 1} values for {classes} classes",
            (
                f"where 0 means unlabelled: {index_map_line(zero_ignored)}; where it is a class, name it in"
                " data.classes"
            ),
        )
    if unknown and min(unknown) > 0 and set(seen) - {ignored} <= set(range(1, classes + 1)):
        return "they begin at 1, not at 0", index_map_line(
            {value: value - 1 for value in range(1, classes + 1)}
        )
    if not unknown and ignored in seen and classes == 2:
        other = next((value for value in seen if value != ignored), 0)
        return f"{other} and {ignored} for two classes", index_map_line(
            {ignored: 1 - other if other < 2 else 1}
        )
    if unknown and mappable:
        return (
            "",
            (
                "name their classes in data.classes, or ignore them:"
                f" {index_map_line(dict.fromkeys(unknown[:20], ignored))}"
            ),
        )
    return "", "correct the labels, or map their values with data.index_map (format folders)"


def explain_colours(counts: Mapping[int, int], labels: LabelSpace, folder: Path) -> tuple[str, str]:
    """What colours without a class mean.

    Args:
        counts: colour, packed with red highest -> pixels, of those that the palette lacks.
    Returns:
        The colours with their counts and the nearest of the palette, and the line that mends it.
    """
    palette = np.asarray(labels.palette_rgb, np.int64)
    colours = sorted(counts, key=lambda colour: -counts[colour])
    rgb = np.array([unpack(colour) for colour in colours], np.int64)
    distance = np.abs(rgb[:, None] - palette[None]).max(axis=2)
    nearest = distance.argmin(axis=1)
    shown = [
        f"{unpack(colour)} ({counts[colour]} px) nearest to {labels.names[near]}"
        f" {tuple(palette[near].tolist())}"
        for colour, near in zip(colours, nearest.tolist(), strict=True)
    ]
    told = first(shown)
    known = {tuple(colour) for colour in palette.tolist()}
    if known and all(tuple(colour[::-1]) in known for colour in rgb.tolist()):
        swapped = [list(colour[::-1]) for colour in palette.tolist()]
        return f"{told}: red and blue are swapped", f"data.classes.palette_rgb: {swapped}   in the recipe"
    if len(colours) > labels.num_classes and bool((distance.min(axis=1) <= NEAR).mean() > 0.5):
        return (
            f"{told}: edges blended by JPEG or smooth resizing",
            (
                "make the labels anew as PNG, resized with nearest neighbour; or round them to the nearest"
                f" colour, as class indices (then encoding: index): {masks_command(folder)}"
            ),
        )
    return told, "add the classes with these colours to data.classes, or correct data.classes.palette_rgb"


def explain_coloured(counts: Mapping[int, int], labels: LabelSpace) -> tuple[str, str]:
    """What to do with coloured label files where class indices are expected; `counts` as for
    `explain_colours`.
    """
    colours = sorted(counts, key=lambda colour: -counts[colour])
    shown = first([f"{unpack(colour)} ({counts[colour]} px)" for colour in colours])
    own = {tuple(colour) for colour in labels.palette_rgb} | {(0, 0, 0)}
    if all(unpack(colour) in own for colour in colours):
        return (
            f"the palette's colours, {shown}",
            "data.encoding: palette   in the recipe, or --set data.encoding=palette",
        )
    if len(colours) <= max(32, labels.num_classes + 1):
        listed = [list(unpack(colour)) for colour in sorted(colours)]
        return (
            shown,
            (
                "data.encoding: palette   in the recipe, and data.classes.palette_rgb with these colours:"
                f" {listed}"
            ),
        )
    return (
        (
            f"{len(colours)} colours, such as {first([str(unpack(colour)) for colour in colours[:3]])}: a"
            " picture, or blended edges"
        ),
        (
            "name the folder of the label files in the recipe (data.train.labels); coloured labels need"
            " encoding: palette"
        ),
    )


def pack(colours: Iterable[Sequence[int]] | npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(..., 3) RGB to one number each, red highest."""
    return np.asarray(colours, np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def unpack(colour: int) -> tuple[int, int, int]:
    """The RGB of a packed colour."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def counted(values: npt.NDArray[np.generic]) -> dict[int, int]:
    """Value -> how often."""
    if values.dtype == np.uint8:
        histogram = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
