"""edgeseg.files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.files import replace_file


@pytest.mark.parametrize("durable", [False, True])
def test_contents_are_replaced_and_nothing_else_is_left(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a"
    replace_file(path, b"one", durable=durable)
    replace_file(path, b"two", durable=durable)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_earlier_file() -> None:
    full = Path("/dev/shm/edgeseg-full-disk")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    full.unlink(missing_ok=True)
    replace_file(full, b"one")
    blocked = full.with_name(f".{full.name}.{os.getpid()}.tmp")
    blocked.symlink_to("/dev/full")
    try:
        with pytest.raises(OSError, match="No space left"):
            replace_file(full, b"two" * 10_000)
        assert full.read_bytes() == b"one"
        assert not blocked.is_symlink()
    finally:
        full.unlink()


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no" / "a", b"")
