"""Writing results: what the disk refuses becomes a StreamError, and a full disk is noticed before it is full."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeseg.errors import StreamError
from edgeseg.files import replace_file

RESERVE_BYTES = 1 << 20
"""Left free by `check_space`: room for the index that makes a recording playable."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StreamError that names `path`."""
    try:
        yield
    except OSError as error:
        raise StreamError(
            f"{path}: cannot be written: {error.strerror or error}",
            hint=f"check permissions and free space (df -h {path.parent}), or write elsewhere",
        ) from error


def prepare(path: Path) -> None:
    """Make the folder of a file that is to be written, and try that it can be. Leaves no file that was not there.

    Raises:
        StreamError: it cannot be written, or the disk is full.
    """
    prepare_folder(path.parent)
    with writing(path):
        existed = path.exists()
        path.open("ab").close()
        if not existed:
            path.unlink()


def prepare_folder(folder: Path) -> None:
    """Make a folder that is to be written to, and try that it can be. Raises StreamError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    check_space(folder)


def check_space(path: Path) -> None:
    """Raises StreamError where less than RESERVE_BYTES are free on the disk of a folder, or of a file to be in it."""
    folder = path if path.is_dir() else path.parent
    with writing(path):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < RESERVE_BYTES:
        raise StreamError(
            f"{path}: the disk is full, {free_bytes} bytes are left", hint=f"free some space (df -h {folder}), or write elsewhere"
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a whole file at once: a reader finds the old contents or the new. Raises StreamError."""
    with writing(path):
        replace_file(path, data)
