"""The life of one source, as pure logic: it is told what happened and when, and answers what is to be done.
No thread, no clock.

    CONNECTING --frame--> RUNNING --silence--> STALLED --frame--> RUNNING
        ^  |                 |                    |
        |  | failed          | failed, ended      | more silence: the watchdog
        +--+                 v                    v
                        RECONNECTING <------------+   waits (back-off), connects, waits for a frame
                             |
                             +--frame--> RUNNING

    ENDED   a file was read to its end, or the run stopped
    FAILED  a file broke off, or trying again cannot help (wrong password, missing package)

Back-off doubles from attempt to attempt up to a cap, with jitter, so that many sources of one dead switch do
not come back in step; a connection that lasted resets it. A source whose frames are seconds apart is given
that much more patience.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeseg.stream.watch.status import SourceState

Step = Literal["wait", "connect", "abandon"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a live source may be silent, and how soon it is tried again. All in seconds.

    Attributes:
        connect_s: from connecting to the first frame.
        stall_s: silence after which it counts as STALLED.
        watchdog_s: silence after which the connection is given up.
        retry_s, retry_cap_s: first and longest wait before connecting again; doubled in between.
        jitter: share by which each wait is changed at random, 0..1.
        stable_s: a connection that lasted so long starts the waits anew.
        start_s: a run in which no source has delivered a frame by then ends with an error; None: it waits for
            ever.
    Raises:
        ValueError: a time that is not above 0, or jitter outside 0..1.
    """

    connect_s: float = 10.0
    stall_s: float = 1.0
    watchdog_s: float = 5.0
    retry_s: float = 0.5
    retry_cap_s: float = 30.0
    jitter: float = 0.2
    stable_s: float = 10.0
    start_s: float | None = 30.0

    def __post_init__(self) -> None:
        times = (self.connect_s, self.stall_s, self.watchdog_s, self.retry_s, self.retry_cap_s, self.stable_s)
        if not all(time_s > 0 for time_s in times) or (self.start_s is not None and not self.start_s > 0):
            raise ValueError(f"times are above 0 s: {self}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a share from 0 to 1, not {self.jitter}")


@dataclass(frozen=True, slots=True)
class Change:
    """A state that was entered, when and why; `details` are figures for the event."""

    at_s: float
    state: SourceState
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


class Supervisor:
    """The state of one source.

    The owner calls `poll` every few tens of ms and does what it says: "connect" starts a capture, "abandon"
    leaves the one that runs. It tells `frame`, `alive`, `ended` and `failed` of the capture in force.
    `changes` collects the transitions, for the owner to take away.

    Args:
        is_live: True where a source that ended or failed is connected again, and silence is a failure;
            `opened` may tell better.
        patience: times.
        now_s: any clock that does not go back; the same one for every call.
        dice: a number from 0 to 1 at random, for the jitter.
    Attributes:
        state, since_s, reason: now.
        connects: connections that delivered a frame.
        last_error: what failed last; None where nothing did.
    """

    def __init__(self, is_live: bool, patience: Patience, now_s: float, dice: Callable[[], float]) -> None:
        self.state: SourceState = "CONNECTING"
        self.since_s = now_s
        self.reason = "start"
        self.connects = 0
        self.last_error: str | None = None
        self.changes: deque[Change] = deque([Change(now_s, "CONNECTING", "start")])
        self._is_live, self._patience, self._dice = is_live, patience, dice
        self._capturing = self._delivering = False
        self._due_s = self._last_s = self._alive_s = self._connected_s = now_s
        self._lost_s: float | None = None
        self._attempt = 0
        self._stated_s = 0.0
        self._intervals_s: deque[float] = deque(maxlen=8)

    @property
    def is_final(self) -> bool:
        """Whether no frame will come any more."""
        return self.state in ("ENDED", "FAILED")

    def poll(self, now_s: float) -> Step:
        """What is to be done now."""
        if self.is_final:
            return "wait"
        if not self._capturing:
            if now_s < self._due_s:
                return "wait"
            self._capturing, self._delivering = True, False
            self._last_s, self._stated_s = now_s, 0.0
            self._intervals_s.clear()
            return "connect"
        silence_s = now_s - self._last_s
        if not self._delivering:
            if self._is_live and silence_s >= self._allowed_s(self._patience.connect_s, 6):
                self._lose(now_s, f"no frame within {silence_s:.1f} s of connecting")
                return "abandon"
            return "wait"
        quiet_s = now_s - max(self._last_s, self._alive_s)
        if self._is_live and quiet_s >= self._allowed_s(self._patience.watchdog_s, 6):
            self._lose(now_s, f"no frame for {silence_s:.1f} s: the connection is given up")
            return "abandon"
        if self.state == "RUNNING" and silence_s >= self._allowed_s(self._patience.stall_s, 3):
            self._enter(now_s, "STALLED", f"no frame for {silence_s:.1f} s")
        return "wait"

    def opened(self, fps: float, is_live: bool) -> None:
        """The capture is connected, and its source says whether it is live, and how many frames a second it
        gives; 0 where it does not say."""
        self._is_live = is_live
        self._stated_s = 1 / fps if fps > 0 else 0.0

    def alive(self, now_s: float) -> None:
        """Pictures came that are left out: no reason to give the connection up."""
        self._alive_s = now_s

    def frame(self, now_s: float) -> float | None:
        """A frame came. The seconds since the connection was lost where it is the first of a new one, else
        None.
        """
        if self.is_final or not self._capturing:
            return None
        outage_s = None
        if self._delivering:
            self._intervals_s.append(now_s - self._last_s)
            if self.state == "STALLED":
                self._enter(now_s, "RUNNING", f"frames again after {now_s - self._last_s:.1f} s")
        else:
            self._delivering = True
            self._connected_s = now_s
            self.connects += 1
            if self.connects > 1 and self._lost_s is not None:
                outage_s = now_s - self._lost_s
            self._enter(
                now_s,
                "RUNNING",
                "first frame" if outage_s is None else f"frames again after {outage_s:.1f} s",
            )
            self._lost_s = None
        self._last_s = now_s
        return outage_s

    def ended(self, now_s: float, reason: str = "read to its end") -> None:
        """The capture came to the end of its source."""
        if not self.is_final:
            self._capturing = False
            self._enter(now_s, "ENDED", reason)

    def failed(self, now_s: float, reason: str, hopeless: bool = False) -> None:
        """The capture broke off; `hopeless` where trying again cannot help. That may turn out when all has
        been read.
        """
        if self.state == "FAILED" or (self.is_final and not hopeless):
            return
        if hopeless or not self._is_live:
            self._capturing = False
            self.last_error = reason
            self._enter(now_s, "FAILED", reason)
        else:
            self._lose(now_s, reason)

    def _lose(self, now_s: float, reason: str) -> None:
        """Leave the connection, and plan the next one."""
        if self._delivering and now_s - self._connected_s >= self._patience.stable_s:
            self._attempt = 0
        if self._lost_s is None:
            self._lost_s = self._last_s if self._delivering else now_s
        # 2**60 of any wait is above every cap, and the power stays a number that a float can hold.
        wait_s = min(self._patience.retry_cap_s, self._patience.retry_s * 2 ** min(self._attempt, 60))
        wait_s *= 1 + self._patience.jitter * (2 * self._dice() - 1)
        self._attempt += 1
        self._capturing = self._delivering = False
        self._due_s = now_s + wait_s
        self.last_error = reason
        state: SourceState = "RECONNECTING" if self.connects else "CONNECTING"
        self._enter(now_s, state, reason, attempt=self._attempt, retry_in_s=round(wait_s, 3))

    def _allowed_s(self, patience_s: float, intervals: int) -> float:
        """Patience with a source whose frames are far apart: at least that many of its intervals, as stated
        or as seen.
        """
        seen_s = statistics.median(self._intervals_s) if self._intervals_s else 0.0
        return max(patience_s, intervals * self._stated_s, intervals * seen_s)

    def _enter(self, now_s: float, state: SourceState, reason: str, **details: Any) -> None:
        if state != self.state:
            self.since_s = now_s
        self.state, self.reason = state, reason
        self.changes.append(Change(now_s, state, reason, details))
