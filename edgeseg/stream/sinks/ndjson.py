"""Results as lines of JSON, in a file, a pipe, or on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from edgeseg.contracts import FrameSink
from edgeseg.errors import ReaderGone, StreamError
from edgeseg.files import open_stream, refusals, silence
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.sinks.disk import check_space_to_resume, prepare
from edgeseg.stream.sinks.options import flag, read_options
from edgeseg.stream.watch.events import Event
from edgeseg.text import json_text


class ResultLines(FrameSink):
    """One JSON object a frame, one a line (NDJSON), in a file that can be followed while it grows, on stdout
    for `-`, or into a FIFO or device.

    The keys are those of `Result.to_json`. With `with_events`, events stand between the
    frames as {"event": {...}}. A file is begun anew by the first `open`, and gone on with by later ones.
    Whoever reads a pipe may go away: see `ReaderGone`.
    """

    takes_all_sources = True

    def __init__(self, path: Path | None, *, with_events: bool = False) -> None:
        self.name = "-" if path is None else str(path)
        self._path, self._with_events = path, with_events
        self._file: FileIO | None = None
        self._begun = self._failed = False
        self._good_bytes: int | None = None

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        if self._path is None:
            return
        with refusals(self._path, StreamError):
            stream = open_stream(self._path)
        if stream is not None:
            self._file, self._good_bytes = FileIO(stream, "w"), None
            return
        prepare(self._path)
        if self._failed:
            check_space_to_resume(self._path)
        with refusals(self._path, StreamError):
            # Unbuffered: what was refused must not be tried again when the file is closed.
            self._file = self._path.open("ab" if self._begun else "wb", buffering=0)
            self._good_bytes = os.fstat(self._file.fileno()).st_size
        self._begun, self._failed = True, False

    def write(self, result: Result) -> None:
        self._put(result.to_json())

    def event(self, event: Event) -> None:
        """Write an event, where that was asked for."""
        if self._with_events and (self._path is None or self._file is not None):
            self._put({"event": event.to_json()})

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and self._path is not None:
            with refusals(self._path, StreamError):
                file.close()

    def _put(self, data: Mapping[str, Any]) -> None:
        line = json_text(data) + "\n"
        try:
            if self._path is None:
                with refusals(Path("stdout"), StreamError):
                    self._print(line)
                return
            if self._file is None:
                raise RuntimeError("the sink is not open")
            with refusals(self._path, StreamError):
                self._append(self._file, line.encode())
        except StreamError as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise ReaderGone(self.name) from error
            raise

    def _print(self, line: str) -> None:
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still printed, at the end of the run, has no reader either.
            with suppress(OSError):
                silence(sys.stdout.fileno())
            raise

    def _append(self, file: FileIO, line: bytes) -> None:
        """Write a line, whole or not at all; a pipe cannot be cut."""
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            self._failed = True
            if self._good_bytes is not None:
                with suppress(OSError):
                    file.truncate(self._good_bytes)
            raise
        if self._good_bytes is not None:
            self._good_bytes += written


def from_uri(uri: str, opacity: float) -> ResultLines:
    """Return the file of `results.ndjson#events=1`, or a pipe. Raises StreamError for a malformed option."""
    path, options = read_options(uri, {"events": flag}, suffix=".ndjson")
    return ResultLines(None if path == "-" else Path(path), with_events=options.get("events", False))
