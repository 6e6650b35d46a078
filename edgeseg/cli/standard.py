"""stdin, stdout and stderr as the shell left them: closed, ASCII, read by nobody. None of it is worth a
traceback.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from edgeseg.files import silence
from edgeseg.text import ENCODING_ERRORS

READER_GONE = 141
"""Exit code where whoever read our output is gone: what a shell shows of any command that SIGPIPE ended."""


def settle() -> None:
    """Make the standard streams usable for a command, whatever they are. For the entry point, before anything
    is printed.

    Streams that are closed (`2>&-`) lead to /dev/null, so that no file of ours is opened in their place and
    printed into. What an encoding lacks is shown as an escape. Messages that nobody can read any more (a
    closed terminal, a pipe without a reader) are dropped, and the work goes on: its result counts.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number: this one
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError):
            sys.stdout.reconfigure(errors=ENCODING_ERRORS)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Messages(
            sys.stderr.detach(),
            encoding=sys.stderr.encoding,
            errors=ENCODING_ERRORS,
            line_buffering=True,
            write_through=True,
        )


class _Messages(io.TextIOWrapper):
    """stderr: a message that cannot be delivered ends nothing."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        with suppress(OSError, ValueError):
            silence(2)
