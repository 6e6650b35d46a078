"""Ctrl-C, SIGTERM and SIGHUP, which a run obeys at the end of a step, when its state can be saved."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

from edgeseg.signals import ONE_REQUEST_S, TERMINATION, is_heard


class Stopped(KeyboardInterrupt):
    """A run stopped because it was asked to, its state saved. `signal` is the number of the signal that
    asked.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Stop:
    """Set once a stop was asked for; `signal` says by which signal."""

    requested = False
    signal = int(signal.SIGINT)


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request to stop after the step; another one, a second
    later or more, acts at once. A signal that is ignored, as SIGHUP under nohup, stays so.
    """
    stop = Stop()
    asked_s = 0.0

    def request(number: int, frame: object) -> None:
        nonlocal asked_s
        now_s = time.monotonic()
        if not stop.requested:
            stop.requested, stop.signal, asked_s = True, number, now_s
        elif now_s - asked_s >= ONE_REQUEST_S:
            for held, handler in earlier.items():
                signal.signal(held, handler)
            signal.raise_signal(number)

    earlier: dict[int, Any] = {}
    try:
        for wanted in (signal.SIGINT, *TERMINATION):
            if wanted == signal.SIGINT or is_heard(wanted):
                earlier[wanted] = signal.signal(wanted, request)
    except ValueError:
        pass  # not the main thread: signals stay with whoever owns them
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
