"""Files of the kernel and of the system, of which any may be absent, unreadable, or not what it should be."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str:
    """Read a file; "" where it cannot be read. Unbuffered: a server tells of its clocks in a thousand
    small files.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return file.readall().decode("utf-8", errors="replace")
    except OSError:
        return ""
