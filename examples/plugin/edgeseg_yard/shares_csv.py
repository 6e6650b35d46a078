"""A sink: one line a frame, the share of each class. `--sink shares.csv`, or `shares.csv#every=10`."""

from __future__ import annotations

import csv
from io import TextIOWrapper
from pathlib import Path

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.sinks.options import read_options, whole


class SharesCsv(FrameSink):
    """Writes a CSV file; it is begun anew by the first `open`, and gone on with by later ones.

    Args:
        every: write one frame of so many.
    """

    takes_all_sources = True

    def __init__(self, path: Path, every: int = 1) -> None:
        self.name = str(path)
        self._path, self._every = path, every
        self._file: TextIOWrapper | None = None
        self._begun = False

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        try:
            self._file = self._path.open("a" if self._begun else "w", newline="", encoding="utf-8")
        except OSError as error:
            raise StreamError(f"{self._path}: {error.strerror}", hint="check the folder") from error
        self._lines = csv.writer(self._file)
        if not self._begun:
            self._lines.writerow(["source", "frame", "time_s", *labels.names])
        self._begun = True

    def write(self, result: Result) -> None:
        if result.index % self._every == 0:
            shares = [f"{share:.4f}" for share in result.share.values()]
            self._lines.writerow([result.source, result.index, result.time_s, *shares])

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def from_uri(uri: str, opacity: float) -> SharesCsv:
    """Return the sink of a URI; `opacity` is that of overlays, which this one does not draw."""
    path, options = read_options(uri, {"every": whole(1, 1_000_000)}, suffix=".csv")
    return SharesCsv(Path(path), **options)
