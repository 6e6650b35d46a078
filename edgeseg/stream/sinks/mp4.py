"""Recordings: mp4 files that play up to the last second whatever ends them, in one piece or in numbered
segments.

A recording grows as `NAME.partial.mp4`, in fragments of about a second. Closing it, also after an error or
Ctrl-C, makes it an ordinary mp4 and gives it its name. What a killed process or a power cut left under the
partial name plays as far as it was written; the next recording to that place gives it a number and keeps it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError
from edgeseg.files import can_replace, followed, is_stream, refusals
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.sinks.disk import check_space, check_space_to_resume, lock_file, prepare
from edgeseg.stream.sinks.muxer import CODECS, Muxer, pyav
from edgeseg.stream.sinks.options import choice, number, read_options, whole
from edgeseg.stream.sinks.views import VIEW, View, view_of
from edgeseg.text import quoted

_FRAGMENTED = {"movflags": "hybrid_fragmented+frag_keyframe+default_base_moof", "flush_packets": "1"}


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a recording goes on in a new file, and how many are kept.

    Attributes:
        segment_s, segment_bytes: the greatest length and size of a file; None for no limit. The size may be
        passed by one frame. keep: finished segments that are kept, the newest; None for all.
    """

    segment_s: float | None = None
    segment_bytes: float | None = None
    keep: int | None = None

    def __bool__(self) -> bool:
        return self.segment_s is not None or self.segment_bytes is not None or self.keep is not None

    def is_due(self, pts_s: float, size_bytes: int) -> bool:
        """Whether a frame `pts_s` seconds after the first of its file belongs into the next one."""
        too_long = self.segment_s is not None and pts_s >= self.segment_s
        return too_long or (self.segment_bytes is not None and size_bytes >= self.segment_bytes)


class Recording(FrameSink):
    """An mp4 of what a view shows of each frame, at the frames' own presentation times.

    Without rotation it is the file `path`; where it has to go on in another one (another frame size, a disk
    that was full) and always with rotation, files are numbered: `cam-0001.mp4` beside `cam.mp4`, never over
    one that is there.

    The index of a file is held in memory while it grows, about 70 bytes a frame (8 MB an hour at 30 fps):
    what records for days wants segments.
    """

    def __init__(
        self, path: Path, view: View, *, codec: str = "h264", rotation: Rotation | None = None
    ) -> None:
        self.name = str(path)
        self.codec = codec
        self._path, self._view, self._rotation = path, view, rotation or Rotation()
        self._muxer: Muxer | None = None
        self._lock: BinaryIO | None = None
        self._begin_s = 0.0
        self._finished = 0
        self._failed = False

    @property
    def _numbered(self) -> re.Pattern[str]:
        return self._numbered_of(self._path)

    @staticmethod
    def _numbered_of(path: Path) -> re.Pattern[str]:
        return re.compile(rf"{re.escape(path.stem)}-(\d{{4,}}){re.escape(path.suffix)}")

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        if fps <= 0:
            raise StreamError(
                f"{self._path}: a video needs a frame rate, and pictures have none",
                hint="give them one: --source 'FOLDER/?fps=10'",
            )
        self._find_place()
        prepare(self._path)
        if self._failed:
            check_space_to_resume(self._path)
        self._size_hw, self._fps = size_hw, fps
        self._recover()
        self._begin()
        self._failed = False

    def write(self, result: Result) -> None:
        frame = result.frame
        if result.mask.shape != self._size_hw:
            height, width = result.mask.shape
            raise StreamError(
                f"{self._path}: frame {frame.index} {frame.name} is {width}x{height}, and the video is "
                f"{self._size_hw[1]}x{self._size_hw[0]}",
                hint="a video has one size: write masks instead (--sink masks/), or resize the pictures",
            )
        try:
            self._add(result)
        except StreamError:
            self._failed = True
            raise

    def close(self) -> None:
        if self._muxer is not None:
            self._end()

    def replaces(self, path: Path) -> bool:
        """Return whether a file might be deleted as an old segment, or is the recording itself."""
        place = Path(os.path.realpath(self._path))
        same_folder = path.resolve().parent == place.parent
        segment = (
            self._rotation.keep is not None and self._numbered_of(place).fullmatch(path.name) is not None
        )
        return same_folder and (path.name == place.name or segment)

    def _find_place(self) -> None:
        """Follow links, so that they stay; raise StreamError where no finished file can be renamed into
        place.
        """
        with refusals(self._path, StreamError):
            if is_stream(self._path):
                raise StreamError(
                    f"{self.name}: is no file, and a recording goes back to its beginning when it ends",
                    hint=(
                        "record to a file; a pipe takes result lines (--sink -), a player pictures (--sink"
                        " http://127.0.0.1:8090/)"
                    ),
                )
            self._path = followed(self._path)
            if not can_replace(self._path):
                raise StreamError(
                    f"{self.name}: is mounted by itself, and a finished recording cannot take its place",
                    hint="mount its folder instead of the file, and record into that",
                )

    def _add(self, result: Result) -> None:
        if self._muxer is None:
            raise RuntimeError("the sink is not open")
        pts_s = result.frame.pts_s
        if self._muxer.frames and self._rotation.is_due(pts_s - self._begin_s, self._muxer.size_bytes):
            self._end()
            self._begin()
        check_space(self._path, self._muxer.waiting_bytes)
        if not self._muxer.frames:
            self._begin_s = pts_s
        self._muxer.write(self._view.draw(result), pts_s)

    def _begin(self) -> None:
        """Open the next file under its partial name."""
        self._target = self._next_target()
        self._partial = self._target.with_name(f"{self._target.stem}.partial{self._target.suffix}")
        with refusals(self._path, StreamError):
            self._lock = lock_file(self._partial)
        try:
            # An absolute path: FFmpeg would take the colon in "a:b.mp4" for a protocol.
            self._muxer = Muxer(
                str(self._partial.resolve()),
                self._view.size_hw(self._size_hw),
                self._fps,
                what=str(self._path),
                codec=self.codec,
                container="mp4",
                options=_FRAGMENTED,
                pixel_aspect=self.pixel_aspect,
                hint=(
                    f"check permissions and free space (df -h {quoted(self._path.parent)}), take another"
                    " codec, or write masks/"
                ),
            )
        except BaseException:
            self._release()
            self._partial.unlink(missing_ok=True)
            raise

    def _end(self) -> None:
        """Finish the file and give it its name, where that fails too, if it plays: it does so as far as it
        was written.
        """
        muxer, self._muxer = self._muxer, None
        if muxer is None:
            return
        whole = muxer.frames > 0
        try:
            muxer.close()
        except StreamError:
            self._failed = True
            whole = _plays(self._partial)
            raise
        finally:
            self._release()
            with refusals(self._path, StreamError):
                if whole:
                    os.replace(self._partial, self._target)
                    self._finished += 1
                else:
                    self._partial.unlink(missing_ok=True)
        self._discard_old()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _next_target(self) -> Path:
        if not self._rotation and not self._finished:
            return self._path
        return self._path.with_name(
            f"{self._path.stem}-{max([0, *self._segments()]) + 1:04d}{self._path.suffix}"
        )

    def _segments(self) -> dict[int, Path]:
        """The numbered files that are there, finished, by number."""
        with refusals(self._path, StreamError):
            found = [(self._numbered.fullmatch(path.name), path) for path in self._path.parent.iterdir()]
        return {int(match[1]): path for match, path in found if match}

    def _discard_old(self) -> None:
        if self._rotation.keep is None:
            return
        segments = self._segments()
        with refusals(self._path, StreamError):
            for number in sorted(segments)[: -self._rotation.keep]:
                segments[number].unlink(missing_ok=True)

    def _recover(self) -> None:
        """Give what an earlier run left behind a number: nothing is lost. Raises StreamError where another
        run writes it.
        """
        left = re.compile(rf"{re.escape(self._path.stem)}(-\d{{4,}})?\.partial{re.escape(self._path.suffix)}")
        with refusals(self._path, StreamError):
            for partial in sorted(path for path in self._path.parent.iterdir() if left.fullmatch(path.name)):
                with lock_file(partial):
                    if _plays(partial):
                        number = max([0, *self._segments()]) + 1
                        os.replace(
                            partial,
                            self._path.with_name(f"{self._path.stem}-{number:04d}{self._path.suffix}"),
                        )
                    else:
                        partial.unlink()


def _plays(path: Path) -> bool:
    """Whether a video holds a picture that can be decoded."""
    av = pyav()
    try:
        with av.open(str(path.resolve())) as container:
            return next(container.decode(video=0), None) is not None
    except (OSError, ValueError, IndexError, av.FFmpegError):
        return False


_OPTIONS = {
    **VIEW,
    "codec": choice(*CODECS),
    "segment_s": number(1, 86_400),
    "segment_mb": number(0.1, 1e6),
    "keep": whole(1, 9_999),
}


def from_uri(uri: str, opacity: float) -> Recording:
    """Return the recording of `out.mp4#segment_s=600`. Raises StreamError for a malformed option."""
    path, options = read_options(uri, _OPTIONS, suffix=".mp4")
    megabytes = options.get("segment_mb")
    rotation = Rotation(options.get("segment_s"), megabytes and 1e6 * megabytes, options.get("keep"))
    return Recording(
        Path(path), view_of(options, opacity), codec=options.get("codec", "h264"), rotation=rotation
    )
