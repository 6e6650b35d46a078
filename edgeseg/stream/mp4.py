"""The header of an mp4 file: whether it is there, and the exact frame rate in it.

OpenCV rounds the rate of what it writes to three digits (30000/1001 becomes 29.97), which is a wrong time for every frame. The
header says when each frame is shown, so it is set right there; no picture is touched.

Source: ISO/IEC 14496-12, boxes moov, mvhd, trak, tkhd, elst, mdhd and stts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PARENTS = (b"trak", b"edts", b"mdia", b"minf", b"stbl")


class _Box(NamedTuple):
    kind: bytes
    body: int
    end: int


def has_header(path: Path) -> bool:
    """Whether an mp4 was finished: without its `moov` box, written last, nothing plays it."""
    try:
        with path.open("rb") as file:
            return _find_header(file) is not None
    except OSError:
        return False


def set_rate(path: Path, fps: Fraction) -> None:
    """Give every frame of a constant-rate video the duration 1 / fps, exactly. Raises OSError.

    Nothing is written where the header says so already, or is of a layout that this module does not know; there OpenCV's
    rounding, less than 0.001 fps, stays.
    """
    with path.open("r+b") as file:
        header = _find_header(file)
        if header is None:
            raise OSError(f"{path} has no header")
        file.seek(header.body)
        moov = bytearray(file.read(header.end - header.body))
        if _retime(moov, fps):
            file.seek(header.body)
            file.write(moov)


def exact_rate(fps: float) -> Fraction:
    """The ratio that a float was made from: 29.97002997 -> 30000/1001, 29.97 -> 2997/100."""
    return Fraction(fps).limit_denominator(100_000)


def _find_header(file: BinaryIO) -> _Box | None:
    """The complete `moov` box of a file; reads only the heads of the boxes."""
    file.seek(0, 2)
    size, position = file.tell(), 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        body = position + 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
            body += 8
        if length < 8 or position + length > size:
            return None
        if kind == b"moov":
            return _Box(kind, body, position + length)
        position += length
    return None


def _boxes(data: bytearray, start: int, end: int) -> Iterator[_Box]:
    """The boxes of a stretch of bytes, with those inside them."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8 or start + length > end:
            return
        if kind in _PARENTS:
            yield from _boxes(data, start + 8, start + length)
        else:
            yield _Box(kind, start + 8, start + length)
        start += length


def _retime(moov: bytearray, fps: Fraction) -> bool:
    """Set the header's times for a rate. False where they are right already, or not those of one track of constant rate."""
    found = [(box.kind, box.body) for box in _boxes(moov, 0, len(moov))]
    at = dict(found)
    times = [kind for kind, _ in found if kind in (b"mvhd", b"tkhd", b"mdhd", b"stts", b"elst")]
    # Version 0 of each: 32-bit times, as every recording under 2**32 ticks has them.
    if sorted(times) != [b"elst", b"mdhd", b"mvhd", b"stts", b"tkhd"] or any(moov[at[kind]] for kind in times) or b"ctts" in at:
        return False
    timescale, _ = struct.unpack_from(">II", moov, at[b"mdhd"] + 12)
    entries, frames, ticks = struct.unpack_from(">III", moov, at[b"stts"] + 4)
    segments, _ = struct.unpack_from(">II", moov, at[b"elst"] + 4)
    if entries != 1 or segments != 1 or not ticks or Fraction(timescale, ticks) == fps:
        return False
    (movie_timescale,) = struct.unpack_from(">I", moov, at[b"mvhd"] + 12)
    struct.pack_into(">II", moov, at[b"mdhd"] + 12, fps.numerator, frames * fps.denominator)
    struct.pack_into(">I", moov, at[b"stts"] + 12, fps.denominator)
    duration = round(movie_timescale * frames / fps)
    for kind, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"elst", 8)):
        struct.pack_into(">I", moov, at[kind] + offset, duration)
    return True
