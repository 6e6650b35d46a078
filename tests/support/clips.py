"""Clips of every kind that the field sends, made with PyAV; and what FFmpeg itself makes of a clip."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edgeseg.specs import ImageU8
from streams import random_images

ROTATED: Mapping[str, tuple[int, int, int, int]] = {
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}
"""Display matrices [a b; c d]."""


def moving_images(count: int, size_hw: tuple[int, int] = (96, 128), seed: int = 0) -> list[ImageU8]:
    """One picture that moves, so that pictures refer to each other."""
    (still,) = random_images(1, (size_hw[0] + 2 * count, size_hw[1] + 2 * count), seed)
    height, width = size_hw
    return [still[2 * i : 2 * i + height, i : i + width].copy() for i in range(count)]


def encode(
    path: Path,
    images: Sequence[ImageU8],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 10,
    options: Mapping[str, str] | None = None,
    tags: Mapping[str, Any] | None = None,
    container: str | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    """A clip; `tags` are attributes of the codec context, `times` presentation times in frames."""
    with _scheduled_as_before(), av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=fps, options=dict(options or {}))
        stream.height, stream.width, stream.pix_fmt = images[0].shape[0], images[0].shape[1], pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for index, image_rgb in enumerate(images):
            picture = av.VideoFrame.from_ndarray(image_rgb, format="rgb24")
            picture.pts = times[index] if times else index
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


@contextmanager
def _scheduled_as_before() -> Iterator[None]:
    """Undo what SVT-AV1 does for root: it puts the thread that opens it, and all of its later children, into
    real time, above everything else on the machine."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def h264(path: Path, count: int = 30, gop: int = 10, b_frames: int = 2, **options: Any) -> Path:
    """H.264 with groups of pictures."""
    settings = {
        "g": str(gop),
        "keyint_min": str(gop),
        "sc_threshold": "0",
        "bf": str(b_frames),
        "preset": "ultrafast",
    }
    return encode(path, moving_images(count), options=settings | options.pop("options", {}), **options)


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """The same mp4 with another display matrix in its track header."""
    data = bytearray(path.read_bytes())
    at = (
        data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    )  # version 0: times and track, then reserved, layer, group, volume
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def with_edit_list(path: Path, start: int, length: int, fps: int = 10) -> Path:
    """The same mp4, shown from its frame `start` on for `length` frames, as phones trim: by rewriting its
    edit list.
    """
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert struct.unpack_from(">II", data, at) == (0, 1)
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    media_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    shift = struct.unpack_from(">i", data, at + 12)[0]  # of what B-frames delay
    struct.pack_into(">Ii", data, at + 8, length * movie_scale // fps, shift + start * media_scale // fps)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float, to: Path | None = None) -> Path:
    """The beginning of a file."""
    out = to or path
    out.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return out


def packets(path: Path) -> list[tuple[int, int, bool]]:
    """Position, size and key flag of every packet."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


def scrambled(path: Path, number: int) -> Path:
    """The same file with the data of one packet turned to noise, from its middle on; its length prefix and
    headers stay.
    """
    data = bytearray(path.read_bytes())
    position, size, _ = packets(path)[number]
    start = position + min(40, size // 2)
    data[start : position + size] = (
        np.random.default_rng(1).integers(0, 256, position + size - start, np.uint8).tobytes()
    )
    path.write_bytes(data)
    return path


def by_ffmpeg(path: Path) -> list[ImageU8]:
    """FFmpeg's own pictures of a clip; skips the test where its command is missing."""
    if not shutil.which("ffmpeg"):
        pytest.skip("there is no ffmpeg command to compare with")
    words = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-vsync",
        "0",
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
    ]
    data = subprocess.run(
        [*words, "-pix_fmt", "rgb24", "-"], capture_output=True, timeout=60, check=False
    ).stdout
    found, at = [], 0
    while match := re.compile(rb"P6\s(\d+) (\d+)\s255\s").match(data, at):
        width, height = int(match[1]), int(match[2])
        found.append(np.frombuffer(data, np.uint8, width * height * 3, match.end()).reshape(height, width, 3))
        at = match.end() + width * height * 3
    return found


def apart(images: Sequence[ImageU8], others: Sequence[ImageU8]) -> float:
    """The greatest mean difference of two pictures in the same place; infinite where shapes differ."""
    assert len(images) == len(others)
    pairs = zip(images, others, strict=True)
    return max(
        float(np.abs(a.astype(int) - b).mean()) if a.shape == b.shape else float("inf") for a, b in pairs
    )
