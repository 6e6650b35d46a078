"""Where frames come from: one row per URI form, and those that other packages add (group `edgeseg.sources`).

A plug-in's entry point is called like the scheme that it takes: NAME takes `NAME://...`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import StreamError
from edgeseg.registry import SOURCES_GROUP, Table
from edgeseg.stream.sources.places import IMAGE_SUFFIXES, find_images, split_damaged, split_rate
from edgeseg.stream.uris import Connection, redact, scheme_of

if TYPE_CHECKING:
    from edgeseg.contracts import FrameSource

_NETWORK = "edgeseg.stream.sources.network"
_RECORDED = "edgeseg.stream.sources.recorded"
_GSTREAMER = "edgeseg.stream.sources.gstreamer"

SOURCES: Table[Callable[..., FrameSource]] = Table(
    SOURCES_GROUP,
    "source",
    {
        "synthetic": f"{_RECORDED}:SyntheticScene",
        "rtsp": f"{_NETWORK}:NetworkStream",
        "http": f"{_NETWORK}:NetworkStream",
        "udp": f"{_NETWORK}:NetworkStream",
        "v4l2": f"{_NETWORK}:Camera",
        "csi": f"{_GSTREAMER}:CsiCamera",
        "gst": f"{_GSTREAMER}:Pipeline",
        "pictures": f"{_RECORDED}:ImageFiles",
        "clip": f"{_RECORDED}:VideoFile",
    },
    taken=("rtsps", "https", "file"),
)
"""What makes an unopened source of a URI and a name for results; None: the URI itself is the name."""
_CONNECTED = ("rtsp", "http", "udp")
"""Rows that also take a `Connection`."""


@dataclass(frozen=True, slots=True)
class SourceForm:
    """How a URI is written that a row takes.

    Attributes:
        example: how users write it.
        matches: whether a URI is of this form; the first form that says so takes it.
        row: of `SOURCES`.
    """

    example: str
    matches: Callable[[str], object]
    row: str


def _scheme(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).match


def _names_images(uri: str) -> bool:
    path = split_rate(uri)[0]
    if "://" in path:
        return False
    pattern = glob.has_magic(path) and not os.path.isfile(path)
    return os.path.isdir(path) or path.endswith("/") or path.lower().endswith(IMAGE_SUFFIXES) or pattern


FORMS: tuple[SourceForm, ...] = (
    SourceForm("synthetic://640x480@30?frames=300&seed=1", _scheme("synthetic://"), "synthetic"),
    SourceForm("rtsp://user:password@camera/stream", _scheme("rtsps?://"), "rtsp"),
    SourceForm("http://camera/video.mjpg", _scheme("https?://"), "http"),
    SourceForm("udp://0.0.0.0:5000", _scheme("udp://"), "udp"),
    SourceForm("/dev/video0", _scheme(r"/dev/video\d+(#|$)"), "v4l2"),
    SourceForm("v4l2://0", _scheme("v4l2://"), "v4l2"),
    SourceForm("csi://0", _scheme("csi://"), "csi"),
    SourceForm("gst:PIPELINE", _scheme("gst:"), "gst"),
    SourceForm("frames/ or frames/*.png", _names_images, "pictures"),
    SourceForm("clip.mp4", _scheme(r"(?![A-Za-z][\w+.-]*://)."), "clip"),
)
"""Every form of ours that a `--source` may take."""


def examples() -> list[str]:
    """Return how each form is written, those of plug-ins included."""
    return [*(form.example for form in FORMS), *(f"{name}://..." for name in SOURCES.plugins())]


def open_source(uri: str, name: str | None = None, connection: Connection | None = None) -> FrameSource:
    """Return the source that a URI names, not opened yet.

    Args:
        name: what results call it; None: the URI without credentials.
        connection: how a stream over the network is reached, where its URI does not say it.
    Raises:
        StreamError: no form that is known, or a malformed URI.
        Unsupported: the package that adds this form cannot be imported.
    """
    row = _row_of(uri)
    make = SOURCES.load(row)
    return make(uri, name, connection) if connection and row in _CONNECTED else make(uri, name)


def check_names(sources: Sequence[FrameSource]) -> None:
    """Raise StreamError where two sources have one name."""
    names = [source.source_id for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise StreamError(
            f"{twice}: given twice",
            hint="give each source a name of its own: --source front=URI --source back=URI",
        )


def files_of(uri: str) -> list[Path]:
    """The local files that a source reads, for those who must not write over them."""
    if "://" in uri or uri.startswith("gst:"):
        return []
    return find_images(split_rate(split_damaged(uri)[0])[0])


def _row_of(uri: str) -> str:
    usable = bool(uri) and "\0" not in uri  # which no name of a file holds
    for form in FORMS:
        if usable and form.matches(uri):
            return form.row
    for name in SOURCES.plugins():
        if scheme_of(uri) == name.lower():
            return name
    raise StreamError(
        f"{redact(uri) or 'an empty string'}: not a source",
        hint="a source is one of: " + "  ".join(examples()),
    )
