"""The main job: frames through a session into sinks, with reading, inference and writing overlapped.

    reader thread            engine thread      writer thread
    source -> resize  ====>  infer       ====>  mask to frame size, shares -> sinks
                               ^-------- level -------- governor

Decoders, encoders and runtimes leave Python's lock while they work, so threads are enough. Two bounded channels join the lanes.
Whoever ends, in whatever way, closes the channel ahead (what is in it is still written) and cancels the one behind (the lanes
before it end). The caller's thread only waits, so Ctrl-C never lands inside a stage.

With a governor, the writer's thread tells it each frame's times, and the engine's thread takes every frame through the session of
the level that is in force at that moment. A switch of levels touches neither channel: no frame is lost or overtaken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseg.contracts import FrameSink, FrameSource, NoProgress, Progress, Session
from edgeseg.errors import StreamError
from edgeseg.images import opencv, resize_image, resize_mask
from edgeseg.specs import Frame, ImageU8, MaskU8
from edgeseg.stream.channel import Channel, FirstError, received, send
from edgeseg.stream.governor import Governor
from edgeseg.stream.levels import Choice, Levels
from edgeseg.stream.report import Interrupted, RunReport, describe_host
from edgeseg.stream.stats import Timings

OnFrame = Callable[[Frame, MaskU8, Mapping[str, Any]], None]

_TASK = "segment"
_QUEUE_FRAMES = 2
_POLL_S = 0.1
_DRAIN_S = 2.0
_PATIENCE_S = 10.0

LANES: dict[str, tuple[str, ...]] = {"reader": ("read", "resize"), "engine": ("infer",), "writer": ("postprocess", "write")}
"""Which stages share a thread."""


def run(
    session: Session | Mapping[int, Session],
    source: FrameSource,
    sinks: Sequence[FrameSink],
    *,
    limit: int | None = None,
    warmup: int = 1,
    level: int = 0,
    governor: Governor | None = None,
    on_frame: OnFrame | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> RunReport:
    """Segment every frame of a source, in order, into every sink. Opens and closes source and sinks; sessions stay open.

    Each sink gets the frame, its mask at the frame's size, exactly as `segment` of the frame's session gives it, and a record:
    `index`, `pts_s` (None for pictures without a rate), `source`, `name`, `class_share` (class name -> share of the frame's
    pixels, classes present), `infer_ms`, `latency_ms` (resize, infer and postprocess, without waiting), `age_ms` (from the
    source's hand-over to the finished mask, waiting included), `level` and `level_reason` (see `stream.levels.Choice`).

    Args:
        session: an open session; with a governor one for each of its levels, by level.
        limit: frames at most.
        warmup: inferences on the first frame, with every session, before the clock starts.
        level: the bundle's program level that the session runs, for the records; not used with a governor.
        governor: chooses the level of each frame.
        on_frame: called with what the sinks got, after them, on the writer's thread.
        stop: ends the run in good order when set: what was inferred is written.
    Raises:
        StreamError: source or sink failed; what was finished before is written. The first error of any thread is raised.
        BundleError: the levels differ in image or classes.
        Interrupted: Ctrl-C; sinks are closed, and the exception carries the report. A second Ctrl-C does not wait for them.
    """
    levels = Levels(session if isinstance(session, Mapping) else {level: session}, governor)
    pipeline = _Pipeline(levels, source, sinks, on_frame, progress or NoProgress(), stop or threading.Event())
    with ExitStack() as closing:
        closing.callback(pipeline.close_idle, "reader", source)
        source.open()
        frames = _timed(islice(source.frames(), limit), pipeline.stages["read"])
        first = next(frames, None)
        if first is None:
            raise StreamError(f"{source.source_id}: no frames", hint="check the source, and that the limit is at least 1")
        size_hw = (first.image_rgb.shape[0], first.image_rgb.shape[1])
        for sink in sinks:
            closing.callback(pipeline.close_idle, "writer", sink)
            sink.open(size_hw, source.fps, levels.program.labels)
        for one in levels.sessions.values():
            for _ in range(warmup):
                one.infer(resize_image(first.image_rgb, levels.program.image.size_hw))
        total = source.frame_count if limit is None or source.frame_count is None else min(limit, source.frame_count)
        interrupted = pipeline.execute(chain([first], frames), total)
    pipeline.failure.reraise()
    report = pipeline.report(size_hw, total)
    if interrupted:
        raise Interrupted(report)
    return report


class _Segmented(NamedTuple):
    """What the engine's thread hands on; the mask has the program's size."""

    frame: Frame
    mask: MaskU8
    choice: Choice
    resize_ms: float
    infer_ms: float


class _Pipeline:
    """The three lanes of one run and what they share."""

    def __init__(
        self,
        levels: Levels,
        source: FrameSource,
        sinks: Sequence[FrameSink],
        on_frame: OnFrame | None,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.failure = FirstError()
        self.stages = {stage: Timings() for stages in LANES.values() for stage in stages}
        self._levels, self._source, self._sinks = levels, source, sinks
        self._on_frame, self._progress, self._stop = on_frame, progress, stop
        self._to_infer: Channel[tuple[Frame, ImageU8, float]] = Channel(_QUEUE_FRAMES)
        self._to_write: Channel[_Segmented] = Channel(_QUEUE_FRAMES)
        self._threads: dict[str, threading.Thread] = {}
        self._written = threading.Event()
        self._frames_read = self._frames_written = 0
        self._age, self._latency = Timings(), Timings()
        self._share_sum: npt.NDArray[np.float64] = np.zeros(256)
        self._start_s = self._wall_s = 0.0

    def execute(self, frames: Iterator[Frame], total: int | None) -> bool:
        """Run all lanes to their end. True where Ctrl-C ended them; raises the first error of any lane."""
        lanes: dict[str, Callable[[], None]] = {
            "reader": lambda: self._lane(lambda: self._read(frames), None, self._to_infer),
            "engine": lambda: self._lane(self._infer, self._to_infer, self._to_write),
            "writer": lambda: self._lane(self._write, self._to_write, None),
        }
        self._threads = {name: threading.Thread(target=work, name=f"edgeseg-{name}", daemon=True) for name, work in lanes.items()}
        interrupted = False
        self._progress.start(_TASK, total)
        self._start_s = time.monotonic()
        try:
            for thread in self._threads.values():
                thread.start()
            self._wait()
        except KeyboardInterrupt:
            interrupted = True
            self._stop.set()
            self._wait()
        finally:
            self._wall_s = time.monotonic() - self._start_s
            self._to_infer.cancel()
            self._to_write.cancel()
            for thread in self._threads.values():
                if thread.ident is not None:
                    thread.join(_PATIENCE_S)
        self.failure.reraise()
        self._progress.finish(_TASK)
        return interrupted

    def close_idle(self, lane: str, end: FrameSource | FrameSink) -> None:
        """Close a source or sink, unless its lane is stuck in it: closing it then would crash the process."""
        thread = self._threads.get(lane)
        if thread is None or not thread.is_alive():
            self.failure.attempt(end.close)

    def report(self, size_hw: tuple[int, int], total: int | None) -> RunReport:
        program, wall_ms = self._levels.program, 1e3 * self._wall_s
        busiest = max(LANES.values(), key=lambda lane: sum(self.stages[stage].total_ms for stage in lane))
        share = self._share_sum / max(1, self._frames_written)
        return RunReport(
            source=self._source.source_id,
            source_fps=self._source.fps,
            size_hw=size_hw,
            program={
                "arch": program.arch,
                "precision": program.precision,
                "isr": str(program.isr),
                "size_hw": program.image.size_hw,
                "mask_stride": program.mask_stride,
            },
            level=min(self._levels.sessions),
            frames=self._frames_written,
            frames_expected=total,
            frames_dropped=self._frames_read - self._frames_written,
            interrupted=self._stop.is_set(),
            wall_s=self._wall_s,
            fps=self._frames_written / self._wall_s,
            stages={name: {**timings.to_json(), "busy": timings.total_ms / wall_ms} for name, timings in self.stages.items()},
            latency=self._latency.to_json(),
            frame_age=self._age.to_json(),
            governor=self._levels.report(),
            bottleneck=max(busiest, key=lambda stage: self.stages[stage].total_ms),
            class_share={name: float(share[index]) for index, name in enumerate(program.labels.names)},
            host=describe_host(),
        )

    def _wait(self) -> None:
        """Until the writer is done. After a stop an engine that hangs is given up, and what it had finished is written."""
        give_up_s = None
        while not self._written.wait(_POLL_S):
            if self._stop.is_set():
                give_up_s = give_up_s or time.monotonic() + _DRAIN_S
                if time.monotonic() > give_up_s:
                    self._to_write.close()

    def _lane(self, work: Callable[[], None], inbox: Channel[Any] | None, outbox: Channel[Any] | None) -> None:
        """One thread's life: it leaves its error, lets the lanes before it end, and the lanes after it finish."""
        self.failure.attempt(work)
        if inbox is not None:
            inbox.cancel()
        if outbox is not None:
            outbox.close()
        else:
            self._written.set()

    def _read(self, frames: Iterator[Frame]) -> None:
        for frame in frames:
            if self._stop.is_set():
                return
            self._frames_read += 1
            start_s = time.perf_counter()
            resized = resize_image(frame.image_rgb, self._levels.program.image.size_hw)
            resize_ms = self.stages["resize"].add_since(start_s)
            if not send(self._to_infer, (frame, resized, resize_ms)):
                return

    def _infer(self) -> None:
        for frame, resized, resize_ms in received(self._to_infer, self._stop):
            choice = self._levels.choice
            start_s = time.perf_counter()
            mask = self._levels.sessions[choice.level].infer(resized)
            infer_ms = self.stages["infer"].add_since(start_s)
            if not send(self._to_write, _Segmented(frame, mask, choice, resize_ms, infer_ms)):
                return

    def _write(self) -> None:
        names = self._levels.program.labels.names
        for frame, small_mask, choice, resize_ms, infer_ms in received(self._to_write):
            start_s = time.perf_counter()
            mask = resize_mask(small_mask, (frame.image_rgb.shape[0], frame.image_rgb.shape[1]))
            share = _class_share(mask)
            other_ms = resize_ms + self.stages["postprocess"].add_since(start_s)
            now_s = time.monotonic()
            self._levels.finished(frame.index, choice.level, infer_ms, other_ms, now_s - self._start_s)
            age_ms = 1e3 * (now_s - frame.arrival_s)
            self._latency.add(infer_ms + other_ms)
            self._age.add(age_ms)
            record = {
                "index": frame.index,
                "pts_s": round(frame.pts_s, 6) if self._source.fps else None,
                "source": frame.source_id,
                "name": frame.name,
                "class_share": {name: round(float(value), 6) for name, value in zip(names, share, strict=False) if value},
                "infer_ms": round(infer_ms, 3),
                "latency_ms": round(infer_ms + other_ms, 3),
                "age_ms": round(age_ms, 3),
                "level": choice.level,
                "level_reason": choice.reason,
            }
            with self.stages["write"].measure():
                for sink in self._sinks:
                    sink.write(frame, mask, record)
            self._share_sum += share
            self._frames_written += 1
            if self._levels.governor:
                self._progress.advance(_TASK, level=str(choice.level))
            else:
                self._progress.advance(_TASK)
            if self._on_frame is not None:
                self._on_frame(frame, mask, record)


def _timed(frames: Iterator[Frame], timings: Timings) -> Iterator[Frame]:
    """The same frames, with the time that each took to come."""
    while True:
        start_s = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        timings.add_since(start_s)
        yield frame


def _class_share(mask: MaskU8) -> npt.NDArray[np.float64]:
    """Share of the pixels of each value, shape (256,)."""
    cv2 = opencv()
    # OpenCV's histogram is fast, but counts in float32: exact up to 2**24 pixels.
    counts = np.zeros(256)
    for part in np.array_split(mask, -(-mask.size // 2**24)):
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel()
    shares: npt.NDArray[np.float64] = counts / mask.size
    return shares
