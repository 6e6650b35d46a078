"""What the page shows, kept as it comes: a sink of the run, read by the web server's thread.

The run's thread only stores references; pictures are encoded when somebody looks, once for all who look, on
the server's threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edgeseg.contracts import FrameSink
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.watch.events import Event
from edgeseg.stream.web.history import History, Point
from edgeseg.stream.web.pictures import encode

_EVENTS_KEPT = 200


class LivePage(FrameSink):
    """A sink that takes frames of every source, and never waits.

    Args:
        labels: the classes of the run.
        on_change: called after every frame and event, on the run's thread; must return at once.
    """

    name = "live page"
    takes_all_sources = True

    def __init__(
        self,
        labels: LabelSpace,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.labels = labels
        self.on_change = on_change
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[int, Result]] = {}
        self._history: dict[str, History] = {}
        self._events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_EVENTS_KEPT)
        self._noted = self._sequence = 0
        self._encoding = threading.Lock()
        self._encoded: dict[str, tuple[int, bytes]] = {}

    def write(self, result: Result) -> None:
        now_s = self._clock()
        with self._lock:
            self._sequence += 1
            self._newest[result.source] = self._sequence, result
            if result.source not in self._history:
                self._history[result.source] = History(now_s)
            self._history[result.source].add(now_s, result.age_ms, result.latency_ms)
        self.on_change()

    def note(self, event: Event) -> None:
        """Keep an event of the run, for `EventBus.subscribe`; the last 200 are kept."""
        with self._lock:
            self._noted += 1
            self._events.append((self._noted, event.to_json()))
        self.on_change()

    def sequence(self, source: str) -> int:
        """Number of a source's newest picture, 0 before the first. Numbers grow over all sources."""
        newest = self._newest.get(source)
        return newest[0] if newest else 0

    def packet(self, source: str) -> bytes | None:
        """A source's newest picture (see `pictures.encode`); None before the first. Any number of threads may
        ask.
        """
        with self._encoding:
            newest = self._newest.get(source)
            if newest is None:
                return None
            known = self._encoded.get(source)
            if known is None or known[0] != newest[0]:
                known = self._encoded[source] = (newest[0], encode(*newest))
            return known[1]

    def history(self) -> dict[str, list[Point]]:
        """The last minute of every source that has delivered."""
        now_s = self._clock()
        with self._lock:
            return {source: history.points(now_s) for source, history in self._history.items()}

    def events_after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """(number, event) pairs that came after `number` (0: all that are kept), oldest first."""
        with self._lock:
            return [(place, event) for place, event in self._events if place > number]
