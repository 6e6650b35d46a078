"""Paths of clips and pictures, and what may follow them: `clip.mp4#damaged=show`, `frames/*.png?fps=10`."""

from __future__ import annotations

import glob
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from edgeseg.errors import StreamError
from edgeseg.files import is_clutter

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
Damaged = Literal["skip", "show"]
DAMAGED: tuple[Damaged, ...] = get_args(Damaged)
"""What becomes of pictures behind a loss."""


def split_damaged(uri: str) -> tuple[str, Damaged]:
    """ "clip.mp4#damaged=show" -> ("clip.mp4", "show"); a file that is really called so is meant as it
    stands.
    """
    path, mark, wanted = uri.rpartition("#damaged=")
    if not mark or Path(uri).exists():
        return uri, "skip"
    if wanted not in DAMAGED:
        raise StreamError(
            f"{uri}: damaged={wanted} is not known", hint=f"write #damaged={' or #damaged='.join(DAMAGED)}"
        )
    return path, wanted


def find_images(pattern: str) -> list[Path]:
    """The files of a folder, of a glob pattern or of a path, in natural order.

    What file managers leave lying about is none of them (see `files.is_clutter`), unless it is named.
    """
    path = Path(pattern)
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_file() and not is_clutter(entry.name)]
        found = [path / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    elif os.path.isfile(path):
        found = [path]
    else:
        wanted = set(path.parts)
        found = [
            file
            for file in map(Path, glob.glob(pattern, recursive=True))
            if file.is_file()
            and not any(is_clutter(part) for part in set(file.parts) - wanted if part != "..")
        ]
    return sorted(found, key=lambda file: _natural(str(file)))


def _natural(text: str) -> list[str | int]:
    """Sort key in which numbers count as numbers. Splitting at digits alternates text and number, so keys
    compare.
    """
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", text))]


def split_rate(uri: str) -> tuple[str, float]:
    """ "frames/?fps=10" -> ("frames/", 10.0); without a rate 0."""
    match = re.fullmatch(r"(.*)\?fps=([\d./]+)", uri)
    return (match[1], rate_of(match[2], uri)) if match else (uri, 0.0)


def rate_of(text: str, uri: str) -> float:
    """Frames per second, "25", "29.97" or "30000/1001"."""
    try:
        fps = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        fps = 0.0
    if not 0 < fps <= 1000:
        raise StreamError(f"{uri}: {text} is not a frame rate", hint="write it as 25, 29.97 or 30000/1001")
    return fps
