"""Results as lines of JSON, in a file or on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from edgeseg.specs import Frame, LabelSpace, MaskU8
from edgeseg.stream.events import Event
from edgeseg.stream.files import check_space_to_resume, prepare, writing


class ResultLines:
    """One JSON object a frame, one a line (NDJSON), in a file that can be followed while it grows, or on stdout for `-`.

    The keys are those of the record that `stream.runner` makes. With `with_events`, events stand between the frames as
    {"event": {...}}. A file is begun anew by the first `open`, and gone on with by later ones.
    """

    takes_all_sources = True

    def __init__(self, path: Path | None, *, with_events: bool = False) -> None:
        self.name = "-" if path is None else str(path)
        self._path, self._with_events = path, with_events
        self._file: FileIO | None = None
        self._begun = self._failed = False
        self._good_bytes = 0

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        if self._path is None:
            return
        prepare(self._path)
        if self._failed:
            check_space_to_resume(self._path)
        with writing(self._path):
            # Unbuffered: what was refused must not be tried again when the file is closed.
            self._file = self._path.open("ab" if self._begun else "wb", buffering=0)
            self._good_bytes = os.fstat(self._file.fileno()).st_size
        self._begun, self._failed = True, False

    def write(self, frame: Frame, mask: MaskU8, record: Mapping[str, Any]) -> None:
        self._put(record)

    def event(self, event: Event) -> None:
        """Write an event, where that was asked for."""
        if self._with_events and (self._path is None or self._file is not None):
            self._put({"event": event.to_json()})

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and self._path is not None:
            with writing(self._path):
                file.close()

    def _put(self, data: Mapping[str, Any]) -> None:
        line = json.dumps(data, allow_nan=False) + "\n"
        if self._path is None:
            # Not wrapped: a closed pipe is for the command line to end on quietly.
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        if self._file is None:
            raise RuntimeError("the sink is not open")
        with writing(self._path):
            self._append(self._file, line.encode())

    def _append(self, file: FileIO, line: bytes) -> None:
        """Write a line, whole or not at all."""
        written = 0
        try:
            while written < len(line):
                written += file.write(line[written:])
        except OSError:
            self._failed = True
            with suppress(OSError):  # a device cannot be cut
                file.truncate(self._good_bytes)
            raise
        self._good_bytes += written
