"""What a search or a sweep has measured so far, one JSON object a line: one that was stopped continues from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg.errors import BuildError, DataError


class Journal:
    """Append-only. A line counts when it is whole: what a power cut left of the last one is cut off.

    Attributes:
        rows: everything in the file, in order.

    Raises:
        DataError: the file holds something else.
        BuildError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(0)
                content = file.read()
                whole = content.rfind(b"\n") + 1
                file.truncate(whole)
            self.rows: list[dict[str, Any]] = [_row(line) for line in content[:whole].splitlines()]
        except OSError as error:
            raise self._unwritable(error) from error
        except ValueError as error:
            raise DataError(f"{path} is not what a search or a sweep wrote: {error}", hint="measure anew with --force") from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row so that it survives a power cut. Raises BuildError."""
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self.rows.append(dict(row))

    def _unwritable(self, error: OSError) -> BuildError:
        return BuildError(f"{self.path}: {error.strerror or error}", hint="free disk space, or choose another folder with --out")


def _row(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict) or "key" not in row:
        raise ValueError(f"a row without key: {line[:60]!r}")
    return row
