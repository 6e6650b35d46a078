"""The shell's view: exit codes, hints, --json, --debug, Ctrl-C, a closed pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgeseg import errors
from edgeseg.cli import main, render

INTERRUPTED = ImportError("initialization failed")  # as pybind11 raises it
INTERRUPTED.__cause__ = KeyboardInterrupt()
RAISED = {
    "recipe": errors.RecipeError("bad key", hint="edit it"),
    "data": errors.DataError("no image", hint="add it"),
    "missing": errors.MissingDependency("cv2", extra="video", purpose="read videos"),
    "gate": errors.GateFailed(
        "too slow", hint="raise the gate", report={"miou": float("nan"), "file": Path("a.json")}
    ),
    "bundle": errors.IntegrityError("bad hash", hint="copy again"),
    "stream": errors.StreamError("no camera", hint="plug it in"),
    "ctrl-c": KeyboardInterrupt(),
    "ctrl-c in an import": INTERRUPTED,
    "no such name": ImportError("cannot import name 'x'"),
    "no torch": ModuleNotFoundError("No module named 'torch'", name="torch"),
    "bug": ZeroDivisionError("a bug"),
    "our import": ModuleNotFoundError("No module named 'edgeseg.nothing'", name="edgeseg.nothing"),
}


@click.command("fail")
@click.argument("kind")
@render.json_option
def fail(kind: str, as_json: bool) -> None:
    """Fail as asked."""
    raise RAISED[kind]


@click.group("group")
def group() -> None:
    """A nested group."""


group.add_command(fail)


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.COMMANDS, "fail", main.Row(__name__, "fail", "Fail as asked"))
    monkeypatch.setitem(main.COMMANDS, "group", main.Row(__name__, "group", "A nested group"))


@pytest.mark.parametrize(
    "kind,code",
    [
        ("recipe", 2),
        ("data", 3),
        ("missing", 4),
        ("gate", 5),
        ("bundle", 6),
        ("stream", 7),
        ("ctrl-c", 130),
        ("ctrl-c in an import", 130),
    ],
)
def test_each_branch_has_its_exit_code(kind: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["fail", kind]) == code
    assert capsys.readouterr().out == ""


def test_an_error_says_what_happened_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["fail", "missing"])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: the package 'cv2' is needed to read videos, and it is not installed",
        "hint: pip install 'edgeseg[video]'",
    ]


def test_json_errors_are_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["fail", "gate", "--json"]) == 5
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "error": {
            "type": "GateFailed",
            "message": "too slow",
            "hint": "raise the gate",
            "exit_code": 5,
            "report": {"miou": None, "file": "a.json"},
        }
    }
    assert shown.err.startswith("error: too slow")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["fail", "ctrl-c"])
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize("line", [["--debug", "fail", "data"], ["fail", "data", "--debug"]])
def test_debug_lets_the_traceback_through(line: list[str]) -> None:
    with pytest.raises(errors.DataError):
        main.run(line)


@pytest.mark.parametrize("kind", ["bug", "our import", "no such name"])
def test_bugs_are_not_dressed_up(kind: str) -> None:
    with pytest.raises(type(RAISED[kind])):
        main.run(["fail", kind])


def test_a_room_whose_package_is_absent_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["fail", "no torch"]) == 4
    assert "hint: pip install 'edgeseg[train]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line,nearest,hint",
    [(["trian"], "'train'", "edgeseg --help"), (["group", "fial"], "'fail'", "edgeseg group --help")],
)
def test_a_mistyped_command_is_offered_the_nearest(
    line: list[str], nearest: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(line) == 2
    shown = capsys.readouterr().err
    assert f"Did you mean {nearest}?" in shown
    assert f"hint: {hint}" in shown


@pytest.mark.parametrize("line", [["fail"], ["fail", "recipe", "--jsno"], ["--no-such-option"]])
def test_usage_errors_exit_2_with_a_hint(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(line) == 2
    assert "hint: edgeseg" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 2
    shown = capsys.readouterr().err
    assert "Commands:" in shown
    assert "error:" not in shown


def test_a_closed_pipe_is_quiet() -> None:
    # A reader that takes nothing; the help is longer than no pipe buffer, so the failure shows at the flush.
    code = (
        "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); from edgeseg.cli.main import main;"
        " main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 141
