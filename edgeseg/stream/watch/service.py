"""A run as a system service: systemd's ready and watchdog messages, and logs that machines read.

systemd's protocol is a datagram to the socket that it names in the environment; a few lines here, no package.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from edgeseg.text import json_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgeseg.stream.watch.events import Event
    from edgeseg.stream.watch.status import Monitor, RunStatus

_BEATS_PER_LIMIT = 3
_FAILURES = ("failed", "sink_failed")
_TROUBLE = ("stalled", "reconnecting", "dropped", "discontinuity")


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd, e.g. "READY=1" or "STATUS=25 fps". False where nobody listens; never raises, never waits.

    Source: sd_notify(3); a leading @ of NOTIFY_SOCKET stands for the zero byte of an abstract address.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    try:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        ) as channel:
            channel.connect("\0" + address[1:] if address[0] == "@" else address)
            channel.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_limit_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds without a sign of life after which systemd restarts this process; None where it does not watch.

    Source: sd_watchdog_enabled(3).
    """
    limit_us, watched = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not limit_us.isdecimal() or int(limit_us) == 0 or (watched and watched != str(os.getpid())):
        return None
    return int(limit_us) / 1e6


class Heartbeat:
    """Sends "WATCHDOG=1" from a thread of its own, three times per limit, for as long as `alive` says so.

    A context manager; does nothing where systemd does not watch. Entering it says "READY=1", leaving it
    "STOPPING=1".

    Args:
        alive: asked before every beat, on the heartbeat's thread. An exception counts as no.
        status: a line for `systemctl status`, sent with each beat.
    """

    def __init__(
        self,
        alive: Callable[[], bool],
        status: Callable[[], str] = lambda: "",
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._alive, self._status, self._environment = alive, status, environment
        self._over, self._sending = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if notify("READY=1", self._environment):
            limit_s = watchdog_limit_s(self._environment)
            interval_s = limit_s / _BEATS_PER_LIMIT if limit_s else 5.0
            self._thread = threading.Thread(
                target=self._beat, args=(interval_s,), name="edgeseg-heartbeat", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            with self._sending:  # no beat comes after it, however long one took
                notify("STOPPING=1", self._environment)
            self._thread.join(1.0)

    def _beat(self, interval_s: float) -> None:
        while True:
            try:
                alive, line = self._alive(), self._status().replace("\n", " ")
            except Exception:  # noqa: BLE001  who cannot say that it is well is not
                alive, line = False, ""
            with self._sending:
                if self._over.is_set():
                    return
                notify("\n".join((f"STATUS={line}", *(["WATCHDOG=1"] if alive else []))), self._environment)
            if self._over.wait(interval_s):
                return


def run_heartbeat(monitor: Monitor) -> Heartbeat:
    """A heartbeat that goes on for as long as the run does its work."""
    seen: list[RunStatus | None] = [None]

    def alive() -> bool:
        before, seen[0] = seen[0], monitor.snapshot()
        return is_progressing(before, seen[0])

    def line() -> str:
        status = seen[0]
        if status is None:
            return "waiting for the first frame"
        running = sum(source.state == "RUNNING" for source in status.sources)
        of_all = f"{running} of {len(status.sources)} sources run"
        return f"{status.fps:.1f} frames/s, {of_all}, level {status.level}"

    return Heartbeat(alive, line)


def is_progressing(before: RunStatus | None, now: RunStatus | None) -> bool:
    """Whether a run does its work, by two looks at it: frames were finished in between, or none waited at
    both times.

    A source that delivers nothing is no reason to restart a run that keeps trying it.
    """
    if before is None or now is None:
        return True
    return now.frames > before.frames or not (_waiting(before) and _waiting(now))


def _waiting(status: RunStatus) -> int:
    """Frames that came and are neither written nor dropped."""
    return sum(one.frames - one.delivered - sum(one.dropped.values()) for one in status.sources)


class JsonLog:
    """One JSON object a line: `time` (UTC, ISO 8601), `level` ("info", "warning" or "error"), `event`, and
    what belongs to it.

    It is a `Progress` (one line every `interval_s` while frames flow), and takes the events of a run. Threads
    may share it.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[
            str, list[float]
        ] = {}  # task -> [steps, steps when last told, time when last told, started]

    def line(self, event: str, level: str = "info", **details: Any) -> None:
        """Write one line. Values that JSON has no form for are written as text; a stream that is gone is not
        an error.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = json_text({"time": now, "level": level, "event": event, **_strict(details)}, default=str)
        with self._lock:
            try:
                print(text, file=self._stream, flush=True)
            except (OSError, ValueError):
                return

    def event(self, event: Event) -> None:
        """Write an event of the run; for `EventBus.subscribe`."""
        data = event.to_json()
        what = str(event.details.get("state", event.kind)).lower()
        level = "error" if what in _FAILURES else "warning" if what in _TROUBLE else "info"
        self.line(data.pop("kind"), level, **data)

    def start(self, task: str, total: int | None) -> None:
        now_s = self._clock()
        self._tasks[task] = [0, 0, now_s, now_s]
        self.line("started", task=task, total=total)

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        told = self._tasks[task]
        told[0] += steps
        now_s = self._clock()
        if now_s - told[2] < self._interval_s:
            return
        rate = (told[0] - told[1]) / (now_s - told[2])
        told[1:3] = told[0], now_s
        self.line("progress", task=task, done=int(told[0]), per_s=round(rate, 3), figures=figures)

    def finish(self, task: str) -> None:
        told = self._tasks.pop(task)
        self.line("finished", task=task, done=int(told[0]), wall_s=round(self._clock() - told[3], 3))

    def message(self, text: str) -> None:
        self.line("message", message=text)


def _strict(value: Any) -> Any:
    """The same with null for numbers that JSON has no form for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list | tuple) else value
