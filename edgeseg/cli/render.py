"""The only file that formats for people: results on stdout, errors and progress on stderr, percent, units and
tables.

rich is imported where something is drawn with it, so that `--json` and `--help` do without.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from edgeseg.errors import EdgesegError, GateFailed, ParityError
from edgeseg.files import is_stdout
from edgeseg.text import json_text, plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
    from rich.table import Table

    from edgeseg.contracts import Progress

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead of text."
)
"""Decorator: adds --json as the parameter `as_json`."""


def result(
    data: Mapping[str, Any],
    as_json: bool,
    human: Callable[[], RenderableType | Sequence[RenderableType]],
    *,
    file: Path | None = None,
) -> None:
    """Print a command's result on stdout.

    Args:
        data: JSON values; paths, dataclasses and numpy numbers are converted, NaN and infinities become null.
        as_json: print `data` as exactly one JSON document.
        human: makes the form for people, a string (printed as it is) or anything rich can draw, or a list of
            these.
        file: what the command wrote; where that was stdout, nothing else is printed there.
    """
    if file is not None and is_stdout(file):
        return
    if as_json:
        click.echo(json_text(plain(data), indent=2))
        return
    shown = human()
    for part in shown if isinstance(shown, list | tuple) else [shown]:
        if isinstance(part, str):
            click.echo(part)
        else:
            _stdout_console().print(part)


def error(failure: EdgesegError | click.ClickException, as_json: bool) -> int:
    """Print what went wrong and what to do next on stderr (with `as_json` also as JSON on stdout); returns
    the exit code.
    """
    if isinstance(failure, click.exceptions.NoArgsIsHelpError):
        failure.show()
        return failure.exit_code
    if isinstance(failure, EdgesegError):
        message, hint = str(failure), failure.hint
    else:
        context = failure.ctx if isinstance(failure, click.UsageError) else None
        message, hint = failure.format_message(), f"{context.command_path if context else 'edgeseg'} --help"
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    click.secho("hint: ", fg="cyan", bold=True, nl=False, err=True)
    click.echo(hint, err=True)
    if as_json:
        document = {
            "type": type(failure).__name__,
            "message": message,
            "hint": hint,
            "exit_code": failure.exit_code,
        }
        if isinstance(failure, ParityError | GateFailed):
            document["report"] = failure.report
        click.echo(json_text({"error": plain(document)}, indent=2))
    return failure.exit_code


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table. None is shown as "-", columns of numbers are set flush right, and text is shown as it is: no
    markup.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    drawn = Table(
        title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        drawn.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(_cell(value)) for value in row))
    return drawn


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.5273 -> "52.7 %"; None and NaN -> "-"."""
    return "-" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f} %"


def size(count_bytes: float) -> str:
    """10_500_000 -> "10.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000 or unit == "GB":
            break
        count_bytes /= 1000
    return f"{count_bytes:.0f} B" if unit == "B" else f"{count_bytes:.1f} {unit}"


def duration(seconds: float) -> str:
    """0.0123 -> "12.3 ms", 75 -> "1:15", 3700 -> "1:01:40"."""
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RichProgress:
    """An `edgeseg.contracts.Progress` on stderr, used as a context manager.

    On a terminal: bars with rate, time left and the caller's figures. Elsewhere: one plain line every
    `interval_s`, and one at the end of each task.
    """

    def __init__(self, interval_s: float = 10.0) -> None:
        self._interval_s = interval_s
        self._to: _Bars | _Lines | None = None

    def __enter__(self) -> RichProgress:
        on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._to = _Bars() if on_terminal else _Lines(self._interval_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    @property
    def _shown(self) -> _Bars | _Lines:
        if self._to is None:
            raise RuntimeError("RichProgress is used inside its `with` block")
        return self._to

    def start(self, task: str, total: int | None) -> None:
        self._shown.start(task, total)

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self._shown.advance(task, steps, **figures)

    def finish(self, task: str) -> None:
        self._shown.finish(task)

    def message(self, text: str) -> None:
        self._shown.message(text)


class _Bars:
    """Progress on a terminal."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        class Rate(progress.ProgressColumn):
            def render(self, task: progress.Task) -> str:
                speed = task.finished_speed or task.speed
                return _rate(speed) if speed else ""

        self._bars: Bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.MofNCompleteColumn(),
            Rate(),
            progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
            speed_estimate_period=60.0,
        )
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()

    def start(self, task: str, total: int | None) -> None:
        if task in self._tasks:
            self._bars.remove_task(self._tasks[task])
        self._tasks[task] = self._bars.add_task(task, total=total, figures="")

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        if figures:
            self._bars.update(self._tasks[task], advance=steps, figures=_figures(figures))
        else:
            self._bars.advance(self._tasks[task], steps)

    def finish(self, task: str) -> None:
        # A task without a total ends full, not pulsing.
        number = self._tasks[task]
        done = self._bars.tasks[self._bars.task_ids.index(number)].completed
        self._bars.update(number, total=done)
        self._bars.stop_task(number)
        self._bars.refresh()

    def message(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        self._bars.stop()


@dataclass
class _Line:
    total: int | None
    started_s: float
    printed_s: float
    done: int = 0
    printed_done: int = 0
    figures: dict[str, float | str] = field(default_factory=dict)


class _Lines:
    """Progress in a log file: plain lines, not too many."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._lines: dict[str, _Line] = {}

    def start(self, task: str, total: int | None) -> None:
        now_s = time.monotonic()
        self._lines[task] = _Line(total, started_s=now_s, printed_s=now_s)

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        line = self._lines[task]
        line.done += steps
        line.figures.update(figures)
        now_s = time.monotonic()
        if now_s - line.printed_s < self._interval_s:
            return
        # The rate since the last line: the first steps and those skipped by a resumed run do not blur it.
        rate = (line.done - line.printed_done) / (now_s - line.printed_s)
        line.printed_s, line.printed_done = now_s, line.done
        parts = [f"{task}: {line.done}"]
        if line.total:
            parts[0] += f"/{line.total} ({percent(line.done / line.total, 0)})"
        parts.append(_rate(rate))
        if line.total and rate > 0:
            parts.append(f"{duration(max(0, line.total - line.done) / rate)} left")
        self.message(", ".join(part for part in (*parts, _figures(line.figures)) if part))

    def finish(self, task: str) -> None:
        line = self._lines.pop(task)
        parts = (
            f"{task}: {line.done} in {duration(time.monotonic() - line.started_s)}",
            _figures(line.figures),
        )
        self.message(", ".join(part for part in parts if part))

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Nothing is held."""


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{per_s:.2g}/s"


def _figures(figures: Mapping[str, float | str]) -> str:
    return "  ".join(
        f"{name}={value if isinstance(value, str) else format(value, '.4g')}"
        for name, value in figures.items()
    )


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        value = value.removesuffix(" %").replace("-", "0", 1)
        return value.replace(".", "", 1).isdigit()
    return value is None or isinstance(value, int | float)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stdout_console() -> Console:
    from rich.console import Console

    # Into a pipe or a file tables keep their width: rich would fold them at 80 columns.
    return Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


if TYPE_CHECKING:
    _: type[Progress] = RichProgress
