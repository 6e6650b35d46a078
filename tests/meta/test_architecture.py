"""What docs/architecture.md names is there."""

from __future__ import annotations

import re

import pytest

from locations import REPOSITORY

TEXT = (REPOSITORY / "docs" / "architecture.md").read_text()
NAMES = re.findall(r"`([^`]+)`", TEXT)
PATHS = sorted({re.match(r"[\w/.]+", name)[0] for name in NAMES if "/" in name and "[" not in name})  # type: ignore[index]
WORDS = sorted(
    {word for name in NAMES for word in re.findall(r"\b(?:[A-Z]\w+|\w+_\w+)$", name) if "/" not in word}
)
SOURCES = "\n".join(path.read_text() for path in (REPOSITORY / "edgeseg").rglob("*.py"))


@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str) -> None:
    assert (REPOSITORY / path).exists() or (REPOSITORY / "edgeseg" / path).exists()


@pytest.mark.parametrize("word", WORDS)
def test_names(word: str) -> None:
    assert re.search(rf"(class|def) {word}\b", SOURCES)
