"""The `edgeseg` command: a table of commands, and what errors look like at the shell.

Help is drawn from the table and a command's module is imported only when the command runs, so `edgeseg
--help` costs little more than Python itself and `edgeseg run` never meets torch.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import click

from edgeseg import __version__
from edgeseg.cli.standard import READER_GONE, settle
from edgeseg.cli.termination import Termination, interrupted
from edgeseg.errors import EdgesegError, MissingDependency, ReaderGone
from edgeseg.files import silence
from edgeseg.text import shown


class Row(NamedTuple):
    """Where a command lives and what it does, in one line."""

    module: str
    attribute: str
    summary: str


COMMANDS: dict[str, Row] = {
    "demo": Row("edgeseg.cli.demo", "demo", "Build, verify and run the shipped model on a street video"),
    "train": Row("edgeseg.cli.train", "train", "Train a recipe's model; resumes where it stopped"),
    "calib": Row("edgeseg.cli.calib", "calib", "Choose and check the images that INT8 is calibrated on"),
    "sensitivity": Row(
        "edgeseg.cli.sensitivity", "sensitivity", "Measure what each layer costs in INT8; hold a budget"
    ),
    "isr": Row("edgeseg.cli.isr", "isr", "Choose an ISR plan by measured accuracy and time"),
    "quantize": Row(
        "edgeseg.cli.quantize",
        "quantize",
        "Turn a float checkpoint into an INT8 bundle, and measure the cost",
    ),
    "export": Row(
        "edgeseg.cli.export", "export", "Turn a checkpoint into a bundle: ONNX program, golden frames"
    ),
    "build": Row("edgeseg.cli.build", "build", "Build a bundle's engine for this machine"),
    "eval": Row("edgeseg.cli.eval", "eval_", "Measure a bundle's mIoU on a data set, per class"),
    "run": Row("edgeseg.cli.run", "run", "Segment a video, a folder, a camera or a synthetic scene"),
    "data": Row("edgeseg.cli.data", "data", "Check a data set before training on it"),
    "models": Row("edgeseg.cli.models", "models", "List the models that a recipe can name"),
    "report": Row("edgeseg.cli.report", "report", "Draw the training curve of a run"),
    "parity": Row(
        "edgeseg.cli.parity",
        "parity",
        "Compare model, ONNX graph and engine; show the first mismatch",
    ),
    "weights": Row("edgeseg.cli.weights", "weights", "Import published checkpoints; halve the size of one"),
    "bundle": Row("edgeseg.cli.bundle", "bundle", "Show a bundle, or verify it on its golden frames"),
    "recipe": Row("edgeseg.cli.recipe", "recipe", "List, show and check recipes; JSON schema for editors"),
    "devices": Row("edgeseg.cli.devices", "devices", "List devices and runtimes for each; show this machine"),
    "doctor": Row(
        "edgeseg.cli.doctor",
        "doctor",
        "Check this machine: runtimes, known problems, install commands",
    ),
}

EXTRAS = {"torch": "train", "onnx": "train", "safetensors": "train", "PIL": "video", "cv2": "video"}
"""Optional packages that whole rooms are written in: import name -> the extra that brings it."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def _readers_told() -> Iterator[None]:
    """Let a pipe that lost its reader reach `run`; click would make exit code 1 of it."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone("stdout") from error
    except SystemExit as error:  # rich ends the program itself
        if isinstance(error.__context__, BrokenPipeError):
            raise ReaderGone("stdout") from error
        raise


class LazyGroup(click.Group):
    """A group whose commands are the rows of `COMMANDS`."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _readers_told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _readers_told():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        row = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(row.module), row.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{row.module}:{row.attribute} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=error.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.summary) for name, row in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 2 recipe or usage, 3 data, 4 not supported here, 5 build or gate, 6 bundle, 7 stream; "
        "130 interrupted, 143 SIGTERM, 129 SIGHUP, 141 where the reader of the output went away."
    ),
)
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show tracebacks; may stand anywhere in the line."
)
@click.version_option(__version__, message="edgeseg %(version)s")
def root() -> None:
    """Compact semantic-segmentation transformers, from a recipe to a camera."""


def run(args: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code. Bugs leave as plain
    exceptions.
    """
    with Termination() as termination:
        try:
            return _run(args, termination)
        except (BrokenPipeError, ReaderGone):
            # The reader of our output is gone (`edgeseg ... | head`): nothing to say, and nobody to say it
            # to.
            with suppress(OSError):
                silence(sys.stdout.fileno())
            return READER_GONE


def _run(args: Sequence[str], termination: Termination) -> int:
    debug = "--debug" in args
    try:
        try:
            _check_words(args)
            words = [arg for arg in args if arg != "--debug"]
            code = root.main(words, prog_name="edgeseg", standalone_mode=False, obj=termination)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in EXTRAS:
                raise
            raise MissingDependency(package, extra=EXTRAS[package], purpose="run this command") from error
        except ImportError as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            raise click.Abort from error  # what Ctrl-C becomes while a compiled package starts
        except (UnicodeEncodeError, OSError) as error:
            if debug or isinstance(error, BrokenPipeError) or (told := _of_the_system(error)) is None:
                raise
            raise told from error
        # Here rather than at interpreter exit, where a closed pipe would print a complaint.
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (EdgesegError, click.ClickException) as error:
        if debug or isinstance(error, ReaderGone):
            raise
        from edgeseg.cli import render

        return render.error(error, as_json="--json" in args)
    except click.Abort as error:  # click's name for Ctrl-C
        click.echo(
            (
                "terminated"
                if termination.asked or getattr(error.__cause__, "signal", 2) != 2
                else "interrupted"
            ),
            err=True,
        )
        return interrupted(termination, error.__cause__)


def _check_words(args: Sequence[str]) -> None:
    """Raise UsageError for a name that is not UTF-8: what is written of it, recipes, reports, JSON, could not
    name it.
    """
    for word in args:
        if shown(word) != word:
            raise click.UsageError(
                f"{shown(word)}: the name is not text in {sys.getfilesystemencoding().upper()}; give the file"
                " another name, lead to it with a link of another name (ln -s), or set PYTHONUTF8=1 where"
                " the locale is the cause"
            )


def _of_the_system(error: UnicodeEncodeError | OSError) -> EdgesegError | None:
    """An error that the disk or a file's name is to blame for, in words; None where it may be our mistake."""
    if isinstance(error, UnicodeEncodeError):
        if shown(error.object) == error.object:
            return None
        return EdgesegError(
            f"{shown(error.object)}: a library cannot take this name, which is not UTF-8",
            hint="rename the file or its folder",
        )
    if error.filename is None and error.errno not in _DISK:
        return None
    where = f"{shown(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
    return EdgesegError(
        f"{where}{error.strerror or error}",
        hint="check the path, permissions and free space; --debug shows where",
    )


def main() -> None:
    """Entry point of the console script."""
    settle()
    sys.exit(run(sys.argv[1:]))
