"""The main job: frames of one or more sources through a session into sinks, with all stages overlapped.

    source -> capture thread -> mailbox =+                  watch thread: states, time-outs, reconnects
    source -> capture thread -> mailbox =+==> prepare -> engine -> finish -> writer -> sinks
    source -> capture thread -> mailbox =+

Each source has its own thread, its own state and its own queue; one lane takes a frame from each in turn. The
caller's thread only waits, so Ctrl-C never lands inside a stage. Nothing waits without a time-out. Programs
have batch 1, so frames of several sources go through the engine one after the other.

With a governor, the finishing thread tells it each frame's times, and the engine's thread takes every frame
through the session of the level that is in force at that moment. A switch of levels touches no queue: no
frame is lost or overtaken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from edgeseg.contracts import FrameSource, Session
from edgeseg.errors import StreamError
from edgeseg.specs import Frame
from edgeseg.stream.run.capture import Capture, Mishandled, as_told
from edgeseg.stream.run.channel import Closed, FirstError
from edgeseg.stream.run.lanes import TASK, Lanes
from edgeseg.stream.run.levels import Levels
from edgeseg.stream.run.mailbox import Mailroom, Policy, PolicyOf, by_kind
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.outputs import Outputs, Sinks
from edgeseg.stream.run.report import Abandoned, Interrupted, Parts, RunReport, make_report, make_status
from edgeseg.stream.run.tally import Tally

_POLL_S = 0.1
_TICK_S = 0.05
# After a stop: the engine may finish its frame, then the sinks theirs, then all threads end. Together less
# than two seconds.
_DRAIN_S, _WRITE_S, _HURRY_S = 1.0, 1.4, 0.4
_PATIENCE_S = 10.0


def run(
    session: Session | Mapping[int, Session],
    source: FrameSource | Sequence[FrameSource],
    sinks: Sinks,
    options: Options | None = None,
) -> RunReport:
    """Segment the frames of sources, in order, into sinks. Opens and closes sources and sinks; sessions stay
    open.

    Every frame of a file is segmented. Of live sources the newest frame is kept, and a connection that is
    lost is made again, see `stream.run.supervisor`. A source that fails stops no other.

    Each sink gets a `Result`: the frame, its mask at the frame's size, exactly as `segment` of the frame's
    session gives it, and what is in it. Indices are those of the frames that came from the source: gaps are
    dropped frames.

    Args:
        session: an open session; with a governor one for each of its levels, by level.
        source: one or more, each with a `source_id` of its own.
        sinks: of all sources; or by source id, with those of all sources under "". A function is a sink.
        options: whatever else is asked of the run.
    Raises:
        StreamError: no source had a frame, all sources failed, or a sink could not be opened, or failed where
            it was all that the run was for; what was finished before is written. The first error of any
            thread is raised.
        BundleError: the levels differ in image or classes.
        Abandoned: the sinks were pipes, and their readers went away; the exception carries the report.
        Interrupted: Ctrl-C; sinks are closed, and the exception carries the report. A second Ctrl-C does not
            wait for them.
        ValueError: two sources with one id, or sinks, policies or regions of a source that is not there.
    """
    options = options or Options()
    sessions = session if isinstance(session, Mapping) else {options.level: session}
    sources = list(source) if isinstance(source, Sequence) else [source]
    return _Run(Levels(sessions, options.governor), sources, sinks, options).execute()


class _Run:
    """One run: its sources, its lanes, the thread that watches over the sources, and the caller's thread,
    which waits.
    """

    def __init__(
        self, levels: Levels, sources: Sequence[FrameSource], sinks: Sinks, options: Options
    ) -> None:
        policies = _policies(sources, options)
        self._levels, self._options, self._tally = levels, options, Tally()
        events, failure, ids = options.monitor.events, FirstError(), [one.source_id for one in sources]
        self._mailroom = Mailroom()
        self._captures: list[Capture] = []
        expendable = options.on_result is not None
        self._outputs = Outputs(
            sinks, ids, levels.program.labels, events, live=lambda: self._live, expendable=expendable
        )
        events.start_s = time.monotonic()
        for source, policy in zip(sources, policies, strict=True):
            box = self._mailroom.add(policy(source.is_live))
            self._captures.append(
                Capture(source, box, events, failure, options.patience, options.limit, policy)
            )
        self._lanes = Lanes(
            levels, self._captures, self._mailroom, self._outputs, self._tally, failure, options
        )
        self._parts = Parts(self._tally, levels, self._captures, self._outputs, events)
        self._over = threading.Event()
        self._watcher = threading.Thread(
            target=lambda: failure.attempt(self._watch), name="edgeseg-watch", daemon=True
        )

    @property
    def _live(self) -> bool:
        """Whether a source is live, as far as they have been opened."""
        return any(capture.is_live for capture in self._captures)

    def execute(self) -> RunReport:
        """The whole run; raises as `run`."""
        interrupted = started = False
        self._options.monitor.attach(lambda: make_status(self._parts))
        try:
            self._watcher.start()
            first = self._first_frame()
            if first is not None:
                self._begin(*first)
                started = True
                self._wait()
        except KeyboardInterrupt:
            self._options.stop.set()
            if not started:
                raise
            interrupted = True
            self._wait()
        finally:
            self._end()
        self._lanes.failure.reraise()
        self._raise_if_all_failed()
        self._outputs.raise_if_all_failed()
        self._options.progress.finish(TASK)
        report = make_report(self._parts, expected=self._total(), interrupted=self._options.stop.is_set())
        if self._outputs.abandoned:
            raise Abandoned(report)
        if interrupted:
            raise Interrupted(report)
        return report

    def _first_frame(self) -> tuple[Capture, Frame] | None:
        """Wait for the first frame of any source; it stays where it is. None where the run was stopped before
        there was one.
        """
        start_s = self._options.patience.start_s
        give_up_s = None if start_s is None else time.monotonic() + start_s
        while not self._options.stop.is_set():
            self._lanes.failure.reraise()
            try:
                number, frame = self._mailroom.peek(_POLL_S)
            except TimeoutError:
                if self._live and give_up_s is not None and time.monotonic() > give_up_s:
                    raise self._no_frames() from None
                continue
            except Closed:
                self._lanes.failure.reraise()
                self._raise_if_all_failed()
                raise self._no_frames() from None
            return self._captures[number], frame
        return None

    def _begin(self, origin: Capture, frame: Frame) -> None:
        """Open the sinks, warm the engine up, start the clock."""
        self._tally.size_hw = (frame.image_rgb.shape[0], frame.image_rgb.shape[1])
        self._lanes.open_sinks(origin, frame)
        # Not the frame: what is wrong with it is its source's affair, what is wrong with this is everybody's.
        image_rgb = np.zeros((*self._levels.program.image.size_hw, 3), np.uint8)
        for session in self._levels.sessions.values():
            for _ in range(self._options.warmup):
                session.infer(image_rgb)
        self._options.progress.start(TASK, self._total())
        self._lanes.start()

    def _wait(self) -> None:
        """Until the writer is done. After a stop an engine that hangs is given up, and so is a sink, in the
        end.
        """
        stopped_s = None
        while not self._lanes.written.wait(_POLL_S):
            if self._options.stop.is_set():
                now_s = time.monotonic()
                stopped_s = stopped_s or now_s
                if now_s > stopped_s + _DRAIN_S:
                    self._lanes.give_up_engine()
                if now_s > stopped_s + _WRITE_S:
                    return

    def _end(self) -> None:
        """End every thread, as far as it can be ended."""
        self._tally.wall_s = time.monotonic() - self._tally.start_s
        self._over.set()
        for capture in self._captures:
            capture.stop("the run ended")
        deadline_s = time.monotonic() + (_HURRY_S if self._options.stop.is_set() else _PATIENCE_S)
        self._lanes.cancel(deadline_s)
        for thread in [*(thread for capture in self._captures for thread in capture.threads), self._watcher]:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        self._options.monitor.detach()
        self._options.monitor.events.close()

    def _watch(self) -> None:
        while True:
            for capture in self._captures:
                try:
                    capture.tick()
                except Exception as error:  # noqa: BLE001  raised in the end, where no source is left
                    capture.fail(as_told(error, capture.source_id, "could not be connected"))
            if self._over.wait(_TICK_S):
                return

    def _no_frames(self) -> StreamError:
        states = [capture.status() for capture in self._captures]
        told = [
            f"{state.source}: {state.last_error}"
            for state in states
            if state.last_error and state.source not in state.last_error
        ]
        told += [
            state.last_error for state in states if state.last_error and state.source in state.last_error
        ]
        names = ", ".join(capture.source_id for capture in self._captures)
        return StreamError(
            "; ".join(told) or f"{names}: no frames",
            hint="check the source, and that the limit is at least 1",
        )

    def _raise_if_all_failed(self) -> None:
        errors = [capture.error for capture in self._captures if capture.error]
        if len(errors) == len(self._captures):
            first = errors[0]
            raise first.bug if isinstance(first, Mishandled) else first

    def _total(self) -> int | None:
        """Frames that will come, where all sources know."""
        counts = [capture.frame_count for capture in self._captures]
        known, limit = [count for count in counts if count is not None], self._options.limit
        if len(known) < len(counts):
            return None
        return sum(known) if limit is None else sum(min(count, limit) for count in known)


def _policies(sources: Sequence[FrameSource], options: Options) -> list[PolicyOf]:
    """One for each source. Raises ValueError where sources share an id, or something is for none of them."""
    ids = [source.source_id for source in sources]
    if not ids or len(set(ids)) != len(ids):
        raise ValueError(f"a run needs one or more sources, each with an id of its own, not {ids}")
    policy = options.policy
    by_id = policy if isinstance(policy, Mapping) else dict.fromkeys(ids, policy) if policy else {}
    unknown = sorted({*by_id, *options.regions} - set(ids))
    if unknown:
        raise ValueError(f"there are policies or regions for {unknown}, and the sources are {ids}")
    chosen = [by_id.get(source_id, by_kind) for source_id in ids]
    return [_always(one) if isinstance(one, Policy) else one for one in chosen]


def _always(policy: Policy) -> PolicyOf:
    return lambda is_live: policy
