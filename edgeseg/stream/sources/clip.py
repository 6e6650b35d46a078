"""Something that has an end, read from its first picture to its last: a video file, or one behind an HTTP
address.

Whether it is whole is judged by what came: packets that the container marks as cut or damaged, pictures that
could not be decoded, and data that its index, or its outermost box, promises and that is not there. Counts of
samples and durations in headers are no promise: edit lists leave samples out, and tags go stale.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseg.contracts import Tell, silent
from edgeseg.errors import StreamError
from edgeseg.specs import Frame
from edgeseg.stream.sources.convert import failures, pyav
from edgeseg.stream.sources.decoder import Decoder, Picture, choose_video, reason_of
from edgeseg.stream.sources.places import Damaged

_MOST_FPS = 1_000.0
_TOLERANCE_S = 0.5
_INDEXED = {"mov", "mp4"}
_TS_PACKETS, _TS_SYNC = (188, 192, 204), 0x47
_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")


class Clip:
    """The pictures of a finite container.

    Args:
        container: of PyAV, open.
        what: how messages call it; without credentials.
        missing: what is known to be missing of it before it is read; empty where nothing is.
        hint: what to do where it is damaged.
    Attributes:
        fps: nominal rate; 0 where it has none.
        frame_count: pictures that are to be expected; an estimate where the container has no index, None
            where it has no length.
        stamps_may_jump: its format allows them to (MPEG-TS): a long gap is none.
        decoder: with what became of the pictures.
    Raises:
        StreamError: it has no video, or no picture of it can be decoded.
    """

    def __init__(
        self,
        container: Any,
        what: str,
        *,
        threads: int = 0,
        damaged: Damaged = "skip",
        tell: Tell = silent,
        missing: str = "",
        hint: str = "",
    ) -> None:
        self._what, self._missing, self._hint = what, missing, hint
        self._container, self._stream = container, choose_video(container, what)
        self.fps = rate_of(self._stream)
        self.stamps_may_jump = bool(int(container.format.flags) & pyav().format.Flags.ts_discont.value)
        self.frame_count = self._expected()
        self.decoder = Decoder(
            container, self._stream, what, threads=threads, by_frame=True, damaged=damaged, tell=tell
        )
        self._pictures = self.decoder.pictures()
        try:
            self._first: Picture | None = next(self._pictures)
        except failures() as error:
            raise self._damaged(reason_of(error)) from None

    def frames(self, source_id: str) -> Iterator[Frame]:
        """Every picture, with times from the first one on. Raises StreamError behind the last where something
        is missing.
        """
        index, pts_s, origin_s = 0, 0.0, None
        step_s = 1.0 / self.fps if self.fps else 0.0
        try:
            while True:
                picture, self._first = self._first or next(self._pictures, None), None
                if picture is None:
                    break
                if origin_s is None:
                    origin_s = picture.time_s
                # Raw streams carry no times: those count on at the nominal rate.
                time_s = (
                    picture.time_s - origin_s if picture.time_s is not None and origin_s is not None else None
                )
                pts_s = (
                    time_s
                    if time_s is not None and (time_s > pts_s or not index)
                    else pts_s + (step_s if index else 0.0)
                )
                yield Frame(
                    picture.image_rgb,
                    index,
                    pts_s,
                    time.monotonic(),
                    source_id,
                    pixel_aspect=picture.pixel_aspect,
                    damaged=picture.damaged,
                )
                index += 1
        except failures() as error:
            if not self._is_complete():
                raise self._damaged(reason_of(error)) from None
        problem = self.decoder.first_error or self._missing or self._short_of_index()
        if problem:
            raise self._damaged(problem)

    def _expected(self) -> int | None:
        stream, length_s = self._stream, 0.0
        if stream.duration and stream.time_base:
            length_s = float(stream.duration * stream.time_base)
        elif self._container.duration:
            length_s = self._container.duration / 1e6
        by_time = round(length_s * self.fps) if self.fps else 0
        counts = [count for count in (stream.frames, by_time) if count > 0]
        return min(counts, default=None)

    def _is_complete(self) -> bool:
        """Whether all came before an error: where a server says no length, FFmpeg takes the end of the answer
        for one.
        """
        if size_of(self._container) > 0:
            return False
        stream, end_s = self._stream, self.decoder.end_s
        if stream.frames > 0:
            return bool(self.decoder.packets >= stream.frames)
        length = self._container.duration
        return bool(length) and end_s >= ((self._container.start_time or 0) + length) / 1e6 - _TOLERANCE_S

    def _short_of_index(self) -> str:
        """Whether an mp4's index names samples that did not come, where those that came do not fill its time
        either.
        """
        stream = self._stream
        if not _INDEXED & set(self._container.format.name.split(",")) or not stream.duration:
            return ""
        missing = stream.frames - self.decoder.packets
        end_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        return (
            f"{missing} pictures are not there"
            if missing > 0 and self.decoder.end_s < end_s - _TOLERANCE_S
            else ""
        )

    def _damaged(self, reason: str) -> StreamError:
        decoder = self.decoder
        at = decoder.first_error_at if decoder.first_error else decoder.shown
        count = max(decoder.shown, self.frame_count or 0)
        of = f" of {count}" if self.frame_count else ""
        return StreamError(
            f"{self._what}: damaged after frame {at}; {decoder.shown}{of} frames could be decoded, and were"
            f" delivered ({reason})",
            hint=self._hint or "copy it again, or re-encode what is left of it: ffmpeg -i FILE fixed.mp4",
        )


def size_of(container: Any) -> int:
    """Bytes of what is read, where that is known; else 0 or less."""
    return int(container.size or 0)


def rate_of(stream: Any) -> float:
    """Nominal frames per second; 0 where the stream has none that can be."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= _MOST_FPS:
            return float(rate)
    return 0.0


def missing_at_end(path: Path) -> str:
    """What a file promises beyond its end, of formats whose readers take that for the end; empty where it
    promises nothing.

    Matroska and WebM say the size of their outermost element; MPEG-TS is of packets of one size.
    Source: RFC 8794 (EBML), sections 4 and 5; RFC 9559 (Matroska), section 5.1; ISO/IEC 13818-1, 2.4.3.2.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    size = path.stat().st_size
    if head.startswith(_EBML):
        return _missing_of_matroska(head, size)
    for packet in _TS_PACKETS:
        start = packet % 188 if packet == 192 else 0  # a time of four bytes stands before each
        if len(head) > 4 * packet and all(head[start + packet * place] == _TS_SYNC for place in range(4)):
            return "its last packet is cut" if size % packet else ""
    return ""


def _missing_of_matroska(head: bytes, size: int) -> str:
    start = head.find(_SEGMENT) + len(_SEGMENT)
    if start < len(_SEGMENT) or start >= len(head) or not head[start]:
        return ""
    length = 9 - head[start].bit_length()
    most = (1 << 7 * length) - 1
    stated = int.from_bytes(head[start : start + length], "big") & most
    missing = start + length + stated - size
    # All ones is an unknown size: of a recording that was never closed, or is not meant to be.
    return f"{missing} bytes are missing at its end" if missing > 0 and stated != most else ""
