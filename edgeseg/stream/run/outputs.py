"""The sinks of a run: opened, fed, told of events, replaced when the frame size changes, taken out when they
fail.

Every call of a sink comes from one thread, the writer's, but for the `open` after a failure, and no two at
once. A sink that fails takes no other down: it is closed, an event says so, and with live sources it is
opened again after a while. A run that only reads files has its results as its purpose: when its last sink has
failed it ends with that error, and nothing is written behind a gap. A pipe whose reader goes away has ended
and not failed; where that leaves nothing to write to, so has the run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from edgeseg.contracts import FrameSink
from edgeseg.errors import EdgesegError, ReaderGone, StreamError
from edgeseg.results import Result
from edgeseg.specs import Frame, LabelSpace
from edgeseg.stream.run.capture import Capture, as_told
from edgeseg.stream.run.channel import FirstError
from edgeseg.stream.uris import scrub
from edgeseg.stream.watch.events import Event, EventBus
from edgeseg.stream.watch.status import SinkState, SinkStatus

_RETRY_S, _RETRY_CAP_S = 5.0, 60.0
_REOPEN_PATIENCE_S = 0.2
_EVENTS_WAITING = 1_000
# What a sink is told of a camera that names no rate; the frames' own times are what counts.
_NOMINAL_FPS = 25.0


AnySink = FrameSink | Callable[[Result], object]
"""A sink, or a function that is called with each result."""
Sinks = Sequence[AnySink] | Mapping[str, Sequence[AnySink]]


class Callback(FrameSink):
    """A function as a sink: called with the results of every source. What it raises is its failure alone."""

    takes_all_sources = True

    def __init__(self, function: Callable[[Result], object]) -> None:
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self._function = function

    def write(self, result: Result) -> None:
        try:
            self._function(result)
        except EdgesegError:
            raise
        except Exception as error:
            raise StreamError(
                f"{self.name}: {type(error).__name__}: {scrub(str(error))}",
                hint="the function that was given as a sink raised it",
            ) from error


def as_sink(sink: AnySink) -> FrameSink:
    """Return the sink itself, or a function as one."""
    if isinstance(sink, FrameSink):
        return sink
    return Callback(sink)


class _Opening:
    """A sink that is being opened again, beside the run."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.failure = FirstError()
        self.thread = threading.Thread(
            target=lambda: self.failure.attempt(work), name="edgeseg-reopen", daemon=True
        )
        self.thread.start()

    def succeeded(self, patience_s: float) -> bool:
        """Whether it is open, after waiting so long at most."""
        self.thread.join(patience_s)
        return not self.thread.is_alive() and self.failure.error is None


class _Output:
    """One sink and what became of it. `origin` is the id of the source that it belongs to; empty: all.

    `for_all`: it is told the events of all sources.
    """

    def __init__(self, sink: FrameSink, origin: str, for_all: bool) -> None:
        self.sink, self.origin, self.for_all = sink, origin, for_all
        self.name = sink.name
        self.state: SinkState = "WAITING"
        self.shape: tuple[tuple[int, int], float] | None = None
        self.written = self.missed = 0
        self.error: EdgesegError | None = None
        self.left = False  # by its reader
        self.retry_at_s, self.wait_s = float("inf"), _RETRY_S
        self.opening: _Opening | None = None

    def status(self) -> SinkStatus:
        return SinkStatus(
            self.name,
            self.origin,
            self.state,
            self.written,
            self.missed,
            str(self.error) if self.error else None,
        )


class Outputs:
    """All sinks of a run.

    Args:
        sinks: of every source; or by source id, with those of every source under "".
        origins: ids of the sources.
        live: whether a source is live, as far as that is known by now: then sinks that failed are tried
            again.
        expendable: True where the run goes on without any sink.
    Raises:
        ValueError: sinks of a source that is none of the run's.
    """

    def __init__(
        self,
        sinks: Sinks,
        origins: Sequence[str],
        labels: LabelSpace,
        events: EventBus,
        live: Callable[[], bool],
        expendable: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        by_origin = sinks if isinstance(sinks, Mapping) else {"": sinks}
        unknown = sorted(set(by_origin) - {"", *origins})
        if unknown:
            raise ValueError(f"there are sinks for {unknown}, and the sources are {list(origins)}")
        self._several = len(origins) > 1
        # With one source, "all" is that one: its frame size is the sinks'.
        only = origins[0] if len(origins) == 1 else ""
        self._outputs = [
            _Output(as_sink(sink), origin or only, not origin)
            for origin, group in by_origin.items()
            for sink in group
        ]
        self._labels, self._events, self._clock = labels, events, clock
        self._live, self._expendable = live, expendable
        self._first_error: EdgesegError | None = None
        self._waiting: deque[Event] = deque(maxlen=_EVENTS_WAITING)
        events.fill(self._waiting)

    def open_first(self, origin: Capture, frame: Frame) -> None:
        """Open the sinks of the first source that has a frame, and those of all. Raises StreamError where one
        cannot be.

        But for a sink of one of several sources, which that one's frames do not fit (their size, no rate):
        that is its affair. A place that cannot be written is everybody's; it is known by the OSError behind.
        """
        for output in self._of(origin.source_id):
            try:
                self._open(output, origin, frame)
            except Exception as error:
                if not self._is_its_own(output) or isinstance(error.__cause__, OSError):
                    raise
                self._fail(output, self._told(output, error))

    def write(self, origin: Capture, result: Result) -> None:
        """Give a result to every sink that is for it.

        Raises:
            EdgesegError: the last sink failed, and the run is nothing without one: the first failure of all.
            Exception: whatever else a sink of all sources raises is a bug, or a reader of stdout that is
                gone.
        """
        for output in self._of(origin.source_id):
            self._attempt(output, partial(self._write_to, output, origin, result))

    def idle(self) -> None:
        """Tell the sinks the events that came meanwhile."""
        while self._waiting:
            event = self._waiting.popleft()
            for output in self._outputs:
                concerned = output.for_all or event.source in ("", output.origin, output.name)
                if output.state == "OPEN" and concerned:
                    self._attempt(output, partial(output.sink.event, event))

    def close(self, failure: FirstError) -> None:
        """Close them all. What they cannot finish counts as their failure; bugs are left in `failure`."""
        failure.attempt(self.idle)
        for output in self._outputs:
            if output.state == "OPEN" or (
                output.opening is not None and output.opening.succeeded(_REOPEN_PATIENCE_S)
            ):
                failure.attempt(partial(self._close, output))

    def raise_if_all_failed(self) -> None:
        """Raise the first failure where the run has nothing to show for it."""
        if self._expendable or self._live():
            return
        if self._first_error and all(one.left or one.state == "FAILED" for one in self._outputs):
            raise self._first_error

    @property
    def abandoned(self) -> bool:
        """Whether all that the run was for were pipes, and their readers have gone."""
        return bool(self._outputs) and not self._expendable and all(output.left for output in self._outputs)

    def status(self) -> tuple[SinkStatus, ...]:
        """How they are doing. From any thread."""
        return tuple(output.status() for output in self._outputs)

    def failures(self) -> list[tuple[str, EdgesegError]]:
        """Sinks that do not hold all that they should: name and error."""
        return [
            (output.name, output.error)
            for output in self._outputs
            if output.error and (output.state == "FAILED" or not self._live())
        ]

    def _of(self, source_id: str) -> list[_Output]:
        return [output for output in self._outputs if output.origin in ("", source_id)]

    def _write_to(self, output: _Output, origin: Capture, result: Result) -> None:
        frame = result.frame
        if output.state == "FAILED" and self._reopened(output, origin, frame):
            output.state = "OPEN"
            self._events.emit(
                "sink_recovered", f"open again, {output.missed} frames were missed", output.name
            )
        if output.state == "WAITING":
            self._open(output, origin, frame)
        if output.state == "OPEN" and origin.is_live and output.origin and output.shape != _shape(frame):
            output.sink.close()
            self._open(output, origin, frame)
        if output.state != "OPEN":
            output.missed += 1
            return
        output.sink.write(result)
        output.written += 1
        output.wait_s = _RETRY_S

    def _open(self, output: _Output, origin: Capture, frame: Frame) -> None:
        # Marked as open before it is: a sink that fails half-way has something to close.
        output.state = "OPEN"
        self._opener(output, origin, frame)()

    def _opener(self, output: _Output, origin: Capture, frame: Frame) -> Callable[[], None]:
        output.shape = size_hw, output.sink.pixel_aspect = _shape(frame)
        fps = origin.fps or (_NOMINAL_FPS if origin.is_live else 0.0)
        return lambda: output.sink.open(size_hw, fps, self._labels)

    def _reopened(self, output: _Output, origin: Capture, frame: Frame) -> bool:
        """Whether a sink that failed is open again. It is tried on a thread of its own: a broker that is away
        takes seconds to say so.

        Raises what `open` raised.
        """
        if output.opening is None and self._clock() >= output.retry_at_s:
            output.opening = _Opening(self._opener(output, origin, frame))
        if output.opening is None or output.opening.thread.is_alive():
            return False
        opening, output.opening = output.opening, None
        opening.failure.reraise()
        return True

    def _close(self, output: _Output) -> None:
        output.state = "CLOSED"
        try:
            output.sink.close()
        except ReaderGone as gone:
            self._leave(output, gone)
        except Exception as error:  # noqa: BLE001  `_told` raises what is not the sink's
            self._fail(output, self._told(output, error))

    def _attempt(self, output: _Output, work: Callable[[], None]) -> None:
        """Do something with a sink; where it fails, take it out."""
        try:
            work()
        except ReaderGone as gone:
            self._leave(output, gone)
            self.raise_if_all_failed()
        except Exception as error:  # noqa: BLE001  `_told` raises what is not the sink's
            self._fail(output, self._told(output, error))
            self.raise_if_all_failed()

    def _is_its_own(self, output: _Output) -> bool:
        """Whether a sink belongs to one of several sources: then what goes wrong with it stops no other."""
        return self._several and bool(output.origin)

    def _told(self, output: _Output, error: Exception) -> EdgesegError:
        """The error as a failure of the sink. Raises it where it is none: a bug, but in a sink of its own."""
        if not (isinstance(error, EdgesegError) or self._is_its_own(output)):
            raise error
        return as_told(error, output.origin, f"{output.name} failed")

    def _leave(self, output: _Output, gone: ReaderGone) -> None:
        """A pipe's reader has seen enough: that sink ends, and is no failure."""
        output.state, output.left = "CLOSED", True
        with suppress(EdgesegError):
            output.sink.close()
        self._events.emit("sink_ended", str(gone), output.name)

    def _fail(self, output: _Output, error: EdgesegError) -> None:
        self._first_error = self._first_error or error
        was_closed = output.state == "CLOSED"
        output.error, output.state = error, "FAILED"
        retry_s = None
        if not was_closed:
            output.missed += 1
            with suppress(Exception):  # a consequence of the first
                output.sink.close()
        if self._live():
            retry_s, output.wait_s = output.wait_s, min(_RETRY_CAP_S, 2 * output.wait_s)
            output.retry_at_s = self._clock() + retry_s
        self._events.emit("sink_failed", str(error), output.name, hint=error.hint, retry_in_s=retry_s)


def _shape(frame: Frame) -> tuple[tuple[int, int], float]:
    """What a sink is opened for: height and width, and the shape of the pixels."""
    return (frame.image_rgb.shape[0], frame.image_rgb.shape[1]), frame.pixel_aspect
