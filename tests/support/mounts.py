"""Devices and mounts of a test's own, where root may make them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """/dev/null once more, so that no test can harm the machine's own."""
    node = tmp_path / "null"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs root")
    return node


@contextmanager
def mounted(source: Path, place: Path) -> Iterator[None]:
    if subprocess.run(["mount", "--bind", str(source), str(place)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
