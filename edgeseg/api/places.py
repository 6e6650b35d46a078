"""Paths as callers give them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

Place = str | PathLike[str]
"""A path; "~" stands for the home folder."""


def path_of(place: Place) -> Path:
    return Path(place).expanduser()


def maybe_path(place: Place | None) -> Path | None:
    return None if place is None else path_of(place)
