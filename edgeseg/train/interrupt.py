"""Ctrl-C and SIGTERM, which a run obeys at the end of a step, when its state can be saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Stop:
    """Set once a stop was asked for."""

    requested = False


@contextlib.contextmanager
def stop_requests() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step; the second one acts at once."""
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True
        for held, handler in earlier.items():
            signal.signal(held, handler)

    earlier: dict[int, Any] = {}
    try:
        for wanted in (signal.SIGINT, signal.SIGTERM):
            earlier[wanted] = signal.signal(wanted, request)
    except ValueError:
        pass  # not the main thread: signals stay with whoever owns them
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
