"""The last minute of a source, in half seconds: what the page's curves are drawn from, in memory that does
not grow.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

STEP_S = 0.5
STEPS = 120


class Point(NamedTuple):
    """Half a second of one source.

    Attributes:
        at_s: its end, in seconds of the clock that `add` was given.
        fps: frames finished per second.
        age_ms: mean age of the frames when their masks were done; None where no frame came.
        age_max_ms: the oldest one's.
        latency_ms: mean time for resize, inference and postprocessing.
    """

    at_s: float
    fps: float
    age_ms: float | None
    age_max_ms: float | None
    latency_ms: float | None


class History:
    """Points without gaps: half seconds in which no frame came are told as such. Not thread-safe: its owner
    locks.
    """

    def __init__(self, start_s: float) -> None:
        self._points: deque[Point] = deque(maxlen=STEPS)
        self._end_s = start_s + STEP_S
        self._count = 0
        self._age_ms = self._age_max_ms = self._latency_ms = 0.0

    def add(self, now_s: float, age_ms: float, latency_ms: float) -> None:
        """Count one finished frame."""
        self._close_until(now_s)
        self._count += 1
        self._age_ms += age_ms
        self._age_max_ms = max(self._age_max_ms, age_ms)
        self._latency_ms += latency_ms

    def points(self, now_s: float) -> list[Point]:
        """Every half second that is over, oldest first, 120 at most."""
        self._close_until(now_s)
        return list(self._points)

    def _close_until(self, now_s: float) -> None:
        steps_behind = int((now_s - self._end_s) // STEP_S) - STEPS
        if steps_behind > 0:  # longer ago than is kept: no need to write every empty point down
            self._close()
            self._end_s += steps_behind * STEP_S
        while now_s >= self._end_s:
            self._close()

    def _close(self) -> None:
        count = self._count
        mean = (
            (self._age_ms / count, self._age_max_ms, self._latency_ms / count)
            if count
            else (None, None, None)
        )
        self._points.append(Point(self._end_s, count / STEP_S, *mean))
        self._end_s += STEP_S
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        self._age_ms = self._age_max_ms = self._latency_ms = 0.0
