"""What the README tells people to type and to open exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from edgeseg.cli import main
from edgeseg.recipe.schema import DATA_FORMATS
from edgeseg.stream.sinks import table as sinks
from edgeseg.stream.sources import table as sources

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted([*ROOT.glob("*/README.md"), *ROOT.glob("examples/*/README.md"), *ROOT.glob("docs/*.md")]),
]


def code(text: str) -> str:
    """Fenced blocks and inline code of a page."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return "\n".join((*fenced, *inline)).replace("\\|", "|")  # tables escape their bars


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    for line in re.findall(r"^\s*(?:\$ )?edgeseg +(\S.*)$", code(page.read_text()), re.MULTILINE):
        words = [word for word in line.split() if not word.startswith("-")]
        if not words:
            continue
        assert words[0] in main.COMMANDS, f"{page.name}: edgeseg {line}"
        command = main.root.get_command(click.Context(main.root), words[0])
        if isinstance(command, click.Group) and len(words) > 1:
            for nested in words[1].split("|"):
                assert nested in command.commands, f"{page.name}: edgeseg {line}"
            command = command.commands[words[1].split("|")[0]]
        known = (
            {option for param in command.params for option in param.opts} | {"--help", "--debug"}
            if command
            else set()
        )
        used = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", line.split("#")[0]))
        assert used <= known, f"{page.name}: edgeseg {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^\s*make ([a-z]+)", code(page.read_text()), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_map_of_the_house_names_every_room() -> None:
    text = (ROOT / "README.md").read_text()
    rooms = {
        path.name
        for path in (ROOT / "edgeseg").iterdir()
        if not path.name.startswith(("_", ".")) and path.suffix != ".typed"
    }
    assert {room for room in rooms if room not in text} == set()


@pytest.mark.parametrize("form", [*sources.FORMS, *sinks.FORMS], ids=lambda form: form.example)
def test_every_form_of_sources_and_sinks_is_told(form: sources.SourceForm | sinks.SinkForm) -> None:
    told = code((ROOT / "README.md").read_text())
    scheme = re.match(r"\w+:(//)?", form.example)
    assert (scheme[0] if scheme else form.example.split()[0].removeprefix("out")) in told


def test_every_data_format_is_told() -> None:
    told = (ROOT / "README.md").read_text()
    assert {name for name in DATA_FORMATS.rows if f"`{name}`" not in told} == set()
