"""SIGTERM and SIGHUP, which service managers, schedulers and closing terminals send: obeyed as Ctrl-C is,
with exit codes of their own."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from edgeseg.signals import ONE_REQUEST_S, TERMINATION, is_heard

if TYPE_CHECKING:
    from typing_extensions import Self


class Termination:
    """The first SIGTERM or SIGHUP inside the `with` block raises KeyboardInterrupt in the main thread;
    `asked` remembers it.

    Another one, a second later or more, raises again: what is still being put in order is given up. A signal
    that is ignored, as SIGHUP under nohup, stays so. A forked child ends at once, as it would without this.
    Off the main thread, where Python takes no signals, it does nothing.

    Attributes:
        number: the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._at_s = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        return self.number != 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in TERMINATION:
                if is_heard(number):
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            os._exit(128 + number)
        now_s = time.monotonic()
        if not self.asked or now_s - self._at_s >= ONE_REQUEST_S:
            self.number, self._at_s = self.number or number, now_s
            raise KeyboardInterrupt


def interrupted(termination: Termination | None, cause: BaseException | None = None) -> int:
    """Exit code of a command that was interrupted, 128 and the signal's number: by Ctrl-C 130, SIGTERM 143,
    SIGHUP 129.

    Args:
        cause: the KeyboardInterrupt; one that stages raise after their own handling carries the signal's
            number as `signal`.
    """
    asked = (
        getattr(cause, "signal", 0) or (termination.number if termination is not None else 0) or signal.SIGINT
    )
    return 128 + int(asked)
