"""What the tests of sinks share: frames and masks to write, what was written, a small disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeseg.contracts import FrameSink
from edgeseg.results import Result, class_shares, value_shares
from edgeseg.specs import Frame, ImageU8, MaskU8
from edgeseg.stream.sinks.table import open_sinks
from streams import LABELS


def sink(uri: str | Path, **options: Any) -> FrameSink:
    """The unopened sink of a URI."""
    (made,) = open_sinks([str(uri)], **options)
    return made


def frame(image_rgb: ImageU8, index: int = 0, name: str = "", pts_s: float | None = None) -> Frame:
    return Frame(image_rgb, index, index / 25 if pts_s is None else pts_s, time.monotonic(), "test", name)


def result(
    frame: Frame, mask: MaskU8 | None = None, share: Mapping[str, float] | None = None, **more: Any
) -> Result:
    """What a run makes of a frame; the mask is that of its picture where none is given."""
    mask = mask_of(frame.image_rgb) if mask is None else mask
    more = {"time_s": frame.pts_s, **more}
    return Result(
        frame, mask, LABELS, class_shares(value_shares(mask), LABELS) if share is None else share, **more
    )


def mask_of(image_rgb: ImageU8) -> MaskU8:
    return (image_rgb[:, :, 1] // 64).astype(np.uint8)


def write_all(
    target: FrameSink, images: list[ImageU8], fps: float = 25.0, times_s: list[float] | None = None
) -> None:
    """Open, write every picture, close; at constant rate where no times are given."""
    target.open((images[0].shape[0], images[0].shape[1]), fps, LABELS)
    try:
        for index, image_rgb in enumerate(images):
            pts_s = times_s[index] if times_s else index / (fps or 25)
            target.write(result(frame(image_rgb, index, pts_s=pts_s)))
    finally:
        target.close()


def fill(target: FrameSink, images: list[ImageU8], count: int) -> None:
    """Write `count` frames into an open sink, the pictures over and over."""
    for index in range(count):
        image_rgb = images[index % len(images)]
        target.write(result(frame(image_rgb, index)))


def read_video(path: Path) -> tuple[float, list[ImageU8]]:
    """Rate and pictures of a video, read by OpenCV."""
    capture = cv2.VideoCapture(str(path))
    fps, images = capture.get(cv2.CAP_PROP_FPS), []
    while True:
        good, image_bgr = capture.read()
        if not good:
            capture.release()
            return fps, images
        images.append(image_bgr[:, :, ::-1])
