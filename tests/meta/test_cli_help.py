"""Every command in the table exists, explains itself, and so does every command below it."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from edgeseg.cli import main


def lines(command: click.Command, path: list[str]) -> Iterator[list[str]]:
    yield path
    if isinstance(command, click.Group):
        for name, nested in command.commands.items():
            yield from lines(nested, [*path, name])


def load(name: str) -> click.Command:
    command = main.root.get_command(click.Context(main.root), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines(load(name), [name]):
        assert main.run([*line, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"Usage: edgeseg {' '.join(line)}" in shown
        body = shown.partition("\n\n")[2]
        assert body.strip().splitlines()[0] not in ("Options:", "Commands:"), f"{line} has no docstring"


NO_BEGINNING = ("Of", "What", "Which", "Whether", "How", "Where", "Who", "That", "Times")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_begins_with_a_verb_or_a_noun(name: str) -> None:
    texts = [main.COMMANDS[name].summary]
    for line in lines(load(name), [name]):
        command = load(line[0])
        for part in line[1:]:
            assert isinstance(command, click.Group)
            command = command.commands[part]
        texts += [command.help or ""]
        texts += [param.help or "" for param in command.params if isinstance(param, click.Option)]
    assert not [text for text in texts if text.partition(" ")[0] in NO_BEGINNING]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_no_two_options_of_a_command_share_a_name(name: str) -> None:
    for line in lines(load(name), [name]):
        command = load(line[0])
        for part in line[1:]:
            assert isinstance(command, click.Group)
            command = command.commands[part]
        names = [opt for param in command.params for opt in param.opts if isinstance(param, click.Option)]
        assert len(names) == len(set(names)), f"{line}: {names}"


@pytest.mark.parametrize(
    "name,nested", [("data", "check"), ("weights", "import"), ("bundle", "show"), ("bundle", "verify")]
)
def test_groups_hold_the_commands_that_are_promised(name: str, nested: str) -> None:
    group = load(name)
    assert isinstance(group, click.Group)
    assert nested in group.commands


def test_summaries_fit_one_line() -> None:
    assert all(len(f"  {name:9}{row.summary}") <= 80 for name, row in main.COMMANDS.items())
