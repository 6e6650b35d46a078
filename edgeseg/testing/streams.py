"""Checks of sources and sinks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeseg.contracts import FrameSink, FrameSource, LiveSource
from edgeseg.errors import StreamError, Unsupported
from edgeseg.results import Result, class_shares, value_shares
from edgeseg.specs import Frame, LabelSpace
from edgeseg.testing.expect import expect

LABELS = LabelSpace(("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))
"""The classes of the results that `check_sink` writes."""


def check_source(make: Callable[[], FrameSource], *, at_most: int = 8) -> None:
    """Check that a source that can be read keeps its contract (`contracts.FrameSource`).

    Args:
        make: makes an unopened one, the same each time.
        at_most: so many frames of a live source are read, and all of another.
    Raises:
        AssertionError: it does not.
    """
    make().close()  # unopened
    source = make()
    frames = _read(source, at_most)
    expect(frames, "a source that opens has frames")
    expect([frame.index for frame in frames] == list(range(len(frames))), "frames are counted from 0")
    expect({frame.source_id for frame in frames} == {source.source_id}, "frames name their source")
    expect(
        all(one.image_rgb.dtype == np.uint8 and one.image_rgb.ndim == 3 for one in frames),
        "an image is (H, W, 3) uint8",
    )
    if not source.is_live:
        times = [frame.pts_s for frame in frames]
        expect(times == sorted(times), "time stamps of a recording do not fall")
        expect(source.frame_count in (None, len(frames)), "a number of frames that is known is right")
        again = _read(make(), at_most)
        same = all(np.array_equal(a.image_rgb, b.image_rgb) for a, b in zip(frames, again, strict=True))
        expect(same, "a recording gives the same frames again")
    kept = [frame.image_rgb.copy() for frame in frames[1:]]
    frames[0].image_rgb[:] = 0
    expect(
        all(np.array_equal(frame.image_rgb, copy) for frame, copy in zip(frames[1:], kept, strict=True)),
        "a frame belongs to its receiver",
    )
    early = make()
    early.open()
    next(iter(early.frames()))
    early.close()
    early.close()
    if isinstance(source, LiveSource):
        check_fresh(source)


def check_fresh(source: LiveSource) -> None:
    """Check the twins of a live source, which need not be reachable. Raises AssertionError."""
    twin = source.fresh()
    expect(twin is not source and type(twin) is type(source), "a fresh one is another of its kind")
    expect(twin.source_id == source.source_id, "a fresh one has the same name")
    expect(source.is_live is True and twin.is_live is True, "a live source says that it is one")
    expect(twin.fresh().source_id == source.source_id, "a fresh one can be made fresh")


def check_unreachable(source: FrameSource, *, within_s: float = 10.0) -> None:
    """Check a source that cannot be read: it says so in time, with a hint. Raises AssertionError."""
    begun_s = time.monotonic()
    try:
        source.open()
        next(iter(source.frames()))
    except (StreamError, Unsupported) as error:
        expect(error.hint, "an error has a hint")
    else:
        raise AssertionError("a source that cannot be read says so")
    finally:
        source.close()
    expect(time.monotonic() - begun_s < within_s, f"it says so within {within_s:g} s")


def check_sink(make: Callable[[], FrameSink], *, unwritable: Callable[[], FrameSink] | None = None) -> None:
    """Check that a sink keeps its contract (`contracts.FrameSink`).

    Args:
        make: makes an unopened one, of the same target each time.
        unwritable: makes one of a target that cannot be written.
    Raises:
        AssertionError: it does not.
    """
    sink = make()
    expect(isinstance(sink, FrameSink), "a sink derives from contracts.FrameSink")
    expect(
        sink.name and isinstance(sink.takes_all_sources, bool),
        "it has a name",
    )
    sink.close()  # unopened
    sink.open((48, 64), 25.0, LABELS)
    sink.close()  # without results
    sink.close()
    for size_hw in ((48, 64), (31, 17), (1, 1)):
        sink.open(size_hw, 25.0, LABELS)
        for index in range(6):
            result = _result(size_hw, index)
            before = result.to_json()
            sink.write(result)
            expect(result.to_json() == before, "a sink changes no result")
        sink.close()
    held: list[tuple[int, int]] = []
    for _ in range(4):
        sink.open((48, 64), 25.0, LABELS)
        sink.write(_result((48, 64), 0))
        sink.close()
        until_s = time.monotonic() + 2  # threads of the system end a moment after they were told to
        while held and _held() > held[0] and time.monotonic() < until_s:
            time.sleep(0.01)
        held.append(_held())
    expect(held[-1] <= held[0], "a closed sink leaves no thread and no file open")
    if unwritable is not None:
        _check_unwritable(unwritable())


def _check_unwritable(sink: FrameSink) -> None:
    for _ in range(2):
        try:
            sink.open((48, 64), 25.0, LABELS)
        except StreamError as error:
            expect(error.hint, "an error has a hint")
        else:
            raise AssertionError("a target that cannot be written is told by open, each time")
        finally:
            sink.close()


def _read(source: FrameSource, at_most: int) -> list[Frame]:
    source.open()
    frames: list[Frame] = []
    for frame in source.frames():
        frames.append(frame)
        if source.is_live and len(frames) >= at_most:
            break
    source.close()
    return frames


def _result(size_hw: tuple[int, int], index: int) -> Result:
    """Noise and a mask of it, that must not be written to."""
    image = np.random.default_rng(index).integers(0, 256, (*size_hw, 3), np.uint8)
    mask = (image[:, :, 1] // 86).astype(np.uint8)
    image.flags.writeable = mask.flags.writeable = False
    frame = Frame(image, index, index / 25, time.monotonic(), "check")
    return Result(frame, mask, LABELS, class_shares(value_shares(mask), LABELS), time_s=frame.pts_s)


def _held() -> tuple[int, int]:
    """Threads and open files of this process."""
    files = Path("/proc/self/fd")
    return threading.active_count(), len(os.listdir(files)) if files.is_dir() else 0
