"""What a stage read and what it made, remembered beside its results: unchanged inputs, nothing to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.errors import BuildError
from edgeseg.files import file_sha256, write_whole
from edgeseg.text import json_document

WAY_OUT = "free disk space, or choose another folder with --out"
"""What to do where a stage cannot write its files."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        path: its record, a JSON file; the files of the stage lie in the same folder or below.
        inputs: all that the result follows from, as JSON values.
    """

    path: Path
    inputs: Mapping[str, Any]

    def kept(self) -> dict[str, Any] | None:
        """The result of an earlier run, if it came from exactly these inputs and its files are what they
        were.
        """
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if _canonical(record["inputs"]) != _canonical(self.inputs):
                return None
            if any(
                file_sha256(self.path.parent / name) != digest for name, digest in record["files"].items()
            ):
                return None
            result: dict[str, Any] = record["result"]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # never made, unreadable, or of another version: made anew
            return None
        return result

    def done(self, result: Mapping[str, Any], files: Sequence[Path] = ()) -> None:
        """Record the result, after its files are complete. Raises BuildError where it cannot be written."""
        names = {file.relative_to(self.path.parent).as_posix(): file_sha256(file) for file in files}
        write_json(self.path, {"inputs": self.inputs, "files": names, "result": result})


def _canonical(value: Any) -> str:
    """Equal texts for equal JSON values only; Python holds true and 1 for equal."""
    return json.dumps(value, sort_keys=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a whole JSON file at once, with its folder. Raises BuildError."""
    write_whole(path, json_document(document), BuildError, WAY_OUT)
