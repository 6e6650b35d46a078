"""Work that never holds the run up: a thread that always takes the newest item, and leaves out those that it
is too slow for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1


class LatestWorker(Generic[T]):
    """Does `work` on the newest item that was offered, on a thread of its own, until it is closed or `work`
    raises.

    Attributes:
        done: items worked on.
        skipped: items that a newer one took the place of.
    """

    def __init__(self, name: str, work: Callable[[T], object]) -> None:
        self.done = 0
        self.skipped = 0
        self._work = work
        self._changed = threading.Condition()
        self._waiting: list[T] = []
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: T) -> None:
        """Hand an item over; never waits. Raises what the work raised."""
        with self._changed:
            if self._error is not None:
                raise self._error
            self.skipped += len(self._waiting)
            self._waiting = [item]
            self._changed.notify_all()

    def close(self, patience_s: float = 1.0) -> bool:
        """Do what waits, and end the thread. False where it hangs in its work, and was left behind after
        `patience_s`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait(_POLL_S)
                item = self._waiting.pop()
            try:
                self._work(item)
            except Exception as error:  # noqa: BLE001  `offer` brings it to the thread that answers for it
                with self._changed:
                    self._error = error
                return
            self.done += 1
