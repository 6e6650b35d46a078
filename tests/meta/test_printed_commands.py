"""Every path that a printed command holds is quoted: what the program says to type can be typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

EDGESEG = Path(__file__).parents[2] / "edgeseg"
COMMAND = re.compile(
    r"(?:\b(?:edgeseg (?:\w+ )+|ffmpeg |ffprobe |fuser |ln -s |df -h )|--(?:init|checkpoint|out|source)"
    r" |(?:^| )-[io] )\S*$"
)
"""The end of a text after which a word of a command follows."""
PLAIN = {
    "FORMAT",
    "RECIPE_AND_ROOT",
    "compiles",
    "index",
    "home",
    "level",
    "order.module",
    "256 << 20",
    "chosen.seed",
    "len(made.images)",
}
"""Numbers, and names that we gave."""


def unquoted(source: str) -> Iterator[tuple[int, str]]:
    """Line and expression of every value in an f-string that stands as a word of a command and is not
    quoted.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        said = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                said += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                text = ast.unparse(part.value)
                if COMMAND.search(said) and not text.startswith("quoted(") and text not in PLAIN:
                    yield part.value.lineno, text
                said += "X"


@pytest.mark.parametrize(
    "path", sorted(EDGESEG.rglob("*.py")), ids=lambda path: path.relative_to(EDGESEG).as_posix()
)
def test_every_word_of_a_printed_command_is_quoted(path: Path) -> None:
    assert list(unquoted(path.read_text())) == []


def test_the_rule_sees_what_it_is_for() -> None:
    found = list(
        unquoted(
            'f"next: edgeseg run {bundle.path} --source {quoted(x)} --init {y}"\nf"df -h {folder}"\nf"an'
            ' edgeseg {word}"'
        )
    )
    assert [text for _, text in found] == ["bundle.path", "y", "folder"]
