"""How a run is doing, while it goes on: one picture of it at a time, for the report, the live page and the
metrics.

A snapshot is taken from any thread and holds no lock of a stage longer than it takes to copy a few numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgeseg.stream.watch.events import EventBus

SourceState = Literal["CONNECTING", "RUNNING", "STALLED", "RECONNECTING", "ENDED", "FAILED"]
SinkState = Literal["WAITING", "OPEN", "FAILED", "CLOSED"]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source.

    Attributes:
        source: its id: the name that the user gave it, or the URI without credentials.
        is_live: True where frames that are not read are lost; of an HTTP address it is known once that is
            open.
        state: see `stream.supervisor`.
        since_s: seconds that it has been in this state.
        reason: why it is in this state, for people.
        frames: frames that came from it.
        delivered: frames that were segmented and given to the sinks.
        dropped: frames that were not, by reason: "oldest" and "newest" (the queue was full), "stale" (older
            than the greatest age), "stopped" (still in a queue when the run ended), "failed" (could not be
            handled; the source FAILED of it); and of those that never came from it: "damaged" (not decoded or
            converted, or smeared by what was lost before them) and "undecodable" (before the first key
            frame).
        connects: connections that delivered a frame; the first one counts.
        reconnects: connections but the first that delivered a frame.
        reconnect_ms: time from the loss of a connection to the next frame: count, mean, p50, p90, p99, max;
            null where none.
        age_ms: frame age: count, mean, p50, p90, p99, max.
        size_hw: of its last frame; None before the first.
        fps: its nominal rate; 0 where it has none.
        measured_fps: frames that came from it per second, over the last seconds.
        last_error: the last failure, without credentials; None where there was none.
        policy: which frames are dropped when they come too fast, in words.
    """

    source: str
    is_live: bool
    state: SourceState
    since_s: float
    reason: str
    frames: int
    delivered: int
    dropped: Mapping[str, int]
    connects: int
    reconnects: int
    reconnect_ms: Mapping[str, Any]
    age_ms: Mapping[str, Any]
    size_hw: tuple[int, int] | None
    fps: float
    measured_fps: float
    last_error: str | None
    policy: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink: its name, the source that it belongs to (empty: all), its state, frames written and not, and
    the last failure.
    """

    sink: str
    source: str
    state: SinkState
    written: int
    missed: int
    last_error: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The whole run at one moment.

    Attributes:
        at_s: seconds from the start of the run.
        frames: frames segmented and written so far, and `fps` of them per second, over the last seconds.
        level, level_reason: the program level of the next frame, and why (see `stream.levels.Choice`).
        stages: by name (read, resize, infer, postprocess, write): count, mean, p50, p90, p99, max in ms, and
            `busy` (0..1).
        latency, frame_age: the same figures over all sources; see `stream.report.RunReport`.
        sources, sinks: one each.
        class_share: mean share of a frame's pixels so far, 0..1, by class name.
    """

    at_s: float
    frames: int
    fps: float
    level: int
    level_reason: str
    stages: Mapping[str, Mapping[str, Any]]
    latency: Mapping[str, Any]
    frame_age: Mapping[str, Any]
    sources: tuple[SourceStatus, ...]
    sinks: tuple[SinkStatus, ...]
    class_share: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Monitor:
    """The window into a run: make one, give it to `run`, look through it from any thread.

    Attributes:
        events: what happens; subscribe before the run starts.
    """

    def __init__(self) -> None:
        self.events = EventBus()
        self._lock = threading.Lock()
        self._look: Callable[[], RunStatus] | None = None
        self._last: RunStatus | None = None

    def snapshot(self) -> RunStatus | None:
        """How the run is doing; None before it started, its last picture after it ended."""
        with self._lock:
            return self._look() if self._look else self._last

    def attach(self, look: Callable[[], RunStatus]) -> None:
        """Called by the run when it starts."""
        with self._lock:
            self._look = look

    def detach(self) -> None:
        """Called by the run when it ended; keeps the last picture."""
        with self._lock:
            if self._look is not None:
                self._last, self._look = self._look(), None
