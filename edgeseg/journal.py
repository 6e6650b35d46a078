"""What a search or a sweep has measured so far, one JSON object a line: one that was stopped continues from
it.
"""

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
                whole = _whole(content)
                file.truncate(len(whole))
            self.rows: list[dict[str, Any]] = [_row(line, "key") for line in whole.splitlines()]
        except OSError as error:
            raise self._unwritable(error) from error
        except ValueError as error:
            raise DataError(
                f"{path} is not what a search or a sweep wrote: {error}", hint="measure anew with --force"
            ) from error

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
        return BuildError(
            f"{self.path}: {error.strerror or error}",
            hint="free disk space, or choose another folder with --out",
        )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a training's metrics.jsonl, each with a `step`; a last line that was cut off is left out.

    Raises:
        DataError: missing, unreadable, or something else.
    """
    hint = "give the folder of a run: edgeseg train RECIPE makes runs/NAME"
    try:
        return [_row(line, "step") for line in _whole(path.read_bytes()).splitlines()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint=hint) from error
    except ValueError as error:
        raise DataError(f"{path}: not a metrics file: {error}", hint=hint) from error


def _whole(content: bytes) -> bytes:
    """The lines that are whole: a power cut, or a full disk, may leave the last one short."""
    return content[: content.rfind(b"\n") + 1]


def _row(line: bytes, key: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict) or key not in row:
        raise ValueError(f"a row without {key}: {line[:60]!r}")
    return row
