"""Where results go: one row per URI form, and those that other packages add (group `edgeseg.sinks`).

A plug-in's entry point is called like the scheme or the suffix that it takes: NAME takes `NAME://...` and
files `*.NAME`.

A sink that cannot be written says so when it is opened, before any inference. What was written before a run
broke off stays readable. A sink that failed may be opened again: it goes on without touching what it wrote
before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import StreamError
from edgeseg.files import is_stream
from edgeseg.registry import SINKS_GROUP, Table
from edgeseg.stream.sources.places import IMAGE_SUFFIXES
from edgeseg.stream.sources.table import files_of
from edgeseg.stream.uris import redact, scheme_of

if TYPE_CHECKING:
    from edgeseg.contracts import FrameSink

_ROOM = "edgeseg.stream.sinks"

_LONGEST_NAME = 200  # of the 255 bytes that disks take

SOURCE_FIELD = "{source}"
"""In a sink's URI: the name of a source. Such a sink is made once for each source."""


SINKS: Table[Callable[[str, float], FrameSink]] = Table(
    SINKS_GROUP,
    "sink",
    {
        "null": f"{_ROOM}.null:from_uri",
        "ndjson": f"{_ROOM}.ndjson:from_uri",
        "masks": f"{_ROOM}.masks:from_uri",
        "mp4": f"{_ROOM}.mp4:from_uri",
        "rtsp": f"{_ROOM}.rtsp:from_uri",
        "http": f"{_ROOM}.mjpeg:from_uri",
        "display": f"{_ROOM}.display:from_uri",
        "mqtt": f"{_ROOM}.mqtt:from_uri",
    },
    taken=("rtsps", "https", "mqtts", "png", "file"),
)
"""What makes an unopened sink of a URI and the opacity of overlays (0..1)."""


@dataclass(frozen=True, slots=True)
class SinkForm:
    """How a URI is written that a row takes.

    Attributes:
        example: how users write it.
        matches: whether a URI is of this form; the first form that says so takes it.
        row: of `SINKS`.
        target: the file or folder that is written, so that no two sinks and no source share it.
    """

    example: str
    matches: Callable[[str], object]
    row: str
    target: Callable[[str], Path | None] = lambda uri: None


def _file(suffix: str) -> Callable[[str], object]:
    return re.compile(rf"(?!\w+://).*\.{suffix}(#.*)?$", re.IGNORECASE | re.DOTALL).match


def _file_target(suffix: str) -> Callable[[str], Path]:
    """The file, without options; what ends in its suffix has none, whatever characters it holds."""
    return lambda uri: Path(uri if uri.lower().endswith(f".{suffix}") else uri.partition("#")[0])


def _mask_folder(uri: str) -> Path:
    return Path(uri.removeprefix("png:"))


def _names_folder(uri: str) -> bool:
    return "://" not in uri and (uri.startswith("png:") or uri.endswith("/") or os.path.isdir(uri))


def _names_pipe(uri: str) -> bool:
    """Stdout, a FIFO, a descriptor that the shell gave, a device."""
    return "://" not in uri and is_stream(Path(uri.partition("#")[0] or "."))


def _pipe_target(uri: str) -> Path | None:
    """Results of two sinks must not mix on one pipe; /dev/null may take any."""
    path = Path(uri.partition("#")[0])
    return None if os.path.realpath(path) == os.devnull else path


FORMS: tuple[SinkForm, ...] = (
    SinkForm("null:", re.compile("null:$").match, "null"),
    SinkForm("results.ndjson", _file("ndjson"), "ndjson", _file_target("ndjson")),
    SinkForm("masks/ or png:DIR", _names_folder, "masks", _mask_folder),
    SinkForm("out.mp4", _file("mp4"), "mp4", _file_target("mp4")),
    SinkForm("- (stdout)", _names_pipe, "ndjson", _pipe_target),
    SinkForm("rtsp://0.0.0.0:8554/out", re.compile("rtsps?://").match, "rtsp"),
    SinkForm("http://127.0.0.1:8090/out", re.compile("http://").match, "http"),
    SinkForm("display://", re.compile("display://").match, "display"),
    SinkForm("mqtt://broker/topic", re.compile("mqtts?://").match, "mqtt"),
)
"""Every form of ours that a `--sink` may take."""


def examples() -> list[str]:
    """Return how each form is written, those of plug-ins included."""
    added = (f"{name}://... or *.{name}" for name in SINKS.plugins())
    return [*(form.example for form in FORMS), *added]


def open_sinks(uris: Sequence[str], *, source_uri: str = "", opacity: float = 0.5) -> list[FrameSink]:
    """The sinks that URIs name for the frames of one source, not opened yet.

    Args:
        source_uri: where the frames come from; no sink may write over it.
        opacity: share of the class colour in overlays, 0..1.
    Raises:
        Unsupported: a form that this machine cannot write.
        StreamError: no form that is known, a malformed option, two sinks with one target, or the source as
            target.
    """
    routed = route_sinks(uris, {_plain(source_uri) or "source": source_uri}, opacity=opacity)
    return [sink for sinks in routed.values() for sink in sinks]


def route_sinks(
    uris: Sequence[str], sources: Mapping[str, str], *, opacity: float = 0.5, beside: Sequence[Path] = ()
) -> dict[str, list[FrameSink]]:
    """The sinks for the frames of several sources, by the id of the source that each belongs to; those of all
    under "".

    A URI that holds `{source}` makes a sink for each source, with its name in that place.

    Args:
        sources: URI by source id.
        beside: further files that the run writes.
    Raises:
        as `open_sinks`, and StreamError for a sink that shows one source only where there are several, or two
        names of sources that cannot be told apart in a file name.
    """
    files = {path.resolve() for uri in sources.values() for path in files_of(uri)}
    folders = {path.parent for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    taken: set[Hashable] = {_identity(path) for path in files | folders}
    for path in beside:
        _take(path, str(path), taken)
    routed: dict[str, list[FrameSink]] = {"": []}
    names = _file_names(sources)
    for uri in uris:
        if SOURCE_FIELD in uri:
            for source_id, name in names.items():
                if len(os.fsencode(name)) > _LONGEST_NAME:
                    raise StreamError(
                        f"{source_id}: too long for a part of a file's name",
                        hint="name the source: --source NAME=URI",
                    )
                routed.setdefault(source_id, []).append(
                    _make(uri.replace(SOURCE_FIELD, name), opacity, files, taken)
                )
            continue
        sink = _make(uri, opacity, files, taken)
        if len(sources) > 1 and not sink.takes_all_sources:
            raise StreamError(
                f"{redact(uri)}: shows one source, and there are {len(sources)}",
                hint="put {source} into it, for a sink of each source: --sink 'out-{source}.mp4'",
            )
        routed[""].append(sink)
    return routed


def _identity(path: Path) -> Hashable:
    """What two names of one file have in common, be they links, hard links or not there yet."""
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return os.path.realpath(path)


def _take(path: Path, uri: str, taken: set[Hashable]) -> None:
    """Add what is written to `taken`. Raises StreamError where something has it already."""
    if os.path.realpath(path) == os.devnull:
        return
    if (identity := _identity(path)) in taken:
        raise StreamError(
            f"{redact(uri)}: would write over the source or another sink",
            hint="give this sink, or the report, another name",
        )
    taken.add(identity)


def _make(uri: str, opacity: float, files: set[Path], taken: set[Hashable]) -> FrameSink:
    """The sink of one URI; adds its target to `taken`."""
    form = _form_of(uri)
    sink, target = SINKS.load(form.row)(uri, opacity), form.target(uri)
    if target is not None:
        _take(target, uri, taken)
        if any(sink.replaces(path) for path in files):
            raise StreamError(
                f"{redact(uri)}: would write over the source", hint="give this sink another name"
            )
    return sink


def _form_of(uri: str) -> SinkForm:
    usable = bool(uri) and "\0" not in uri  # which no name of a file holds
    for form in FORMS:
        if usable and form.matches(uri):
            return form
    for name in SINKS.plugins():
        if scheme_of(uri) == name.lower():
            return SinkForm(name, re.compile("").match, name)
        if _file(re.escape(name))(uri):
            return SinkForm(name, re.compile("").match, name, _file_target(name))
    raise StreamError(
        f"{redact(uri) or 'an empty string'}: not a sink",
        hint="a sink is one of: " + "  ".join(examples()),
    )


def _file_names(sources: Mapping[str, str]) -> dict[str, str]:
    names = {source_id: _plain(source_id) or "source" for source_id in sources}
    for source_id, name in names.items():
        if list(names.values()).count(name) > 1:
            raise StreamError(
                f"{source_id}: its name in files, {name}, is that of another source",
                hint="name the sources: --source NAME=URI",
            )
    return names


def _plain(source_id: str) -> str:
    """The id in characters that are safe in file names, URLs and MQTT topics; never holds credentials."""
    return re.sub(r"[^\w.-]+", "_", redact(source_id)).strip("._")
