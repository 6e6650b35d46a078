"""Recorded sources: video files, pictures, generated scenes.

Nothing is dropped here: these sources wait for their reader. A clip or an image that turns out damaged is an
error that says where, behind what could be read of it.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from edgeseg.contracts import FrameSource, Tell, silent
from edgeseg.errors import DataError, StreamError
from edgeseg.images import opencv, read_image
from edgeseg.specs import Frame
from edgeseg.stream.sources.clip import Clip, missing_at_end
from edgeseg.stream.sources.convert import failures, pyav
from edgeseg.stream.sources.decoder import reason_of
from edgeseg.stream.sources.places import IMAGE_SUFFIXES, find_images, rate_of, split_damaged, split_rate
from edgeseg.synthetic.scene import Scene
from edgeseg.text import quoted, shown

_MIN_SIDE_PX, _MAX_SIDE_PX = 32, 8_192
_HINT = "check the path; a source is a file, a folder, a pattern or a URI: edgeseg run --help"


class VideoFile(FrameSource):
    """A video file, or what comes through a pipe (`-`: stdin). Frames come upright, with the container's rate
    and times.

    `clip.mp4#damaged=show` hands over what a damaged place may have smeared, marked, instead of leaving it
    out.

    Attributes:
        damaged, undecodable: see `stream.decoder`.
        tell: gets the events of reading.
    """

    is_live = False

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or uri
        self.fps = 0.0
        self.frame_count: int | None = None
        self.tell: Tell = silent
        path, self._keep_damaged = split_damaged(uri)
        self._path = Path(path) if path != "-" else Path("/dev/stdin")
        self._container: Any = None
        self._clip: Clip | None = None

    @property
    def stamps_may_jump(self) -> bool:
        return self._clip is not None and self._clip.stamps_may_jump

    @property
    def damaged(self) -> int:
        return self._clip.decoder.damaged if self._clip else 0

    @property
    def undecodable(self) -> int:
        return self._clip.decoder.undecodable if self._clip else 0

    def open(self) -> None:
        av = pyav()
        is_file = _check_file(self._path)
        try:
            with _address(self._path, is_file) as address:
                self._container = av.open(address)
        except failures() as error:
            raise StreamError(
                f"{self._path}: no video that FFmpeg can read (another kind of file, or cut off):"
                f" {reason_of(error)}",
                hint=f"look at it with: ffprobe {quoted(self._path)}",
            ) from None
        self._clip = Clip(
            self._container,
            str(self._path),
            damaged=self._keep_damaged,
            tell=self.tell,
            missing=missing_at_end(self._path) if is_file else "",
            hint=(
                "copy the clip again, or re-encode what is left of it: "
                f"ffmpeg -i {quoted(self._path)} fixed.mp4; #damaged=show shows what is smeared too"
            ),
        )
        self.fps, self.frame_count = self._clip.fps, self._clip.frame_count

    def frames(self) -> Iterator[Frame]:
        if self._clip is None:
            raise RuntimeError("the source is not open")
        yield from self._clip.frames(self.source_id)

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()


class ImageFiles(FrameSource):
    """The pictures of a folder or of a glob pattern, in natural order ("2.png" before "10.png"); each may
    have its own size.

    Pictures have no rate; `?fps=10` after the URI gives them one, which a video made of them needs.
    """

    is_live = False

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or uri
        pattern, rate = split_rate(uri)
        self.fps = rate
        self.tell: Tell = silent
        self.frame_count: int | None = None
        self._pattern = pattern
        self._paths: list[Path] = []

    def open(self) -> None:
        found = find_images(self._pattern)
        if not found and not os.path.exists(self._pattern) and not glob.has_magic(self._pattern):
            raise StreamError(f"{self._pattern}: no such folder or image", hint=_HINT)
        if not found:
            raise StreamError(
                f"{self._pattern}: holds no images",
                hint=f"images are files ending in {' '.join(IMAGE_SUFFIXES)}; check the path",
            )
        self._paths = found
        self.frame_count = len(found)
        if len(found) == 1 and found[0].suffix.lower() not in (".jpg", ".jpeg"):
            self._tell_pages(found[0])

    def frames(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            try:
                image_rgb = read_image(path)
            except DataError as error:
                raise StreamError(
                    str(error), hint="replace the file, or take it out of the folder"
                ) from error
            pts_s = index / self.fps if self.fps else 0.0
            yield Frame(image_rgb, index, pts_s, time.monotonic(), self.source_id, path.name)

    def close(self) -> None:
        self._paths = []

    def _tell_pages(self, path: Path) -> None:
        """An animation, or a document of many pages, is taken for its first picture."""
        if shown(path) != str(path):
            return  # OpenCV crashes on a name that is not text
        cv2 = opencv()
        try:
            pages = cv2.imcount(str(path))
        except cv2.error:
            return
        if pages > 1:
            self.tell(
                "picture",
                f"{path.name} holds {pages} pictures, and only the first is read; make a video of it for all",
            )


class SyntheticScene(FrameSource):
    """The generator's street scene: `synthetic://WIDTHxHEIGHT[@FPS][?frames=N&seed=N]`; 30 fps, 300 frames,
    seed 0 by default.
    """

    is_live = False

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.source_id = name or uri
        address, _, query = uri.removeprefix("synthetic://").partition("?")
        match = re.fullmatch(r"(\d+)x(\d+)(?:@([\d./]+))?", address)
        options = dict(parse_qsl(query, keep_blank_values=True))
        numbers = {
            key: int(value)
            for key, value in options.items()
            if key in ("frames", "seed") and value.isdecimal()
        }
        if match is None or len(numbers) != len(options) or numbers.get("frames") == 0:
            _refuse_synthetic(uri)
        width, height = int(match[1]), int(match[2])
        if not all(_MIN_SIDE_PX <= side <= _MAX_SIDE_PX for side in (width, height)):
            _refuse_synthetic(uri)
        self.fps = rate_of(match[3], uri) if match[3] else 30.0
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


def _check_file(path: Path) -> bool:
    """Whether it is an ordinary file, and not a pipe. Raises StreamError where it cannot be read, or is
    empty.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):
            return False  # a look would take away what is to be read
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise StreamError(f"{path}: {error.strerror}", hint=_HINT) from error
    if empty:
        raise StreamError(f"{path}: the file is empty", hint="copy or record the clip again")
    return True


@contextmanager
def _address(path: Path, is_file: bool) -> Iterator[str]:
    """What FFmpeg is to open: absolute, or it would take the colon in "a:b.mp4" for a protocol; in characters
    that it takes.
    """
    absolute = str(path.resolve() if is_file else path.absolute())
    try:
        absolute.encode()
    except UnicodeEncodeError:  # a name in another encoding than UTF-8
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield f"/dev/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        yield absolute


def _refuse_synthetic(uri: str) -> NoReturn:
    raise StreamError(
        f"{uri}: not a synthetic scene",
        hint=(
            f"write synthetic://640x480@30?frames=300&seed=1, sides from {_MIN_SIDE_PX} to {_MAX_SIDE_PX} px"
        ),
    )
