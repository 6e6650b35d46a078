"""A file that must be scrolled through twice holds two things."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "edgeseg"
LIMIT_LINES = 400


def test_no_source_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert lengths
    assert {name: lines for name, lines in lengths.items() if lines > LIMIT_LINES} == {}
