"""What hurts between the training and the validation split: copies, frames of one clip, classes that only one
of them has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from edgeseg.data.findings import Looked, Problem, exclude, samples_of, short
from edgeseg.data.formats import SplitName
from edgeseg.data.label_values import first

_ALIKE_BITS = 6
"""Bits of two pictures' 64-bit hashes that may differ in two takes of one scene."""


def across(splits: Sequence[Looked]) -> tuple[list[Problem], list[Problem]]:
    """Errors and warnings that concern two splits together."""
    copies: list[tuple[Looked, str, str]] = []
    warned: list[Problem] = []
    digests: dict[bytes, tuple[SplitName, str]] = {}
    for looked in splits:
        for name, sample in samples_of(looked):
            twin_split, twin = (
                digests.setdefault(sample.digest, (looked.split, name))
                if sample.digest
                else (looked.split, name)
            )
            if twin_split != looked.split:
                copies.append((looked, name, f"{name}: the same file as {twin} of the {twin_split} split"))
    mends = {
        looked.split: exclude(looked, [name for other, name, _ in copies if other is looked])
        for looked in splits
    }
    errors = [
        Problem("duplicate", looked.split, name, told, mends[looked.split]) for looked, name, told in copies
    ]
    by_split = {looked.split: looked for looked in splits}
    if len(by_split) == 2:
        train, val = by_split["train"], by_split["val"]
        warned += _only_in_one(train, val)
        warned += _alike(train, val, {problem.sample for problem in errors})
    return errors, warned


def _only_in_one(train: Looked, val: Looked) -> Iterator[Problem]:
    names, count = train.labels.names, train.labels.num_classes
    learned, measured = train.pixels[:count] > 0, val.pixels[:count] > 0
    unlearned = [names[index] for index in np.flatnonzero(measured & ~learned)]
    unmeasured = [names[index] for index in np.flatnonzero(learned & ~measured)]
    if unlearned and learned.any():
        yield Problem(
            "classes", "val", "",
            f"in validation alone, never in training: {first(unlearned)}; their IoU can only be 0",
            "move some of their images to the training split",
        )  # fmt: skip
    if unmeasured and measured.any():
        yield Problem(
            "classes", "val", "",
            f"in training alone, never in validation: {first(unmeasured)}; their IoU is not measured",
            "move some of their images to the validation split",
        )  # fmt: skip


def _alike(train: Looked, val: Looked, told: set[str]) -> Iterator[Problem]:
    """Validation images that are neighbours, by number, of training images that look the same: frames of one
    clip.
    """
    numbered: dict[str, list[tuple[int, str, int]]] = {}
    for name, sample in samples_of(train):
        key = _numbered(name)
        if key is not None and sample.look is not None:
            numbered.setdefault(key[0], []).append((key[1], name, sample.look))
    looks = {sample.look: name for name, sample in samples_of(train) if sample.look is not None}
    close: list[tuple[str, str]] = []
    for name, sample in samples_of(val):
        if sample.look is None or name in told:
            continue
        twin = looks.get(sample.look)
        key = _numbered(name)
        if twin is None and key is not None and key[0] in numbered:
            _, neighbour, look = min(numbered[key[0]], key=lambda row, at=key[1]: abs(row[0] - at))  # type: ignore[misc]
            twin = neighbour if bin(look ^ sample.look).count("1") <= _ALIKE_BITS else None
        if twin is not None:
            close.append((name, twin))
    if close:
        pairs = [f"{name} like {twin}" for name, twin in close]
        sequences = sorted({key[0] for name, _ in close if (key := _numbered(name)) is not None and key[0]})
        globs = ", ".join(f'"{sequence}*"' for sequence in sequences[:3]) or ", ".join(
            f'"{short(name, val)}"' for name, _ in close[:3]
        )
        yield Problem(
            "duplicate",
            "val",
            "",
            f"{len(close)} of {len(val.names)} images look like training images, as frames of one clip do, so"
            f" the validation flatters: {first(pairs, 3)}",
            f"keep sequences whole in one split: data.train.exclude: [{globs}]   in the recipe",
        )


def _numbered(name: str) -> tuple[str, int] | None:
    """The sequence of a sample, and its number in it, by its file's name."""
    match = re.fullmatch(r"(.*?)(\d{1,18})\D*", name.rpartition("/")[2])
    return (match[1], int(match[2])) if match else None
