"""Recorded sources: video files, pictures, generated scenes.

Nothing is dropped here: these sources wait for their reader. A clip or an image that turns out damaged is an error that says
where; a plain OpenCV loop would end there as if the clip were over.
"""

from __future__ import annotations

import glob
import math
import os
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from edgeseg.errors import DataError, StreamError
from edgeseg.files import is_clutter
from edgeseg.images import opencv, read_image
from edgeseg.specs import Frame, ImageU8
from edgeseg.synthetic import Scene
from edgeseg.text import quoted, shown

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_TRIES_AFTER_DAMAGE = 64
_TOLERANCE_S = 0.5
_MIN_SIDE_PX, _MAX_SIDE_PX = 32, 8_192
_HINT = "check the path; a source is a file, a folder, a pattern or a URI: edgeseg run --help"


class VideoFile:
    """A video file, decoded by OpenCV's FFmpeg. Frames come upright, with the container's rate and presentation times."""

    is_live = False

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or uri
        self.fps = 0.0
        self.frame_count: int | None = None
        self._path = Path(uri)
        self._capture: Any = None
        self._first: tuple[ImageU8, float] | None = None

    def open(self) -> None:
        _check_file(self._path)
        cv2 = opencv()
        # An absolute path: FFmpeg would take the colon in "a:b.mp4" for a protocol.
        self._capture = cv2.VideoCapture(str(self._path.resolve()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise StreamError(
                f"{self._path}: no video that OpenCV can read (another kind of file, or one that was cut off)",
                hint=f"look at it with: ffprobe {quoted(self._path)}",
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and fps > 0 else 0.0
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None
        self._first = self._read()
        if self._first is None:
            raise StreamError(
                f"{self._path}: holds no frame that can be decoded",
                hint=f"re-encode it: ffmpeg -i {quoted(self._path)} fixed.mp4",
            )

    def frames(self) -> Iterator[Frame]:
        index, failures, damaged_at = 0, 0, None
        origin_s = pts_s = 0.0
        step_s = 1.0 / self.fps if self.fps else 0.0
        while True:
            read, self._first = self._first or self._read(), None
            if read is not None:
                image_rgb, time_s = read
                if index == 0:
                    origin_s = time_s
                # Raw streams carry no times: those count on at the nominal rate.
                forward = math.isfinite(time_s) and time_s - origin_s > pts_s
                pts_s = time_s - origin_s if forward else pts_s + (step_s if index else 0.0)
                damaged_at = index if failures and damaged_at is None else damaged_at
                failures = 0
                yield Frame(image_rgb, index, pts_s, time.monotonic(), self.source_id)
                index += 1
            elif self.frame_count is not None and index < self.frame_count and failures < _TRIES_AFTER_DAMAGE:
                failures += 1  # OpenCV reports a packet that it cannot decode and the end of the file alike
            else:
                break
        self._check_complete(index, pts_s + step_s, damaged_at)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
        self._first = None

    def _read(self) -> tuple[ImageU8, float] | None:
        """The next picture, a fresh array, and its time in s; None where the decoder gives none."""
        cv2 = opencv()
        good, image_bgr = self._capture.read()
        if not good:
            return None
        return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3

    def _check_complete(self, frames: int, end_s: float, damaged_at: int | None) -> None:
        """Raise where the clip ended early. A count without an index is an estimate, hence the half second of tolerance."""
        if self.frame_count is None:
            return
        missing = self.frame_count - frames
        if damaged_at is None:
            reaches_end = self.fps > 0 and end_s >= self.frame_count / self.fps - _TOLERANCE_S
            if reaches_end or missing <= max(2.0, self.fps * _TOLERANCE_S):
                return
            damaged_at = frames
        raise StreamError(
            f"{self._path}: damaged after frame {damaged_at}; "
            f"{frames} of {self.frame_count} frames could be decoded, and were delivered",
            hint=f"copy the clip again, or re-encode what is left of it: ffmpeg -i {quoted(self._path)} fixed.mp4",
        )


class ImageFiles:
    """The pictures of a folder or of a glob pattern, in natural order ("2.png" before "10.png"); each may have its own size.

    Pictures have no rate; `?fps=10` after the URI gives them one, which a video made of them needs.
    """

    is_live = False

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or uri
        pattern, rate = split_rate(uri)
        self.fps = rate
        self.frame_count: int | None = None
        self._pattern = pattern
        self._paths: list[Path] = []

    def open(self) -> None:
        found = find_images(self._pattern)
        if not found and not os.path.exists(self._pattern) and not glob.has_magic(self._pattern):
            raise StreamError(f"{self._pattern}: no such folder or image", hint=_HINT)
        if not found:
            raise StreamError(
                f"{self._pattern}: holds no images", hint=f"images are files ending in {' '.join(IMAGE_SUFFIXES)}; check the path"
            )
        self._paths = found
        self.frame_count = len(found)

    def frames(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            try:
                image_rgb = read_image(path)
            except DataError as error:
                raise StreamError(str(error), hint="replace the file, or take it out of the folder") from error
            pts_s = index / self.fps if self.fps else 0.0
            yield Frame(image_rgb, index, pts_s, time.monotonic(), self.source_id, path.name)

    def close(self) -> None:
        self._paths = []


class SyntheticScene:
    """The generator's street scene: `synthetic://WIDTHxHEIGHT[@FPS][?frames=N&seed=N]`; 30 fps, 300 frames, seed 0 by default."""

    is_live = False

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or uri
        address, _, query = uri.removeprefix("synthetic://").partition("?")
        match = re.fullmatch(r"(\d+)x(\d+)(?:@([\d./]+))?", address)
        options = dict(parse_qsl(query, keep_blank_values=True))
        numbers = {key: int(value) for key, value in options.items() if key in ("frames", "seed") and value.isdecimal()}
        if match is None or len(numbers) != len(options) or numbers.get("frames") == 0:
            _refuse_synthetic(uri)
        width, height = int(match[1]), int(match[2])
        if not all(_MIN_SIDE_PX <= side <= _MAX_SIDE_PX for side in (width, height)):
            _refuse_synthetic(uri)
        self.fps = _rate(match[3], uri) if match[3] else 30.0
        self._count = numbers.get("frames", 300)
        self.frame_count: int | None = self._count
        self._size_hw = (height, width)
        self._seed = numbers.get("seed", 0)

    def open(self) -> None:
        self._scene = Scene(self._seed, self._size_hw)

    def frames(self) -> Iterator[Frame]:
        for index in range(self._count):
            image_rgb, _ = self._scene.frame(index, self.fps)
            yield Frame(image_rgb, index, index / self.fps, time.monotonic(), self.source_id)

    def close(self) -> None:
        """Nothing is held."""


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise StreamError(f"{path}: {error.strerror}", hint=_HINT) from error
    if empty:
        raise StreamError(f"{path}: the file is empty", hint="copy or record the clip again")
    if shown(whole := path.resolve()) != str(whole):
        raise StreamError(f"{shown(whole)}: FFmpeg takes no name that is not UTF-8", hint="rename the file or its folder")


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
            if file.is_file() and not any(is_clutter(part) for part in set(file.parts) - wanted if part != "..")
        ]
    return sorted(found, key=lambda file: _natural(str(file)))


def _natural(text: str) -> list[str | int]:
    """Sort key in which numbers count as numbers. Splitting at digits alternates text and number, so keys compare."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", text))]


def split_rate(uri: str) -> tuple[str, float]:
    """ "frames/?fps=10" -> ("frames/", 10.0); without a rate 0."""
    match = re.fullmatch(r"(.*)\?fps=([\d./]+)", uri)
    return (match[1], _rate(match[2], uri)) if match else (uri, 0.0)


def _rate(text: str, uri: str) -> float:
    """Frames per second, "25", "29.97" or "30000/1001"."""
    try:
        fps = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        fps = 0.0
    if not 0 < fps <= 1000:
        raise StreamError(f"{uri}: {text} is not a frame rate", hint="write it as 25, 29.97 or 30000/1001")
    return fps


def _refuse_synthetic(uri: str) -> NoReturn:
    raise StreamError(
        f"{uri}: not a synthetic scene",
        hint=f"write synthetic://640x480@30?frames=300&seed=1, sides from {_MIN_SIDE_PX} to {_MAX_SIDE_PX} px",
    )
