"""SIGTERM, which service managers and schedulers send: a command obeys it as it obeys Ctrl-C, and exits with another code."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

EXIT_CODE, _CTRL_C = 143, 130


class Termination:
    """SIGTERM as Ctrl-C: the first one inside the `with` block raises KeyboardInterrupt in the main thread; `asked` remembers it.

    Further ones change nothing: the end is on its way. A forked child ends at once, as it would without this. Off the main
    thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._process = os.getpid()

    def __enter__(self) -> Self:
        self._here = threading.current_thread() is threading.main_thread()
        if self._here:
            self._before = signal.signal(signal.SIGTERM, self._raise)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._here:
            signal.signal(signal.SIGTERM, self._before)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            os._exit(EXIT_CODE)
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt


def interrupted(termination: Termination | None) -> int:
    """Exit code of a command that was interrupted: by SIGTERM, or by Ctrl-C."""
    return EXIT_CODE if termination is not None and termination.asked else _CTRL_C
