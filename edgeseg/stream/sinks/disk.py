"""Writing results: what `edgeseg.files` refuses becomes a StreamError, and a full disk is noticed before it
is full.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from edgeseg.errors import StreamError
from edgeseg.files import Target, is_stream, refusals
from edgeseg.text import quoted

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

RESERVE_BYTES = 1 << 20
"""Left free by `check_space`: room for the index that ends a recording."""
_RESUME_BYTES = 64 << 20
_RESUME_SHARE = 0.1


def prepare(path: Path) -> Target:
    """The place of a file that is written at the end of a run, tried now, with its folder.

    Raises:
        StreamError: it cannot be written, or the disk is full.
    """
    target = Target(path, StreamError)
    if not is_stream(path):
        check_space(path)
    return target


def prepare_folder(folder: Path) -> None:
    """Make a folder that is to be written to, and try that it can be. Raises StreamError."""
    with refusals(folder, StreamError):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    check_space(folder)


def check_space(path: Path, beside_bytes: int = 0) -> None:
    """Raises StreamError where the disk of a folder, or of a file in it, has less than RESERVE_BYTES and
    `beside_bytes` free.
    """
    _require_free(path, RESERVE_BYTES + beside_bytes, _usage(path).free)


def check_space_to_resume(path: Path) -> None:
    """Raises StreamError until a disk that was full has room worth going on for: the lesser of 64 MiB and a
    tenth of it.

    Without this, every freed megabyte would become a recording of its own.
    """
    usage = _usage(path)
    _require_free(
        path, max(2 * RESERVE_BYTES, min(_RESUME_BYTES, int(_RESUME_SHARE * usage.total))), usage.free
    )


def lock_file(path: Path) -> BinaryIO:
    """Open a file to be written, made where it is missing, and hold it until it is closed, against other
    processes that do so.

    The lock ends with the process, however that ends. Contents stay.

    Raises:
        OSError: it cannot be written, or another process holds it.
    """
    file = path.open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise OSError(error.errno, "another run is writing it") from error
    return file


def _usage(path: Path) -> shutil._ntuple_diskusage:
    with refusals(path, StreamError):
        return shutil.disk_usage(path if path.is_dir() else path.parent)


def _require_free(path: Path, wanted_bytes: int, free_bytes: int) -> None:
    if free_bytes < wanted_bytes:
        folder = path if path.is_dir() else path.parent
        raise StreamError(
            f"{path}: the disk is full, {free_bytes} bytes are left",
            hint=f"free some space (df -h {quoted(folder)}), or write elsewhere",
        )
