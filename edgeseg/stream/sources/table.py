"""Where frames come from: one row per URI form. What the rows make is in `recorded`, `live` and
`gstreamer`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.contracts import FrameSource
from edgeseg.errors import StreamError
from edgeseg.stream.sources.gstreamer import CsiCamera, Pipeline
from edgeseg.stream.sources.network import Camera, NetworkStream
from edgeseg.stream.sources.recorded import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from edgeseg.stream.sources.recorded import (
    ImageFiles,
    SyntheticScene,
    VideoFile,
    find_images,
    split_damaged,
    split_rate,
)
from edgeseg.stream.uris import named, redact


@dataclass(frozen=True, slots=True)
class SourceForm:
    """One row of the table.

    Attributes:
        example: how users write it.
        matches: whether a URI is of this form; the first row that says so takes it.
        make: URI and the name for results (None: the URI itself) -> unopened source.
    """

    example: str
    matches: Callable[[str], object]
    make: Callable[[str, str | None], FrameSource]


def _scheme(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).match


def _names_images(uri: str) -> bool:
    path = split_rate(uri)[0]
    if "://" in path:
        return False
    pattern = glob.has_magic(path) and not os.path.isfile(path)
    return os.path.isdir(path) or path.endswith("/") or path.lower().endswith(IMAGE_SUFFIXES) or pattern


SOURCES: tuple[SourceForm, ...] = (
    SourceForm("synthetic://640x480@30?frames=300&seed=1", _scheme("synthetic://"), SyntheticScene),
    SourceForm("rtsp://user:password@camera/stream", _scheme("rtsps?://"), NetworkStream),
    SourceForm("http://camera/video.mjpg", _scheme("https?://"), NetworkStream),
    SourceForm("udp://0.0.0.0:5000", _scheme("udp://"), NetworkStream),
    SourceForm("/dev/video0", _scheme(r"/dev/video\d+(#|$)"), Camera),
    SourceForm("v4l2://0", _scheme("v4l2://"), Camera),
    SourceForm("csi://0", _scheme("csi://"), CsiCamera),
    SourceForm("gst:PIPELINE", _scheme("gst:"), Pipeline),
    SourceForm("frames/ or frames/*.png", _names_images, ImageFiles),
    SourceForm("clip.mp4", _scheme(r"(?!\w+://)."), VideoFile),
)
"""Every form that a `--source` may take."""

_ACCEPTED_HINT = "a source is one of: " + "  ".join(form.example for form in SOURCES)


def open_source(text: str) -> FrameSource:
    """The source that a URI names, not opened yet. "NAME=URI" gives it a name for results; else it is the URI
    without credentials.

    Raises:
        StreamError: no form that is known, or a malformed URI.
    """
    name, uri = named(text)
    for form in SOURCES:
        if uri and form.matches(uri):
            return form.make(uri, name if name != redact(uri) else None)
    raise StreamError(f"{redact(uri) or 'an empty string'}: not a source", hint=_ACCEPTED_HINT)


def open_sources(texts: Sequence[str]) -> list[FrameSource]:
    """The sources that several URIs name, not opened yet. Raises StreamError where two have one name, else as
    `open_source`.
    """
    sources = [open_source(text) for text in texts]
    names = [source.source_id for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StreamError(
            f"{twice}: given twice",
            hint="give each source a name of its own: --source front=URI --source back=URI",
        )
    return sources


def files_of(text: str) -> list[Path]:
    """The local files that a source reads, for those who must not write over them."""
    uri = named(text).uri
    if "://" in uri or uri.startswith("gst:"):
        return []
    return find_images(split_rate(split_damaged(uri)[0])[0])
