"""What happens during a run, as data: a source that stalls, a frame size that changes, a sink that fails, a
road that is blocked.

A stage that has something to tell publishes it, and goes on: it never waits for those who listen, and their
mistakes are not its own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Listener = Callable[["Event"], object]

_QUEUED = 1_000
_KEPT = 200
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        at_s: seconds from the start of the run, on the monotonic clock.
        source: the source's id, or the sink's name; empty where it concerns the whole run.
        kind: "state" (of a source), "resized", "discontinuity" (of its time stamps), "dropped", "region",
            "sink_failed", "sink_recovered", "sink_ended", "level", "damaged" and "undecodable" (pictures that
            a source left out), "picture" (what of a source's pictures is not shown as they ask); sinks may
            add their own.
        reason: why, for people; never holds credentials.
        details: figures that belong to it, as plain JSON values.
    """

    at_s: float
    source: str
    kind: str
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class EventBus:
    """Takes events from any thread, and tells them to each listener in order, on a thread of its own.

    `publish` never waits and never raises. At most 1000 events wait for the listeners; where these are
    slower, the oldest go, and `lost` counts them. A listener that raises is not called again; `errors` holds
    what it raised.

    Attributes:
        start_s: `time.monotonic()` from which events count; set anew when a run starts.
        counts: number of events by kind.
        lost: events that no listener got, because the listeners were too slow.
        errors: what listeners raised.
    """

    def __init__(self) -> None:
        self.start_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.lost = 0
        self.errors: list[Exception] = []
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._waiting: deque[Event] = deque()
        self._listeners: list[Listener] = []
        self._inboxes: list[deque[Event]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def emit(self, kind: str, reason: str, source: str = "", /, **details: Any) -> None:
        """Publish an event that happens now."""
        self.publish(Event(round(time.monotonic() - self.start_s, 3), source, kind, reason, details))

    def publish(self, event: Event) -> None:
        """Take an event. Never waits for a listener, never raises."""
        with self._changed:
            self.counts[event.kind] += 1
            self._recent.append(event)
            for inbox in self._inboxes:
                inbox.append(event)
            if not self._listeners or self._closed:
                return
            if len(self._waiting) == _QUEUED:
                self._waiting.popleft()
                self.lost += 1
            self._waiting.append(event)
            self._changed.notify_all()

    def subscribe(self, listener: Listener) -> None:
        """Tell `listener` every event from now on, in order, on the bus's thread."""
        with self._changed:
            self._listeners.append(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="edgeseg-events", daemon=True)
                self._thread.start()

    def fill(self, inbox: deque[Event]) -> None:
        """Put every event from now on into `inbox`, bounded, at once; for a thread that takes them out in its
        own time.
        """
        with self._changed:
            self._inboxes.append(inbox)

    def recent(self) -> list[Event]:
        """The last 200 events, the oldest first."""
        with self._changed:
            return list(self._recent)

    def close(self, patience_s: float = 0.5) -> None:
        """Tell what still waits, and end the thread; a listener that hangs is left behind after
        `patience_s`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience_s)

    def _tell(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait(_POLL_S)
                event, listeners = self._waiting.popleft(), list(self._listeners)
            for listener in listeners:
                try:
                    listener(event)
                except Exception as error:  # noqa: BLE001  a listener's mistake must not end the run; `errors` keeps it
                    with self._changed:
                        self.errors.append(error)
                        self._listeners.remove(listener)
