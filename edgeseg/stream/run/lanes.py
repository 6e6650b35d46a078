"""The stages between the mailboxes and the sinks, each on a thread of its own.

    mailboxes ==> prepare ==> engine ==> finish ==> writer ==> sinks
                  resize      infer      mask to frame size,  write
                                ^        shares, regions
                                +-------- level -------- governor

Decoders, encoders and runtimes leave Python's lock while they work, so threads are enough. Bounded channels
join the lanes. Whoever ends, in whatever way, closes the channel ahead (what is in it is still written) and
cancels the one behind. What goes wrong with a frame costs its source, not the lane: `Capture.guard`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.images import resize_image, resize_mask
from edgeseg.results import Result, class_shares, value_shares
from edgeseg.specs import Frame, ImageU8, MaskU8
from edgeseg.stream.run.capture import Capture
from edgeseg.stream.run.channel import Channel, Closed, FirstError, received, send
from edgeseg.stream.run.levels import Choice, Levels
from edgeseg.stream.run.mailbox import Mailroom
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.outputs import Outputs
from edgeseg.stream.run.tally import Tally

TASK = "segment"
_LIVE_QUEUE, _RECORDED_QUEUE = 1, 2
_POLL_S = 0.1


@dataclass(slots=True)
class Job:
    """One frame on its way; each lane adds what it makes of it.

    Attributes:
        image_rgb: at the program's size, in a buffer that is used again when the engine is done with it.
        small_mask: the engine's, at the program's mask size.
        share: share of the frame's pixels of each mask value, (256,).
    """

    origin: Capture
    frame: Frame
    image_rgb: ImageU8
    resize_ms: float
    choice: Choice = field(init=False)
    small_mask: MaskU8 = field(init=False)
    infer_ms: float = field(init=False)
    share: npt.NDArray[np.float64] = field(init=False)
    result: Result = field(init=False)


class Lanes:
    """The threads of one run; the figures that they leave are in `tally`.

    Args:
        captures: the sources, in the order of their mailboxes.
        failure: gets the first error of any lane.
    """

    def __init__(
        self,
        levels: Levels,
        captures: Sequence[Capture],
        mailroom: Mailroom,
        outputs: Outputs,
        tally: Tally,
        failure: FirstError,
        options: Options,
    ) -> None:
        self.failure = failure
        self.written = threading.Event()
        self._levels, self._captures, self._mailroom, self._outputs = levels, captures, mailroom, outputs
        self._tally, self._options, self._events = tally, options, options.monitor.events
        self._opened = threading.Event()
        # One between two lanes keeps live pictures fresh, more smooth out the stages of a file.
        queue = _LIVE_QUEUE if any(capture.is_live for capture in captures) else _RECORDED_QUEUE
        self._to_infer: Channel[Job] = Channel(queue)
        self._to_finish: Channel[Job] = Channel(queue)
        self._to_write: Channel[Job] = Channel(queue)
        size_hw = levels.program.image.size_hw
        # One in the engine, one being filled, and those in between.
        self._buffers = cycle([np.empty((*size_hw, 3), np.uint8) for _ in range(queue + 2)])
        self._threads: list[threading.Thread] = []

    def open_sinks(self, origin: Capture, frame: Frame) -> None:
        """Start the writer's thread, which opens the sinks first. Returns when they are open; raises where
        one cannot be.

        KeyboardInterrupt, or the stop event, end the waiting.
        """
        self._start("writer", lambda: self._write(origin, frame), self._to_write, None)
        while not (self._opened.wait(_POLL_S) or self._options.stop.is_set() or self.written.is_set()):
            continue
        self.failure.reraise()

    def start(self) -> None:
        """Start the others, with the clock."""
        self._tally.start_s = time.monotonic()
        self._start("prepare", self._prepare, None, self._to_infer)
        self._start("engine", self._infer, self._to_infer, self._to_finish)
        self._start("finish", self._finish, self._to_finish, self._to_write)

    def give_up_engine(self) -> None:
        """The engine hangs: what it had finished is written."""
        self._to_finish.close()

    def cancel(self, deadline_s: float) -> None:
        """End all lanes; those that hang at `deadline_s`, a reading of the monotonic clock, are left
        behind.
        """
        for channel in (self._to_infer, self._to_finish, self._to_write):
            channel.cancel()
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _start(
        self, name: str, work: Callable[[], None], inbox: Channel[Any] | None, outbox: Channel[Any] | None
    ) -> None:
        thread = threading.Thread(
            target=lambda: self._lane(work, inbox, outbox), name=f"edgeseg-{name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _lane(
        self, work: Callable[[], None], inbox: Channel[Any] | None, outbox: Channel[Any] | None
    ) -> None:
        """One thread's life: it leaves its error, lets the lanes before it end, and the lanes after it
        finish.
        """
        self.failure.attempt(work)
        if inbox is not None:
            inbox.cancel()
        else:
            self._mailroom.cancel()
        if outbox is not None:
            outbox.close()
        else:
            self._outputs.close(self.failure)
            self.written.set()

    def _prepare(self) -> None:
        taken = [0] * len(self._captures)
        while not self._options.stop.is_set():
            try:
                number, frame = self._mailroom.take(_POLL_S)
            except TimeoutError:
                continue
            except Closed:
                return
            origin = self._captures[number]
            job = origin.guard(frame, "resized", partial(self._prepared, origin, frame))
            if job is None:
                continue
            if not send(self._to_infer, job):
                return
            taken[number] += 1
            if origin.is_live and taken[number] == self._options.limit:
                origin.stop("the limit was reached")

    def _prepared(self, origin: Capture, frame: Frame) -> Job:
        start_s = time.perf_counter()
        image_rgb = resize_image(frame.image_rgb, self._levels.program.image.size_hw, next(self._buffers))
        return Job(origin, frame, image_rgb, self._tally.stages["resize"].add_since(start_s))

    def _infer(self) -> None:
        for job in received(self._to_infer, self._options.stop):
            if job.origin.mailbox.is_stale(job.frame):
                job.origin.mailbox.count_dropped("stale")
                continue
            segmented = job.origin.guard(job.frame, "segmented", partial(self._segmented, job))
            if segmented and not send(self._to_finish, job):
                return

    def _segmented(self, job: Job) -> Job:
        job.choice = self._levels.choice
        start_s = time.perf_counter()
        job.small_mask = self._levels.sessions[job.choice.level].infer(job.image_rgb)
        job.infer_ms = self._tally.stages["infer"].add_since(start_s)
        return job

    def _finish(self) -> None:
        for job in received(self._to_finish):
            finished = job.origin.guard(job.frame, "finished", partial(self._finished, job))
            if finished and not send(self._to_write, job):
                return

    def _finished(self, job: Job) -> Job:
        """Add the mask at the frame's size, and what is in it."""
        origin, frame, labels = job.origin, job.frame, self._levels.program.labels
        start_s = time.perf_counter()
        mask = resize_mask(job.small_mask, (frame.image_rgb.shape[0], frame.image_rgb.shape[1]))
        job.share = value_shares(mask)
        regions = self._regions_of(origin, frame, mask)
        other_ms = job.resize_ms + self._tally.stages["postprocess"].add_since(start_s)
        now_s = time.monotonic()
        self._govern(job, other_ms, now_s)
        job.result = Result(
            frame,
            mask,
            labels,
            class_shares(job.share, labels),
            time_s=frame.pts_s if origin.fps or origin.is_live else None,
            infer_ms=job.infer_ms,
            latency_ms=job.infer_ms + other_ms,
            age_ms=1e3 * (now_s - frame.arrival_s),
            level=job.choice.level,
            level_reason=job.choice.reason,
            regions=regions,
        )
        self._tally.latency.add(job.result.latency_ms)
        self._tally.age.add(job.result.age_ms)
        origin.count_segmented(job.result.age_ms)
        return job

    def _govern(self, job: Job, other_ms: float, now_s: float) -> None:
        """Tell the governor a frame's times; where that moves the level, an event says so."""
        levels, before = self._levels, job.choice
        levels.finished(job.frame.index, before.level, job.infer_ms, other_ms, now_s - self._tally.start_s)
        after = levels.choice
        if after != before and after.level != before.level:
            self._events.emit("level", after.reason, before=before.level, level=after.level)

    def _regions_of(self, origin: Capture, frame: Frame, mask: MaskU8) -> dict[str, Any]:
        """Shares of the regions; publishes the thresholds that were crossed."""
        monitor = self._options.regions.get(origin.source_id)
        if monitor is None:
            return {}
        part, crossings = monitor.update(mask, frame.pts_s, frame.connection)
        for crossing in crossings:
            self._events.emit(crossing.kind, crossing.reason, origin.source_id, **crossing.details)
        return part

    def _write(self, origin: Capture, first: Frame) -> None:
        self._outputs.open_first(origin, first)
        self._opened.set()
        while True:
            try:
                job = self._to_write.get(_POLL_S)
            except TimeoutError:
                self._outputs.idle()
                continue
            except Closed:
                return
            self._deliver(job)
            self._outputs.idle()
            if self._outputs.abandoned:
                self._options.stop.set()
                return

    def _deliver(self, job: Job) -> None:
        with self._tally.stages["write"].measure():
            self._outputs.write(job.origin, job.result)
        self._tally.written(job.share)
        job.origin.count_delivered()
        progress, on_result = self._options.progress, self._options.on_result
        if self._levels.governor:
            progress.advance(TASK, level=str(job.result.level))
        else:
            progress.advance(TASK)
        if on_result is not None:
            on_result(job.result)
