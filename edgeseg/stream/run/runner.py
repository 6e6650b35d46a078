"""The main job: frames of one or more sources through a session into sinks, with all stages overlapped.

    source -> capture thread -> mailbox =+                                     watch thread: states,
    time-outs, reconnects source -> capture thread -> mailbox =+==> prepare -> engine -> finish -> writer ->
    sinks source -> capture thread -> mailbox =+

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

from edgeseg.contracts import FrameSink, FrameSource, NoProgress, Progress, Session
from edgeseg.errors import StreamError
from edgeseg.specs import Frame
from edgeseg.stream.run.capture import Capture, Mishandled, as_told
from edgeseg.stream.run.channel import Closed
from edgeseg.stream.run.governor import Governor
from edgeseg.stream.run.lanes import TASK, Lanes, OnFrame
from edgeseg.stream.run.levels import Levels
from edgeseg.stream.run.mailbox import Mailroom, Policy, PolicyOf, by_kind
from edgeseg.stream.run.outputs import Outputs
from edgeseg.stream.run.report import Abandoned, Interrupted, RunReport, make_report, make_status
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.status import Monitor, RunStatus

_LIVE_QUEUE, _RECORDED_QUEUE = 1, 2
_POLL_S = 0.1
_TICK_S = 0.05
# After a stop: the engine may finish its frame, then the sinks theirs, then all threads end. Together less
# than two seconds.
_DRAIN_S, _WRITE_S, _HURRY_S = 1.0, 1.4, 0.4
_PATIENCE_S = 10.0


def run(
    session: Session | Mapping[int, Session],
    source: FrameSource | Sequence[FrameSource],
    sinks: Sequence[FrameSink] | Mapping[str, Sequence[FrameSink]],
    *,
    limit: int | None = None,
    warmup: int = 1,
    level: int = 0,
    governor: Governor | None = None,
    policy: Policy | Mapping[str, Policy | PolicyOf] | None = None,
    patience: Patience | None = None,
    regions: Mapping[str, RegionMonitor] | None = None,
    on_frame: OnFrame | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    monitor: Monitor | None = None,
) -> RunReport:
    """Segment the frames of sources, in order, into sinks. Opens and closes sources and sinks; sessions stay
    open.

    Every frame of a file is segmented. Of live sources the newest frame is kept, and a connection that is
    lost is made again, see `stream.supervisor`. A source that fails stops no other.

    Each sink gets the frame, its mask at the frame's size, exactly as `segment` of the frame's session gives
    it, and a record: `index` (of the frames that came from the source: gaps are dropped frames), `pts_s`
    (None for pictures without a rate), `source`, `name`, `class_share` (class name -> share of the frame's
    pixels, classes present), `regions` (where there are any: region -> class -> share), `infer_ms`,
    `latency_ms` (resize, infer and postprocess, without waiting), `age_ms` (from the frame's arrival to the
    finished mask, waiting included), `level` and `level_reason` (see `stream.levels.Choice`); `pixel_aspect`
    (width of a pixel over its height) and `damaged` where they are not 1 and false.

    Args:
        session: an open session; with a governor one for each of its levels, by level.
        source: one or more, each with a `source_id` of its own.
        sinks: of all sources; or by source id, with those of all sources under "".
        limit: frames at most, of each source.
        warmup: inferences on a black picture, with every session, when the first frame is there and before
            the clock starts.
        level: the bundle's program level that the session runs, for the records; not used with a governor.
        governor: chooses the level of each frame.
        policy: which frames are dropped, for all sources or by source id, also by whether it is live; else
            `policy.by_kind`.
        patience: time-outs and waits of live sources.
        regions: what is watched in the masks, by source id; what crosses a threshold is an event.
        on_frame: called with what the sinks got, after them, on the writer's thread.
        stop: ends the run in good order within two seconds when set: what was inferred is written.
        monitor: shows the run while it goes on.
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
    levels = Levels(session if isinstance(session, Mapping) else {level: session}, governor)
    sources = list(source) if isinstance(source, Sequence) else [source]
    running = _Run(
        levels,
        sources,
        sinks,
        limit=limit,
        policies=_policies(sources, policy, regions or {}),
        patience=patience or Patience(),
        regions=regions or {},
        on_frame=on_frame,
        progress=progress or NoProgress(),
        stop=stop or threading.Event(),
        monitor=monitor or Monitor(),
    )
    return running.execute(warmup)


class _Run:
    """One run: its sources, its lanes, the thread that watches over the sources, and the caller's thread,
    which waits.
    """

    def __init__(
        self,
        levels: Levels,
        sources: Sequence[FrameSource],
        sinks: Sequence[FrameSink] | Mapping[str, Sequence[FrameSink]],
        *,
        limit: int | None,
        policies: Sequence[PolicyOf],
        patience: Patience,
        regions: Mapping[str, RegionMonitor],
        on_frame: OnFrame | None,
        progress: Progress,
        stop: threading.Event,
        monitor: Monitor,
    ) -> None:
        self._levels, self._limit, self._patience = levels, limit, patience
        self._progress, self._stop, self._monitor = progress, stop, monitor
        events = monitor.events
        self._mailroom = Mailroom()
        self._captures: list[Capture] = []
        self._outputs = Outputs(
            sinks,
            [source.source_id for source in sources],
            levels.program.labels,
            events,
            live=lambda: self._live,
            expendable=on_frame is not None,
        )
        self._lanes = Lanes(
            levels,
            self._captures,
            self._mailroom,
            self._outputs,
            events,
            progress,
            stop,
            queue=_LIVE_QUEUE if any(source.is_live for source in sources) else _RECORDED_QUEUE,
            limit=limit,
            on_frame=on_frame,
            regions=regions,
        )
        events.start_s = time.monotonic()
        for source, policy in zip(sources, policies, strict=True):
            box = self._mailroom.add(policy(source.is_live))
            self._captures.append(Capture(source, box, events, self._lanes.failure, patience, limit, policy))
        self._over = threading.Event()
        self._watcher = threading.Thread(
            target=lambda: self._lanes.failure.attempt(self._watch), name="edgeseg-watch", daemon=True
        )
        self._size_hw: tuple[int, int] | None = None
        self._wall_s = 0.0

    @property
    def _live(self) -> bool:
        """Whether a source is live, as far as they have been opened."""
        return any(capture.is_live for capture in self._captures)

    def execute(self, warmup: int) -> RunReport:
        """The whole run; raises as `run`."""
        interrupted = started = False
        self._monitor.attach(self._status)
        try:
            self._watcher.start()
            first = self._first_frame()
            if first is not None:
                self._begin(*first, warmup)
                started = True
                self._wait()
        except KeyboardInterrupt:
            self._stop.set()
            if not started:
                raise
            interrupted = True
            self._wait()
        finally:
            self._end()
        self._lanes.failure.reraise()
        self._raise_if_all_failed()
        self._outputs.raise_if_all_failed()
        self._progress.finish(TASK)
        report = self._report()
        if self._outputs.abandoned:
            raise Abandoned(report)
        if interrupted:
            raise Interrupted(report)
        return report

    def _first_frame(self) -> tuple[Capture, Frame] | None:
        """Wait for the first frame of any source; it stays where it is. None where the run was stopped before
        there was one.
        """
        give_up_s = None if self._patience.start_s is None else time.monotonic() + self._patience.start_s
        while not self._stop.is_set():
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

    def _begin(self, origin: Capture, frame: Frame, warmup: int) -> None:
        """Open the sinks, warm the engine up, start the clock."""
        self._size_hw = (frame.image_rgb.shape[0], frame.image_rgb.shape[1])
        self._lanes.open_sinks(origin, frame)
        # Not the frame: what is wrong with it is its source's affair, what is wrong with this is everybody's.
        image_rgb = np.zeros((*self._levels.program.image.size_hw, 3), np.uint8)
        for session in self._levels.sessions.values():
            for _ in range(warmup):
                session.infer(image_rgb)
        self._progress.start(TASK, self._total())
        self._lanes.start()

    def _wait(self) -> None:
        """Until the writer is done. After a stop an engine that hangs is given up, and so is a sink, in the
        end.
        """
        stopped_s = None
        while not self._lanes.written.wait(_POLL_S):
            if self._stop.is_set():
                now_s = time.monotonic()
                stopped_s = stopped_s or now_s
                if now_s > stopped_s + _DRAIN_S:
                    self._lanes.give_up_engine()
                if now_s > stopped_s + _WRITE_S:
                    return

    def _end(self) -> None:
        """End every thread, as far as it can be ended."""
        self._wall_s = time.monotonic() - self._lanes.start_s
        self._over.set()
        for capture in self._captures:
            capture.stop("the run ended")
        deadline_s = time.monotonic() + (_HURRY_S if self._stop.is_set() else _PATIENCE_S)
        self._lanes.cancel(deadline_s)
        for thread in [*(thread for capture in self._captures for thread in capture.threads), self._watcher]:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        self._monitor.detach()
        self._monitor.events.close()

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
        if any(count is None for count in counts):
            return None
        return sum(
            count if self._limit is None else min(count, self._limit) for count in counts if count is not None
        )

    def _status(self) -> RunStatus:
        return make_status(self._lanes, self._levels, self._captures, self._outputs, self._monitor.events)

    def _report(self) -> RunReport:
        return make_report(
            self._lanes,
            self._levels,
            self._captures,
            self._outputs,
            self._monitor.events,
            size_hw=self._size_hw,
            expected=self._total(),
            interrupted=self._stop.is_set(),
            wall_s=self._wall_s,
        )


def _policies(
    sources: Sequence[FrameSource],
    policy: Policy | Mapping[str, Policy | PolicyOf] | None,
    regions: Mapping[str, RegionMonitor],
) -> list[PolicyOf]:
    """One for each source. Raises ValueError where sources share an id, or something is for none of them."""
    ids = [source.source_id for source in sources]
    if not ids or len(set(ids)) != len(ids):
        raise ValueError(f"a run needs one or more sources, each with an id of its own, not {ids}")
    by_id = policy if isinstance(policy, Mapping) else dict.fromkeys(ids, policy) if policy else {}
    unknown = sorted({*by_id, *regions} - set(ids))
    if unknown:
        raise ValueError(f"there are policies or regions for {unknown}, and the sources are {ids}")
    chosen = [by_id.get(source_id, by_kind) for source_id in ids]
    return [_always(one) if isinstance(one, Policy) else one for one in chosen]


def _always(policy: Policy) -> PolicyOf:
    return lambda is_live: policy
