"""One source at work: its supervisor, the thread that reads it, its mailbox and its figures.

    watch thread --tick--> Supervisor --connect, abandon--> capture thread --frames--> mailbox

A capture that hangs is left behind: its thread ends by itself when the driver lets it go, closes what it
holds, and is not listened to any more. At most three may hang at once, then no further connection is tried
until one of them ended.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar, cast

import numpy as np

from edgeseg.contracts import FrameSource, LiveSource
from edgeseg.errors import AccessDenied, EdgesegError, StreamError, Unsupported
from edgeseg.specs import Frame
from edgeseg.stream.run.channel import Closed, FirstError
from edgeseg.stream.run.mailbox import Mailbox, PolicyOf
from edgeseg.stream.run.stamps import Stamps
from edgeseg.stream.run.supervisor import Patience, Supervisor
from edgeseg.stream.uris import scrub
from edgeseg.stream.watch.events import EventBus
from edgeseg.stream.watch.stats import Timings
from edgeseg.stream.watch.status import SourceStatus

T = TypeVar("T")

_POLL_S = 0.1
_MOST_HANGING = 3
_RATE_FRAMES = 64
_LOST = ("damaged", "undecodable")


class Mishandled(StreamError):
    """What is no failure of a source, but a bug that its frames brought to light: `bug`. It costs that
    source, and no other.
    """

    def __init__(self, source_id: str, what: str, bug: Exception) -> None:
        # The text may quote the URI, and that a password.
        super().__init__(
            f"{source_id}: {what}: {type(bug).__name__}: {scrub(str(bug))}",
            hint="run this source alone, which shows where: edgeseg run BUNDLE --source URI --sink null:",
        )
        self.bug = bug


def as_told(error: Exception, source_id: str, what: str) -> EdgesegError:
    """An error as it is told of a source: itself, or what wraps a bug."""
    return error if isinstance(error, EdgesegError) else Mishandled(source_id, what, error)


class Capture:
    """Reads one source into its mailbox until it ends, for as long as that may be.

    Args:
        source: unopened; a live one is replaced by fresh ones when it is connected again.
        mailbox: closed when no frame will come any more.
        failure: gets what no source can be blamed for.
        limit: frames at most, of a source that is not live.
        policy: what the mailbox does, asked whenever the source was opened and says whether it is live; None:
            it stays as it is.
    Attributes:
        is_live: whether frames that are not read are lost, as the source said when it was opened last.
        error: why it FAILED; None where it did not.
        read: time that each frame took to come.
        age: frame age, told by `delivered`.
    """

    def __init__(
        self,
        source: FrameSource,
        mailbox: Mailbox,
        events: EventBus,
        failure: FirstError,
        patience: Patience,
        limit: int | None = None,
        policy: PolicyOf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source_id, self.is_live = source.source_id, source.is_live
        self.mailbox = mailbox
        self.error: EdgesegError | None = None
        self.read, self.age, self._outages = Timings(), Timings(), Timings()
        self.fps, self.frame_count = source.fps, source.frame_count
        self._source, self._events, self._failure = source, events, failure
        self._limit, self._clock = limit, clock
        self._policy = policy
        self._supervisor = Supervisor(source.is_live, patience, clock(), random.random)
        self._stamps = Stamps()
        self._reading: FrameSource | None = None
        self._lock = threading.RLock()
        self._connection = 0
        self._threads: list[threading.Thread] = []
        self._reader: threading.Thread | None = None
        self._frames = self._delivered = 0
        self._lost, self._lost_before = dict.fromkeys(_LOST, 0), dict.fromkeys(_LOST, 0)
        self._size_hw: tuple[int, int] | None = None
        self._arrivals_s: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._told_hanging = False
        self._failed_from: float = math.inf

    # the watch thread

    def tick(self) -> None:
        """Do what the supervisor says; tell its transitions. Called every few tens of ms, from one thread."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            hanging = [thread for thread in self._threads if thread is not self._reader]
            if (
                self._reader
                and self._reading is not None
                and self._count_lost(self._reading, self._connection)
            ):
                self._supervisor.alive(self._clock())
            if self._reader or len(hanging) < _MOST_HANGING or self._supervisor.is_final:
                step = self._supervisor.poll(self._clock())
                if step == "abandon":
                    self._connection += 1
                    self._reader = None
                elif step == "connect":
                    self._connect()
                self._told_hanging = False
            elif not self._told_hanging:
                self._told_hanging = True
                self._events.emit(
                    "state",
                    f"{len(hanging)} captures hang: waiting for one to end",
                    self.source_id,
                    state=self._supervisor.state,
                )
            self._tell()
            if self._supervisor.is_final:
                self.mailbox.close()

    def stop(self, reason: str) -> None:
        """No further frame: those in the mailbox count as stopped. Does not wait."""
        with self._lock:
            self._connection += 1
            self._supervisor.ended(self._clock(), reason)
            self._tell()
        self.mailbox.cancel()

    @property
    def threads(self) -> list[threading.Thread]:
        """Those that read: one, and those left behind. Each holds its source, and closes it when it ends."""
        return list(self._threads)

    # any thread

    def guard(self, frame: Frame, what: str, work: Callable[[], T]) -> T | None:
        """Do something with a frame, in a thread that serves all sources. Where it goes wrong, this source
        has FAILED, and nobody else: None, also for the frames after it.

        Args:
            what: what was to be done with it, for the message: "resized".
        """
        if frame.index < self._failed_from:
            try:
                return work()
            except Exception as error:  # noqa: BLE001  a bug is raised in the end, where no source is left
                self.fail(
                    as_told(error, self.source_id, f"frame {frame.index} could not be {what}"), frame.index
                )
        self.mailbox.count_dropped("failed")
        return None

    def fail(self, error: EdgesegError, index: int = 0) -> None:
        """It has FAILED, from that frame on: no further frame, and no further connection. Does not wait."""
        with self._lock:
            self._failed_from = min(self._failed_from, index)
            self._connection += 1
            self._reader = None
            self.error = self.error or error
            self._supervisor.failed(self._clock(), str(error), hopeless=True)
            self._tell()
        self.mailbox.cancel()

    @property
    def is_final(self) -> bool:
        with self._lock:
            return self._supervisor.is_final

    @property
    def frames(self) -> int:
        """Frames that came from the source so far."""
        return self._frames

    @property
    def delivered(self) -> int:
        """Frames that were segmented and given to the sinks so far."""
        return self._delivered

    def count_segmented(self, age_ms: float) -> None:
        """A frame was segmented, at that age."""
        with self._lock:
            self.age.add(age_ms)

    def count_delivered(self) -> None:
        """A frame was given to the sinks."""
        with self._lock:
            self._delivered += 1

    def status(self) -> SourceStatus:
        """How it is doing."""
        with self._lock:
            now_s, state = self._clock(), self._supervisor
            recent_s = [at_s for at_s in self._arrivals_s if now_s - at_s < 10]
            span_s = now_s - recent_s[0] if len(recent_s) > 1 else 0.0
            dropped = self.mailbox.counts() | {reason: count for reason, count in self._lost.items() if count}
            return SourceStatus(
                source=self.source_id,
                is_live=self.is_live,
                state=state.state,
                since_s=round(now_s - state.since_s, 3),
                reason=state.reason,
                frames=self._frames,
                delivered=self._delivered,
                dropped=dropped,
                connects=state.connects,
                reconnects=max(0, state.connects - 1),
                reconnect_ms=self._outages.to_json(),
                age_ms=self.age.to_json(),
                size_hw=self._size_hw,
                fps=self.fps,
                measured_fps=round((len(recent_s) - 1) / span_s, 2) if span_s > 0 else 0.0,
                last_error=state.last_error,
                policy=str(self.mailbox.policy),
            )

    # the capture thread

    def _connect(self) -> None:
        """Start a thread that reads the source, or a fresh one of the same address."""
        self._connection += 1
        source = self._source if self._connection == 1 else cast(LiveSource, self._source).fresh()
        number = self._connection
        thread = threading.Thread(
            target=lambda: self._failure.attempt(lambda: self._capture(source, number)),
            name=f"edgeseg-capture-{number}",
            daemon=True,
        )
        self._threads.append(thread)
        self._reader, self._reading = thread, source
        thread.start()

    def _capture(self, source: FrameSource, number: int) -> None:
        """One connection, from open to close. It closes its source itself, also when it was left behind."""
        error: EdgesegError | None = None
        source.tell = lambda kind, reason, **details: self._hear(number, kind, reason, details)
        try:
            source.open()
            self._opened(source, number)
            wanted = islice(source.frames(), None if source.is_live else self._limit)
            for frame in map(self._checked, self._timed(wanted, number)):
                if not self._deliver(source, frame, number):
                    break
        except Exception as caught:  # noqa: BLE001  a bug is raised in the end, where no source is left
            error = as_told(caught, self.source_id, "could not be read")
        except BaseException:
            self._over(number, None, broken=True)
            raise
        finally:
            self._count_lost(source, number)
            try:
                source.close()
            except Exception as caught:  # noqa: BLE001  the first error is the one that counts
                error = error or as_told(caught, self.source_id, "could not be closed")
        self._over(number, error)

    def _opened(self, source: FrameSource, number: int) -> None:
        with self._lock:
            if number == self._connection:
                self.fps, self.frame_count, self.is_live = source.fps, source.frame_count, source.is_live
                if self._policy is not None:
                    self.mailbox.govern(self._policy(source.is_live))
                self._stamps.connected(source)
                self._supervisor.opened(source.fps, source.is_live)

    def _timed(self, frames: Iterator[Frame], number: int) -> Iterator[Frame]:
        """The same frames; counts the time that each took to come."""
        while True:
            start_s = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return
            if number == self._connection:
                self.read.add_since(start_s)
            yield frame

    def _checked(self, frame: Frame) -> Frame:
        """The frame, which is a picture: what follows need not ask. Raises StreamError."""
        image_rgb = frame.image_rgb
        if (
            image_rgb.dtype != np.uint8
            or image_rgb.ndim != 3
            or image_rgb.shape[2] != 3
            or not image_rgb.size
        ):
            raise StreamError(
                f"{self.source_id}: frame {frame.index} is no RGB picture of 8 bits: {image_rgb.dtype}"
                f" {image_rgb.shape}",
                hint=(
                    "look at what the source delivers; a file can be converted: ffmpeg -i FILE -pix_fmt"
                    " yuv420p out.mp4"
                ),
            )
        return frame

    def _deliver(self, source: FrameSource, frame: Frame, number: int) -> bool:
        """Number a frame, give it its times, leave it in the mailbox. False where nobody wants more."""
        with self._lock:
            if number != self._connection:
                return False
            now_s = self._clock()
            outage_s = self._supervisor.frame(now_s)
            if outage_s is not None:
                self._outages.add(1e3 * outage_s)
            self._arrivals_s.append(now_s)
            self._count_lost(source, number)
            self._tell_size(frame)
            frame, jump = self._stamps.place(frame, now_s)
            if jump is not None:
                self._events.emit("discontinuity", jump[0], self.source_id, **jump[1])
            if self.is_live:
                frame = replace(frame, index=self._frames, connection=self._supervisor.connects)
            self._frames += 1
        try:
            while not self.mailbox.put(frame, _POLL_S):
                if number != self._connection:
                    raise Closed
                with self._lock:
                    # It waits for us, not we for it.
                    self._supervisor.frame(self._clock())
        except Closed:
            self.mailbox.count_dropped("stopped")
            return False
        return True

    def _count_lost(self, source: FrameSource, number: int) -> bool:
        """Take over what the source counts of this connection. Whether it has become more."""
        with self._lock:
            before = self._lost
            if number == self._connection:
                now = zip(_LOST, (source.damaged, source.undecodable), strict=True)
                self._lost = {reason: self._lost_before[reason] + count for reason, count in now}
            return self._lost != before

    def _hear(self, number: int, kind: str, reason: str, details: Mapping[str, Any]) -> None:
        """Publish what the source tells, while it is the one that is read."""
        if number == self._connection:
            self._events.emit(kind, reason, self.source_id, **details)

    def _tell_size(self, frame: Frame) -> None:
        size_hw = (frame.image_rgb.shape[0], frame.image_rgb.shape[1])
        before, self._size_hw = self._size_hw, size_hw
        if self.is_live and before is not None and before != size_hw:
            reason = f"{before[1]}x{before[0]} -> {size_hw[1]}x{size_hw[0]}"
            self._events.emit(
                "resized", reason, self.source_id, before_hw=list(before), size_hw=list(size_hw)
            )

    def _over(self, number: int, error: EdgesegError | None, broken: bool = False) -> None:
        """A connection ended. Tells the supervisor, unless it was left behind long ago."""
        with self._lock:
            if number != self._connection:
                return
            self._reader = None
            self._lost_before = dict(self._lost)
            now_s = self._clock()
            if broken:
                self._supervisor.failed(now_s, "a bug", hopeless=True)
            elif error is None:
                self._supervisor.ended(now_s)
            else:
                self._supervisor.failed(
                    now_s, str(error), hopeless=isinstance(error, (AccessDenied, Unsupported))
                )
            if self._supervisor.is_final:
                self.error = error
                self.mailbox.close()
            self._tell()

    def _tell(self) -> None:
        """Publish the transitions since the last time."""
        while self._supervisor.changes:
            change = self._supervisor.changes.popleft()
            self._events.emit("state", change.reason, self.source_id, state=change.state, **change.details)
