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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import Progress
from edgeseg.images import opencv, resize_image, resize_mask
from edgeseg.specs import Frame, ImageU8, MaskU8
from edgeseg.stream.run.capture import Capture
from edgeseg.stream.run.channel import Channel, Closed, FirstError, received, send
from edgeseg.stream.run.levels import Choice, Levels
from edgeseg.stream.run.mailbox import Mailroom
from edgeseg.stream.run.outputs import Outputs
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.events import EventBus
from edgeseg.stream.watch.stats import Timings

OnFrame = Callable[[Frame, MaskU8, Mapping[str, Any]], None]

TASK = "segment"
STAGES = ("read", "resize", "infer", "postprocess", "write")
_POLL_S = 0.1
_RATE_FRAMES = 64


class _Prepared(NamedTuple):
    """A frame and its image at the program's size."""

    origin: Capture
    frame: Frame
    image_rgb: ImageU8
    resize_ms: float


class _Segmented(NamedTuple):
    """What the engine hands on; the mask has the program's size."""

    origin: Capture
    frame: Frame
    mask: MaskU8
    choice: Choice
    resize_ms: float
    infer_ms: float


class _Finished(NamedTuple):
    """What the sinks get; the mask has the frame's size. `share` is by mask value, (256,)."""

    origin: Capture
    frame: Frame
    mask: MaskU8
    record: Mapping[str, Any]
    share: npt.NDArray[np.float64]


class Lanes:
    """The threads of one run and the figures that they leave.

    Args:
        captures: the sources, in the order of their mailboxes.
        queue: frames between two lanes; one keeps live pictures fresh, more smooth out the stages of a file.
        limit: frames at most of each live source (files are limited where they are read).
        regions: by source id.
    """

    def __init__(
        self,
        levels: Levels,
        captures: Sequence[Capture],
        mailroom: Mailroom,
        outputs: Outputs,
        events: EventBus,
        progress: Progress,
        stop: threading.Event,
        *,
        queue: int,
        limit: int | None,
        on_frame: OnFrame | None,
        regions: Mapping[str, RegionMonitor],
    ) -> None:
        self.failure = FirstError()
        self.stages = {stage: Timings() for stage in STAGES if stage != "read"}
        self.latency, self.age = Timings(), Timings()
        self.written = threading.Event()
        self.frames = 0
        self.share_sum: npt.NDArray[np.float64] = np.zeros(256)
        self.finished_s: deque[float] = deque(maxlen=_RATE_FRAMES)
        self.start_s = time.monotonic()
        self._levels, self._captures, self._mailroom, self._outputs = levels, captures, mailroom, outputs
        self._events, self._progress, self._stop = events, progress, stop
        self._limit, self._on_frame, self._regions = limit, on_frame, regions
        self._ready = threading.Event()
        self._opened = threading.Event()
        self._to_infer: Channel[_Prepared] = Channel(queue)
        self._to_finish: Channel[_Segmented] = Channel(queue)
        self._to_write: Channel[_Finished] = Channel(queue)
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
        while not (self._opened.wait(_POLL_S) or self._stop.is_set() or self.written.is_set()):
            continue
        self.failure.reraise()

    def start(self) -> None:
        """Start the others, with the clock."""
        self.start_s = time.monotonic()
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
        while not self._stop.is_set():
            try:
                number, frame = self._mailroom.take(_POLL_S)
            except TimeoutError:
                continue
            except Closed:
                return
            origin = self._captures[number]
            prepared = origin.guard(frame, "resized", partial(self._prepared, origin, frame))
            if prepared is None:
                continue
            if not send(self._to_infer, prepared):
                return
            taken[number] += 1
            if origin.is_live and taken[number] == self._limit:
                origin.stop("the limit was reached")

    def _prepared(self, origin: Capture, frame: Frame) -> _Prepared:
        start_s = time.perf_counter()
        image_rgb = resize_image(frame.image_rgb, self._levels.program.image.size_hw, next(self._buffers))
        return _Prepared(origin, frame, image_rgb, self.stages["resize"].add_since(start_s))

    def _infer(self) -> None:
        for prepared in received(self._to_infer, self._stop):
            origin, frame = prepared.origin, prepared.frame
            if origin.mailbox.is_stale(frame):
                origin.mailbox.count_dropped("stale")
                continue
            segmented = origin.guard(frame, "segmented", partial(self._segmented, *prepared))
            if segmented is not None and not send(self._to_finish, segmented):
                return

    def _segmented(self, origin: Capture, frame: Frame, image_rgb: ImageU8, resize_ms: float) -> _Segmented:
        choice = self._levels.choice
        start_s = time.perf_counter()
        mask = self._levels.sessions[choice.level].infer(image_rgb)
        return _Segmented(origin, frame, mask, choice, resize_ms, self.stages["infer"].add_since(start_s))

    def _finish(self) -> None:
        for segmented in received(self._to_finish):
            finished = segmented.origin.guard(
                segmented.frame, "finished", partial(self._finished, *segmented)
            )
            if finished is not None and not send(self._to_write, finished):
                return

    def _finished(
        self,
        origin: Capture,
        frame: Frame,
        small_mask: MaskU8,
        choice: Choice,
        resize_ms: float,
        infer_ms: float,
    ) -> _Finished:
        """The mask at the frame's size, and the record that says what is in it."""
        names = self._levels.program.labels.names
        start_s = time.perf_counter()
        mask = resize_mask(small_mask, (frame.image_rgb.shape[0], frame.image_rgb.shape[1]))
        share = _class_share(mask)
        regions = self._regions_of(origin, frame, mask)
        other_ms = resize_ms + self.stages["postprocess"].add_since(start_s)
        now_s = time.monotonic()
        self._levels.finished(frame.index, choice.level, infer_ms, other_ms, now_s - self.start_s)
        if self._levels.choice != choice and self._levels.choice.level != choice.level:
            self._events.emit(
                "level", self._levels.choice.reason, before=choice.level, level=self._levels.choice.level
            )
        age_ms = 1e3 * (now_s - frame.arrival_s)
        self.latency.add(infer_ms + other_ms)
        self.age.add(age_ms)
        origin.count_segmented(age_ms)
        record = {
            "index": frame.index,
            "pts_s": round(frame.pts_s, 6) if origin.fps or origin.is_live else None,
            "source": frame.source_id,
            "name": frame.name,
            "class_share": {
                name: round(float(value), 6) for name, value in zip(names, share, strict=False) if value
            },
            **regions,
            "infer_ms": round(infer_ms, 3),
            "latency_ms": round(infer_ms + other_ms, 3),
            "age_ms": round(age_ms, 3),
            **({"pixel_aspect": round(frame.pixel_aspect, 6)} if frame.pixel_aspect != 1 else {}),
            **({"damaged": True} if frame.damaged else {}),
            "level": choice.level,
            "level_reason": choice.reason,
        }
        return _Finished(origin, frame, mask, record, share)

    def _regions_of(self, origin: Capture, frame: Frame, mask: MaskU8) -> dict[str, Any]:
        """The record's part about regions; publishes the thresholds that were crossed."""
        monitor = self._regions.get(origin.source_id)
        if monitor is None:
            return {}
        part, crossings = monitor.update(mask, frame.pts_s, frame.connection)
        for crossing in crossings:
            self._events.emit(crossing.kind, crossing.reason, origin.source_id, **crossing.details)
        return {"regions": part}

    def _write(self, origin: Capture, first: Frame) -> None:
        self._outputs.open_first(origin, first)
        self._opened.set()
        while True:
            try:
                finished = self._to_write.get(_POLL_S)
            except TimeoutError:
                self._outputs.idle()
                continue
            except Closed:
                return
            self._deliver(finished)
            self._outputs.idle()
            if self._outputs.abandoned:
                self._stop.set()
                return

    def _deliver(self, finished: _Finished) -> None:
        origin, frame, mask, record, share = finished
        with self.stages["write"].measure():
            self._outputs.write(origin, frame, mask, record)
        self.share_sum += share
        self.frames += 1
        self.finished_s.append(time.monotonic())
        origin.count_delivered()
        if self._levels.governor:
            self._progress.advance(TASK, level=str(record["level"]))
        else:
            self._progress.advance(TASK)
        if self._on_frame is not None:
            self._on_frame(frame, mask, record)


def _class_share(mask: MaskU8) -> npt.NDArray[np.float64]:
    """Share of the pixels of each value, shape (256,)."""
    cv2 = opencv()
    # OpenCV's histogram is fast, but counts in float32: exact up to 2**24 pixels.
    counts = np.zeros(256)
    for part in np.array_split(mask, -(-mask.size // 2**24)):
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel()
    shares: npt.NDArray[np.float64] = counts / mask.size
    return shares
