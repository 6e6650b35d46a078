"""Where results go: one row per URI form, one class per kind of sink.

A sink that cannot be written says so when it is opened, before any inference. What was written before a run
broke off stays readable.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError, Unsupported
from edgeseg.images import opencv, overlay
from edgeseg.specs import Frame, LabelSpace, MaskU8
from edgeseg.stream.files import check_space, prepare, prepare_folder, write_whole, writing
from edgeseg.stream.mp4 import exact_rate, has_header, set_rate
from edgeseg.stream.sources import IMAGE_SUFFIXES, files_of, redact


class OverlayVideo:
    """An mp4 of the frames with the class colours blended over them, MPEG-4 part 2 (`mp4v`), at the source's exact rate.

    mp4v is the codec that OpenCV's wheels can encode: they carry no H.264 encoder, and their VP9 takes a hundred times as long.
    The recording grows under a hidden name; closing it, also after an error or Ctrl-C, gives it its own.
    """

    def __init__(self, path: Path, opacity: float) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._opacity = opacity
        self._writer: Any = None
        self._frames = 0

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        if fps <= 0:
            raise StreamError(
                f"{self._path}: a video needs a frame rate, and pictures have none",
                hint="give them one: --source 'FOLDER/?fps=10'",
            )
        prepare(self._path)
        self._size_hw, self._rate, self._labels = size_hw, exact_rate(fps), labels
        cv2 = opencv()
        height, width = size_hw
        # The encoder takes even sides only, and OpenCV would cut odd ones off.
        self._pad_hw = (height % 2, width % 2)
        encoded_size = (width + width % 2, height + height % 2)
        self._writer = cv2.VideoWriter(
            str(self._partial.resolve()), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), fps, encoded_size
        )
        if not self._writer.isOpened():
            self.close()
            raise StreamError(
                f"{self._path}: OpenCV cannot encode {width}x{height} at {fps:g} fps as mp4v",
                hint="write masks instead: --sink masks/ (mp4v ends at 8190 px a side)",
            )

    def write(self, frame: Frame, mask: MaskU8, record: Mapping[str, Any]) -> None:
        if mask.shape != self._size_hw:
            height, width = mask.shape
            raise StreamError(
                f"{self._path}: frame {frame.index} {frame.name} is {width}x{height}, and the video is "
                f"{self._size_hw[1]}x{self._size_hw[0]}",
                hint="a video has one size: write masks instead (--sink masks/), or resize the pictures",
            )
        check_space(self._path)
        cv2 = opencv()
        image_bgr = cv2.cvtColor(overlay(frame.image_rgb, mask, self._labels, self._opacity), cv2.COLOR_RGB2BGR)
        if any(self._pad_hw):
            image_bgr = cv2.copyMakeBorder(image_bgr, 0, self._pad_hw[0], 0, self._pad_hw[1], cv2.BORDER_REPLICATE)
        # OpenCV 4 returns None and keeps a failure for itself; `close` finds it out.
        if self._writer.write(image_bgr) is False:
            raise StreamError(f"{self._path}: frame {frame.index} could not be written", hint=f"check df -h {self._path.parent}")
        self._frames += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if not self._frames:
            self._partial.unlink(missing_ok=True)
            return
        if not has_header(self._partial):
            raise StreamError(
                f"{self._path}: the recording could not be finished, and does not play; it lies in {self._partial}",
                hint=f"free some space (df -h {self._path.parent}) and run again",
            )
        with writing(self._path):
            set_rate(self._partial, self._rate)
            os.replace(self._partial, self._path)


class MaskFiles:
    """A folder of PNG class maps of the frame's size: pixel value = class index, coloured by the label palette.

    A picture's mask takes the picture's name, a video's frame its number. Existing files are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[str] = set()

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        prepare_folder(self._folder)
        self._palette_rgb = labels.palette()

    def write(self, frame: Frame, mask: MaskU8, record: Mapping[str, Any]) -> None:
        name = f"{Path(frame.name).stem if frame.name else f'{frame.index:06d}'}.png"
        if frame.name and name in self._written:
            raise StreamError(
                f"{self._folder / name}: two pictures of this name, the second is {frame.name} (frame {frame.index})",
                hint="rename one of them, or run each folder by itself",
            )
        if frame.name:
            self._written.add(name)
        write_whole(self._folder / name, encode_mask_png(mask, self._palette_rgb))

    def close(self) -> None:
        """Every file is complete when it is written."""


class ResultLines:
    """One JSON object a frame, one a line (NDJSON), in a file that can be followed while it grows, or on stdout for `-`.

    The keys are those of the record that `stream.runner` makes.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        if self._path is None:
            self._file = sys.stdout
            return
        prepare(self._path)
        with writing(self._path):
            self._file = self._path.open("w", encoding="utf-8")

    def write(self, frame: Frame, mask: MaskU8, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        if self._file is None:
            raise RuntimeError("the sink is not open")
        if self._path is None:
            # Not wrapped: a closed pipe is for the command line to end on quietly.
            self._file.write(line)
            self._file.flush()
            return
        with writing(self._path):
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and self._path is not None:
            with writing(self._path):
                file.close()


class Nothing:
    """Takes results and keeps none, for timing."""

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None: ...

    def write(self, frame: Frame, mask: MaskU8, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SinkForm:
    """One row of the table.

    Attributes:
        example: how users write it.
        matches: whether a URI is of this form; the first row that says so takes it.
        make: (URI, overlay opacity) -> unopened sink. None for forms that this version knows but cannot write.
        target: the file or folder that is written, so that no two sinks and no source share it.
    """

    example: str
    matches: Callable[[str], object]
    make: Callable[[str, float], FrameSink] | None
    target: Callable[[str], Path | None] = lambda uri: None


def _mask_folder(uri: str) -> Path:
    return Path(uri.removeprefix("png:"))


def _names_folder(uri: str) -> bool:
    return "://" not in uri and (uri.startswith("png:") or uri.endswith("/") or Path(uri).is_dir())


SINKS: tuple[SinkForm, ...] = (
    SinkForm("null:", re.compile("null:$").match, lambda uri, opacity: Nothing()),
    SinkForm("results.ndjson", re.compile(r"(?!\w+://).*\.ndjson$", re.I).match, lambda uri, _: ResultLines(Path(uri)), Path),
    SinkForm("- (stdout)", re.compile("-$").match, lambda uri, opacity: ResultLines(None), Path),
    SinkForm("masks/ or png:DIR", _names_folder, lambda uri, opacity: MaskFiles(_mask_folder(uri)), _mask_folder),
    SinkForm(
        "out.mp4", re.compile(r"(?!\w+://).*\.mp4$", re.I).match, lambda uri, opacity: OverlayVideo(Path(uri), opacity), Path
    ),
    SinkForm("rtsp://0.0.0.0:8554/out", re.compile("rtsps?://").match, None),
    SinkForm("http://127.0.0.1:8080", re.compile("https?://").match, None),
    SinkForm("display://", re.compile("display://").match, None),
    SinkForm("mqtt://broker/topic", re.compile("mqtts?://").match, None),
)
"""Every form that a `--sink` may take."""

_ACCEPTED_HINT = "a sink is one of: " + "  ".join(form.example for form in SINKS if form.make)


def open_sinks(uris: Sequence[str], *, source_uri: str = "", opacity: float = 0.5) -> list[FrameSink]:
    """The sinks that URIs name, not opened yet.

    Args:
        source_uri: where the frames come from; no sink may write over it.
        opacity: share of the class colour in overlays, 0..1.
    Raises:
        Unsupported: a form that this version does not write.
        StreamError: no form that is known, two sinks with one target, or the source as target.
    """
    sources = {path.resolve() for path in files_of(source_uri)}
    taken = sources | {path.parent for path in sources if path.suffix.lower() in IMAGE_SUFFIXES}
    sinks = []
    for uri in uris:
        form = _form_of(uri)
        if form.make is None:
            raise Unsupported(f"{redact(uri)}: sinks of the form {form.example} are not written yet", hint=_ACCEPTED_HINT)
        target = form.target(uri)
        if target is not None:
            if target.resolve() in taken:
                raise StreamError(f"{uri}: would write over the source or another sink", hint="give this sink another name")
            taken.add(target.resolve())
        sinks.append(form.make(uri, opacity))
    return sinks


def _form_of(uri: str) -> SinkForm:
    for form in SINKS:
        if uri and form.matches(uri):
            return form
    raise StreamError(f"{redact(uri) or 'an empty string'}: not a sink", hint=_ACCEPTED_HINT)


def encode_mask_png(mask: MaskU8, palette_rgb: npt.NDArray[np.uint8]) -> bytes:
    """A class map as an 8-bit palette PNG, pixel value = class index.

    Written by hand because OpenCV writes no palettes, and so that a device needs no second image library.

    Args:
        mask: (H, W) uint8.
        palette_rgb: (256, 3) uint8.
    Source: PNG specification (ISO/IEC 15948), colour type 3, filter 0.
    """
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = mask
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette_rgb.tobytes()), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
