"""What a visitor of the live page does: takes pictures apart, reads metrics."""

from __future__ import annotations

import json
import re
import struct
import time
from typing import Any

import cv2
import numpy as np

from edgeseg.results import Result
from edgeseg.specs import Frame, ImageU8, MaskU8
from sinking import result
from streams import random_images


def decode(packet: bytes) -> tuple[dict[str, Any], ImageU8, MaskU8]:
    """What a browser makes of a packet."""
    (length,) = struct.unpack_from("<I", packet)
    header = json.loads(packet[4 : 4 + length])
    jpeg = packet[4 + length :][: header["jpeg_bytes"]]
    png = packet[4 + length + header["jpeg_bytes"] :]
    assert len(png) == header["png_bytes"]
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return header, picture, mask


def frame(index: int = 0, size_hw: tuple[int, int] = (48, 64), source: str = "gate", **more: Any) -> Result:
    """What a run makes of a picture."""
    picture = Frame(random_images(1, size_hw, seed=index)[0], index, index / 30, time.monotonic(), source)
    return result(picture, age_ms=20.0, latency_ms=15.0, **more)


SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (-?[\d.e+-]+)')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of an exposition; fails where a line is none."""
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    declared: set[str] = set()
    for line in text.split("\n")[:-1]:
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in declared, "a family must come in one piece"
            declared.add(name)
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert re.sub("_(sum|count)$", "", match[1]) in declared or match[1] in declared, line
            labels = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', match[2] or "")
            plain = tuple(
                (name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value))
                for name, value in labels
            )
            assert (match[1], plain) not in samples
            samples[match[1], plain] = float(match[3])
    return samples
