"""Bundles on disk: hashing, durable writes, the lock, and the swap that makes a new bundle appear at once.

A bundle NAME is made in a hidden sibling `.NAME.new`, flushed to the disk, and then renamed into place. A
bundle that was there is first renamed to `.NAME.old` and removed last. Whatever happens on the way (an
exception, a full disk, kill -9, a power cut), one complete bundle is left: NAME itself, or, between the two
renames, `.NAME.old`, which the next opening or making puts back.

All who write hold an exclusive lock on the hidden sibling `.NAME.lock`. The system drops the lock with its
process, so a `.new` or `.old` that the holder of the lock finds belongs to nobody and is cleaned up without
guessing. The empty lock file stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from edgeseg.bundle.manifest import MANIFEST, FileEntry, Manifest
from edgeseg.errors import BundleError
from edgeseg.files import can_replace, file_sha256, refusals, sync_folder
from edgeseg.text import quoted, shown

_CHUNK_BYTES = 1 << 20


def hash_file(path: Path) -> FileEntry:
    """Size and sha256 of a file. Raises OSError."""
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def write_file(path: Path, data: bytes) -> FileEntry:
    """Write a new file, with its folders, through to the disk; its size and sha256. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def copy_file(source: Path, path: Path) -> FileEntry:
    """Copy to a new file, with its folders, through to the disk; size and sha256 of what was copied. Raises
    OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as reader, open(path, "wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return FileEntry(sha256=digest.hexdigest(), bytes=size)


def sync_folders(root: Path) -> None:
    """Flush the entries of a folder and all below it, so that a power cut keeps names as well as bytes."""
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))


def difference(path: Path, expected: FileEntry) -> str | None:
    """What is wrong with a file, as the end of a sentence; None where it is what the manifest says."""
    try:
        found = hash_file(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found.bytes != expected.bytes:
        return f"was changed or cut short: expected {expected.bytes} bytes, found {found.bytes}"
    if found.sha256 != expected.sha256:
        return f"was changed: expected sha256 {expected.sha256}, found {found.sha256}"
    return None


def clear_unnamed(bundle: Path, manifest: Manifest) -> None:
    """Remove what no manifest entry names: folders of replaced engines, and what builds that were killed
    left. For the only writer of a bundle."""
    for half_written in bundle.glob(f".{MANIFEST}.*.tmp"):
        half_written.unlink(missing_ok=True)
    engines = bundle / "engines"
    named = {
        path.split("/")[1]
        for entry in manifest.engines
        for path in entry.files
        if path.startswith("engines/")
    }
    for folder in engines.iterdir() if engines.is_dir() else ():
        if folder.name not in named:
            # What cannot be removed now is tried again by the next build; nothing reads it.
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(bundle: Path) -> Iterator[None]:
    """Be the only writer of a bundle, among processes and threads; waits for others.

    Raises:
        BundleError: the folder around the bundle cannot be written.
    """
    lock = _sibling(bundle, "lock")
    with writing(bundle):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def writing(bundle: Path) -> AbstractContextManager[None]:
    """Turn what the disk refuses into a BundleError."""
    return refusals(
        bundle, BundleError, f"check free space and permissions in {bundle.parent}, or choose another place"
    )


def real_path(path: str | os.PathLike[str]) -> Path:
    """Absolute, links resolved: a replaced bundle stays behind the link that names it.

    Raises:
        BundleError: its name is not text; runtimes cannot open what lies in it.
    """
    real = Path(os.path.realpath(path))
    if shown(real) != str(real):
        raise BundleError(
            f"{shown(real)}: runtimes open nothing whose name is not UTF-8", hint="rename the folder"
        )
    return real


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise BundleError where `staged` could not put a bundle in the end, before hours of work end in
    that.
    """
    bundle = real_path(path)
    with writing(bundle):
        _check_vacant(bundle)
        bundle.parent.mkdir(parents=True, exist_ok=True)
    with writing(bundle), locked(bundle):
        recover(bundle)
        _check_vacant(bundle)
        _sibling(bundle, "new").mkdir()
        recover(bundle)


def _check_vacant(bundle: Path) -> None:
    if bundle.exists() and not (bundle / MANIFEST).is_file() and not _is_empty_folder(bundle):
        raise BundleError(
            f"{bundle} exists and is not a bundle; it is left alone", hint="choose another place with -o"
        )
    if not can_replace(bundle):
        raise BundleError(
            f"{bundle} is a mounted folder, and a new bundle cannot take its place",
            hint=f"mount the folder around it, or choose a place in it: -o {quoted(bundle / 'NAME.edgeseg')}",
        )


def check_writable(bundle: Path) -> None:
    """Raise BundleError where nothing could be added to a bundle, before hours of work end in that."""
    engines = bundle / "engines"
    with locked(bundle), writing(bundle):
        for folder in (bundle, *([engines] if engines.is_dir() else [])):
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{MANIFEST}.", suffix=".tmp"):
                pass


@contextmanager
def staged(bundle: Path) -> Iterator[Path]:
    """An empty folder to fill; takes the place of `bundle` at the end of the block, or leaves no trace where
    the block fails.

    Raises:
        BundleError: cannot write, or `bundle` exists and is something else than a bundle.
    """
    with writing(bundle):
        _check_vacant(bundle)
        bundle.parent.mkdir(parents=True, exist_ok=True)
    with writing(bundle), locked(bundle):
        recover(bundle)
        _check_vacant(bundle)
        new = _sibling(bundle, "new")
        try:
            new.mkdir()
            yield new
            sync_folders(new)
            if bundle.exists():
                os.rename(bundle, _sibling(bundle, "old"))
            os.rename(new, bundle)
            sync_folder(bundle.parent)
        finally:
            recover(bundle)


def interrupted(bundle: Path) -> bool:
    """True where a replacement was cut off between its two renames, so that the bundle lies aside."""
    return not bundle.exists() and _sibling(bundle, "old").exists()


def recover(bundle: Path) -> None:
    """Put back or clear away what an interrupted replacement left. Only for the holder of the lock."""
    new, old = _sibling(bundle, "new"), _sibling(bundle, "old")
    if interrupted(bundle):
        os.rename(old, bundle)
    for leftover in (new, old):
        # What cannot be removed now is tried again by the next writer; the bundle itself is whole.
        shutil.rmtree(leftover, ignore_errors=True)


def _sibling(bundle: Path, suffix: str) -> Path:
    return bundle.with_name(f".{bundle.name}.{suffix}")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
