"""What the operating system can do to a file, known here and to nobody else: full, read-only, busy, a device,
a link, a FIFO.

A whole file is written beside its place and renamed into it, so that readers find the old contents or the
new, never half of either. What a path names decides how:

    a file, or nothing yet     renamed into place, with the earlier file's mode and owner; other hard links
                               keep the old contents
    a link                     what it leads to, by the same rules; the link stays
    a mounted file, or one in  written in place, since nothing can be renamed there; the old contents come
    a folder that takes none   back where that fails
    a device, FIFO, /dev/fd/N  written through; a FIFO waits for its reader, but not for ever
    a folder                   refused
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeseg.text import quoted

READER_PATIENCE_S = 30.0
"""How long a FIFO waits for somebody to read it."""

_POLL_S = 0.05
_CHUNK_BYTES = 1 << 20
_CANNOT_RENAME = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EROFS)
_DESCRIPTOR = re.compile(r"(?:/proc/(\d+)(?:/task/\d+)?|/dev)/fd/(\d+)")
_MOST_LINKS = 40
_CLUTTER = re.compile(
    r"\..*|@eaDir|#recycle|\$RECYCLE\.BIN|System Volume Information|__MACOSX|Thumbs\.db|desktop\.ini",
    re.IGNORECASE | re.DOTALL,
)


class Target:
    """The place of one whole file that some work writes at its end. Making it tries the place, before that
    work.

    The folder is made where it is missing. A FIFO is opened now and held, so that its reader is there at the
    end.

    Args:
        error, hint: what is raised where it cannot be written, now or later; see `refusals`.
    """

    def __init__(self, path: Path, error: Callable[..., Exception], hint: str = "") -> None:
        self.path = path
        self._error, self._hint = error, hint
        with refusals(path, error, hint):
            self._stream = open_stream(path)
            if self._stream is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                _try(followed(path))

    @classmethod
    def of(cls, place: Path | Target, error: Callable[..., Exception], hint: str = "") -> Target:
        """The target itself, or one of a path, tried now."""
        return place if isinstance(place, Target) else cls(place, error, hint)

    def write(self, data: bytes, *, durable: bool = False) -> None:
        """Put the contents there, as `replace_file` does."""
        stream, self._stream = self._stream, None
        with refusals(self.path, self._error, self._hint):
            if stream is None:
                replace_file(self.path, data, durable=durable)
            else:
                _write_all(stream, data)


@contextmanager
def refusals(path: Path, error: Callable[..., Exception], hint: str = "") -> Iterator[None]:
    """Turn an OSError inside the block into the caller's kind of error, which names the path and what stands
    in the way.

    Args:
        error: an EdgesegError; called with a message and `hint`.
        hint: what to do; by default what helps against this refusal.
    """
    try:
        yield
    except OSError as refused:
        raise error(
            f"{path}: cannot be written: {refused.strerror or refused}", hint=hint or _way_out(path, refused)
        ) from refused


def write_whole(path: Path, data: bytes, error: Callable[..., Exception], hint: str = "") -> None:
    """Write a whole file as `replace_file` does, with its folder; what is refused is raised as by
    `refusals`.
    """
    with refusals(path, error, hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, hex, read piece by piece. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def json_digest(value: Any, **options: Any) -> str:
    """Return the sha256, hex, of a JSON value with its keys in order: equal for equal values only.

    Args:
        options: of json.dumps, for digests whose text is written another way.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, **options).encode()).hexdigest()


def replace_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Put new contents in the place of a file at once; on failure the earlier file is untouched and nothing
    is left behind.

    Args:
        durable: return only when contents and name would survive a power cut.
    Raises:
        OSError: the disk is full, the folder is missing, or nothing can be written there.
    """
    stream = open_stream(path)
    if stream is not None:
        _write_all(stream, data)
        return
    place = followed(path)
    earlier = _earlier(place)
    if earlier is not None and not os.access(place, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not can_replace(place):
        _write_in_place(place, data, durable)
        return
    try:
        descriptor, temporary = _beside(place)
    except OSError as refused:
        if earlier is None or refused.errno not in _CANNOT_RENAME:
            raise
        _write_in_place(place, data, durable)
        return
    try:
        try:
            _keep_owner(descriptor, earlier)
        finally:
            _write_all(descriptor, data, durable=durable)
        try:
            os.replace(temporary, place)
        except OSError as refused:
            if earlier is None or refused.errno not in _CANNOT_RENAME:
                raise
            _write_in_place(place, data, durable)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(place.parent)


def open_stream(path: Path, patience_s: float = READER_PATIENCE_S) -> int | None:
    """A descriptor to write to what is no file: a device, a FIFO, a descriptor of ours, `-` for stdout. None
    for files.

    Raises:
        OSError: no reader came to a FIFO, or the device refuses.
    """
    number = _own_descriptor(path)
    if number is not None:
        if number == 1:
            sys.stdout.flush()  # what was printed before stands before
        return os.dup(number)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISFIFO(mode):
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    give_up_s = time.monotonic() + patience_s
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() >= give_up_s:
                raise OSError(
                    errno.ENXIO, f"it is a FIFO, and in {patience_s:g} s nobody came to read it", str(path)
                ) from None
            time.sleep(_POLL_S)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def followed(path: Path) -> Path:
    """Where a path leads, absolute: links are followed, also one to a file that is not there yet.

    Raises:
        OSError: links in a circle, or a name that the disk does not take.
    """
    with suppress(FileNotFoundError):
        os.stat(path)
    return Path(os.path.realpath(path))


def is_stdout(path: Path) -> bool:
    """Whether what is written to a path comes out where results are printed."""
    return _own_descriptor(path) == 1


def is_stream(path: Path) -> bool:
    """Whether a path names a device, a FIFO or a descriptor: something that takes bytes and keeps no file."""
    if _own_descriptor(path) is not None:
        return True
    with suppress(OSError, ValueError):
        mode = os.stat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def can_replace(path: Path) -> bool:
    """False where a file or folder is a mount point, as `docker -v FILE:FILE` makes one: nothing can take its
    name.
    """
    mounts = [_mount_of(path), _mount_of(path.parent)]
    return None in mounts or mounts[0] == mounts[1]


def is_clutter(name: str) -> bool:
    """Whether a file or folder is there for a file manager, not for us: dot files, thumbnails of Windows and
    of network disks.
    """
    return _CLUTTER.fullmatch(name) is not None


def silence(number: int) -> None:
    """Lead a descriptor of ours to /dev/null: whoever read it is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a power cut keeps names as well as bytes. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try(place: Path) -> None:
    """Raise OSError where `replace_file` could not write; leaves nothing."""
    earlier = _earlier(place)
    if earlier is not None:
        os.close(os.open(place, os.O_WRONLY | os.O_CLOEXEC))  # at worst it is written in place
        return
    descriptor, temporary = _beside(place)
    os.close(descriptor)
    temporary.unlink()
    os.stat(place.parent)
    with suppress(FileNotFoundError):
        os.lstat(place)  # raises where the name is too long


def _earlier(place: Path) -> os.stat_result | None:
    try:
        return os.stat(place)
    except FileNotFoundError:
        return None


def _beside(place: Path) -> tuple[int, Path]:
    """A new file in the same folder, hidden, under a name that is short enough for any disk."""
    stem = os.fsdecode(os.fsencode(place.name)[:100])
    temporary = place.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), temporary


def _keep_owner(descriptor: int, earlier: os.stat_result | None) -> None:
    """Give a new file the owner and mode of the one whose place it takes, as far as this user may."""
    if earlier is None:
        return
    ours = os.fstat(descriptor)
    if (ours.st_uid, ours.st_gid) != (earlier.st_uid, earlier.st_gid):
        with suppress(OSError):
            os.fchown(descriptor, earlier.st_uid, earlier.st_gid)
    with suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(earlier.st_mode))


def _write_in_place(place: Path, data: bytes, durable: bool) -> None:
    """Overwrite a file that nothing can be renamed onto; where that fails, its old contents are put back."""
    before = place.read_bytes() if os.access(place, os.R_OK) else None
    try:
        _overwrite(place, data, durable)
    except OSError:
        if before is not None:
            with suppress(OSError):
                _overwrite(place, before, durable)
        raise


def _overwrite(place: Path, data: bytes, durable: bool) -> None:
    _write_all(os.open(place, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC), data, durable=durable)


def _write_all(descriptor: int, data: bytes, *, durable: bool = False) -> None:
    """Write all of it and close."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _own_descriptor(path: Path) -> int | None:
    """The number of our descriptor that a path means, through links: `-`, /dev/stdout, /dev/fd/3,
    /proc/self/fd/3.
    """
    if os.fspath(path) == "-":
        return 1
    step = os.fspath(path)
    for _ in range(_MOST_LINKS):
        step = os.path.join(os.path.realpath(os.path.dirname(step)), os.path.basename(step))
        match = _DESCRIPTOR.fullmatch(step)
        if match and int(match[1] or os.getpid()) == os.getpid():
            return int(match[2])
        try:
            step = os.path.join(os.path.dirname(step), os.readlink(step))
        except (OSError, ValueError):
            return None
    return None


def _mount_of(path: Path) -> str | None:
    """Number of the mount that a path lies on; None where it is not there, or this system does not say."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return next((line for line in lines if line.startswith("mnt_id:")), None)


def _way_out(path: Path, refused: OSError) -> str:
    """What to do about a refusal."""
    known = {
        errno.EISDIR: "give a file in it",
        errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
        errno.EEXIST: "a part of the path is a file, not a folder; choose another path",
        errno.ELOOP: "the link leads back to itself; remove it, or choose another path",
        errno.ENAMETOOLONG: "choose a shorter name; disks take 255 bytes",
        errno.ENXIO: "start its reader first, or write to a file",
        errno.EPIPE: "its reader is gone; write to a file",
    }
    if refused.errno in known:
        return known[refused.errno]
    return f"check permissions and free space (df -h {quoted(path.parent)}), or write elsewhere"
