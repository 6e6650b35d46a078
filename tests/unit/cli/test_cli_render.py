"""What people and programs get to see."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeseg.cli import render
from edgeseg.text import plain


@dataclass
class Figures:
    path: Path
    miou: float


def test_result_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    data = {
        "a": Figures(Path("x/y"), float("nan")),
        "b": np.float32(0.5),
        "c": np.arange(2),
        3: (True, None),
        "d": float("inf"),
    }
    render.result(data, True, lambda: pytest.fail("the human form was asked for"))
    assert json.loads(capsys.readouterr().out) == {
        "a": {"path": "x/y", "miou": None},
        "b": 0.5,
        "c": [0, 1],
        "3": [True, None],
        "d": None,
    }


def test_what_has_no_json_form_is_a_bug() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain({"a": object()})


def test_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    render.result(
        {}, False, lambda: ["[bold]file[/bold]:3", render.table("[t]", ["name"], [["[red]x[/red]"]])]
    )
    shown = capsys.readouterr().out
    assert "[bold]file[/bold]:3" in shown
    assert "[t]" in shown
    assert "[red]x[/red]" in shown


def test_numbers_stand_right_and_wide_tables_survive_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["road " + "x" * 90, "97.3 %", 5], ["sky", None, 12]]
    render.result({}, False, lambda: render.table("", ["class", "iou", "images"], rows))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "road " + "x" * 90 in "\n".join(lines)
    assert any(re.fullmatch(r" sky +- +12", line) for line in lines)


@pytest.mark.parametrize(
    "shown,expected",
    [
        (render.percent(0.5273), "52.7 %"),
        (render.percent(None), "-"),
        (render.percent(float("nan")), "-"),
        (render.size(999), "999 B"),
        (render.size(10_500_000), "10.5 MB"),
        (render.size(2.5e12), "2500.0 GB"),
        (render.duration(0.0123), "12.3 ms"),
        (render.duration(12.34), "12.3 s"),
        (render.duration(75), "1:15"),
        (render.duration(3700), "1:01:40"),
    ],
)
def test_units(shown: str, expected: str) -> None:
    assert shown == expected


def test_progress_in_a_log_is_few_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with render.RichProgress(interval_s=0.05) as progress:
        progress.start("train", 40)
        progress.message("resumed at [10]")
        progress.advance("train", 10)
        for _ in range(30):
            progress.advance("train", loss=0.4321987, lr="6e-05")
            time.sleep(0.005)
        progress.finish("train")
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == ""
    assert lines[0] == "resumed at [10]"
    assert 2 < len(lines) < 20
    assert re.fullmatch(r"train: \d+/40 \(\d+ %\), [\d.]+/s, .+ left, loss=0.4322  lr=6e-05", lines[1])
    assert re.fullmatch(r"train: 40 in .+, loss=0.4322  lr=6e-05", lines[-1])


def test_progress_on_a_terminal_draws_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with render.RichProgress() as progress:
        progress.start("read", None)
        progress.advance("read", 3, file="[x].png")
        progress.message("a [message]")
        progress.finish("read")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "a [message]" in text
    assert "3/3" in text
    assert "file=[x].png" in text


def test_progress_outside_its_block_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="with"):
        render.RichProgress().start("x", 1)
