"""Masks as PNG files."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError
from edgeseg.files import refusals, replace_file
from edgeseg.results import Result
from edgeseg.specs import LabelSpace, MaskU8
from edgeseg.stream.sinks.disk import check_space_to_resume, prepare_folder


class MaskFiles(FrameSink):
    """A folder of PNG class maps of the frame's size: pixel value = class index, coloured by the label
    palette.

    A picture's mask takes the picture's name, a video's frame its number. Existing files are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._written: set[str] = set()
        self._failed = False

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        prepare_folder(self._folder)
        if self._failed:
            check_space_to_resume(self._folder)
        self._failed = False
        self._palette_rgb = labels.palette()

    def write(self, result: Result) -> None:
        frame = result.frame
        name = f"{Path(frame.name).stem if frame.name else f'{frame.index:06d}'}.png"
        if frame.name and name in self._written:
            raise StreamError(
                f"{self._folder / name}: two pictures of this name, the second is {frame.name} (frame"
                f" {frame.index})",
                hint="rename one of them, or run each folder by itself",
            )
        if frame.name:
            self._written.add(name)
        png = encode_mask_png(result.mask, self._palette_rgb, frame.pixel_aspect)
        try:
            with refusals(self._folder / name, StreamError):
                replace_file(self._folder / name, png)
        except StreamError:
            self._failed = True
            raise


def encode_mask_png(mask: MaskU8, palette_rgb: npt.NDArray[np.uint8], pixel_aspect: float = 1.0) -> bytes:
    """A class map as an 8-bit palette PNG, pixel value = class index.

    Written by hand because OpenCV writes no palettes, and so that a device needs no second image library.

    Args:
        mask: (H, W) uint8.
        palette_rgb: (256, 3) uint8.
        pixel_aspect: width of a pixel over its height, for viewers that go by it: the mask has the frame's
            pixels.
    Source: PNG specification (ISO/IEC 15948), colour type 3, filter 0.
    """
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = mask
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette_rgb.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    ]
    if pixel_aspect != 1:
        ratio = Fraction(pixel_aspect).limit_denominator(1_000)
        chunks.insert(1, (b"pHYs", struct.pack(">IIB", ratio.denominator, ratio.numerator, 0)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def from_uri(uri: str, opacity: float) -> MaskFiles:
    """Return the folder of `masks/` or `png:DIR`."""
    return MaskFiles(Path(uri.removeprefix("png:")))
