"""The overlapped runner gives what a plain loop gives, in order, whatever fails, and always ends."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.contracts import NoProgress
from edgeseg.errors import StreamError
from edgeseg.specs import ImageU8
from edgeseg.stream.run import runner
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.report import Interrupted
from edgeseg.stream.run.runner import run
from edgeseg.stream.sinks.table import open_sinks
from edgeseg.stream.sources.table import open_source
from edgeseg.testing.fakes import FakeSink, FakeSource
from streams import LABELS, PROGRAM, random_images, session, time_limit, write_video

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


def at(number: int, action: Callable[[], Any]) -> Callable[[int], None]:
    """Does something before item `number`."""

    def before(current: int) -> None:
        if current == number:
            action()

    return before


def fail(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def endless_images() -> Iterator[ImageU8]:
    while True:
        yield from random_images(1)


def lanes_running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeseg-")]


# what comes out


def test_every_frame_bit_exact_against_a_plain_loop(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", random_images(40, (50, 70)), 30000 / 1001)
    sink = FakeSink()
    run(session(), open_source(str(path)), [sink])
    plain, capture = session(), cv2.VideoCapture(str(path))
    for index in range(40):
        image_rgb = np.ascontiguousarray(capture.read()[1][:, :, ::-1])
        assert sink.frames[index].index == index
        assert np.array_equal(sink.frames[index].image_rgb, image_rgb)
        assert np.array_equal(sink.masks[index], plain.segment(image_rgb))
    capture.release()
    assert len(sink.frames) == 40
    assert (sink.size_hw, sink.fps) == ((50, 70), pytest.approx(29.97, abs=1e-3))


@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40))
def test_any_number_and_size_of_frames(count: int, height: int, width: int) -> None:
    images, sink = random_images(count, (height, width)), FakeSink()
    report = run(session(), FakeSource(images), [sink])
    assert report.frames == count
    assert report.frames_dropped == 0
    assert all(
        np.array_equal(frame.image_rgb, image) for frame, image in zip(sink.frames, images, strict=True)
    )
    assert all(mask.shape == (height, width) and mask.dtype == np.uint8 for mask in sink.masks)


def test_records_say_what_is_in_the_mask() -> None:
    sink, seen = FakeSink(), []
    images = [*random_images(3), np.full((10, 20, 3), 200, np.uint8)]
    report = run(session(), FakeSource(images, fps=12.5), [sink], Options(level=2, on_result=seen.append))
    for index, (record, mask) in enumerate(zip(sink.records, sink.masks, strict=True)):
        shares = {
            name: (mask == value).mean() for value, name in enumerate(LABELS.names) if (mask == value).any()
        }
        assert record["class_share"] == pytest.approx(shares, abs=1e-6)
        assert (record["index"], record["pts_s"], record["source"], record["level"]) == (
            index,
            index / 12.5,
            "fake",
            2,
        )
        assert 0 < record["infer_ms"] < record["age_ms"] < 60_000
        json.dumps(record, allow_nan=False)
    assert sink.records[3]["class_share"] == {"tree": 1.0}
    means = {
        name: np.mean([(mask == value).mean() for mask in sink.masks])
        for value, name in enumerate(LABELS.names)
    }
    assert report.class_share == pytest.approx(means)
    assert [(one.index, one.mask is expected) for one, expected in zip(seen, sink.masks, strict=True)] == [
        (index, True) for index in range(4)
    ]


def test_pictures_without_a_rate_have_no_time() -> None:
    sink = FakeSink()
    run(session(), FakeSource(random_images(2), fps=0.0), [sink])
    assert [record["pts_s"] for record in sink.records] == [None, None]


def test_limit_and_warm_up() -> None:
    engine, sink, source = session(), FakeSink(), FakeSource(endless_images())
    report = run(engine, source, [sink], Options(limit=5, warmup=3))
    assert (report.frames, report.frames_dropped, len(sink.frames), engine.calls) == (5, 0, 5, 8)
    assert (source.opened, source.closed, sink.closed, engine.closed) == (1, 1, 1, False)


def test_the_report_is_json_and_adds_up() -> None:
    slow = session(lambda number: time.sleep(0.01))
    report = run(slow, FakeSource(random_images(20)), [FakeSink()])
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["bottleneck"] == "infer"
    assert document["frames"] == 20
    assert document["fps"] == pytest.approx(20 / document["wall_s"])
    assert document["stages"]["infer"]["count"] == 20
    assert document["stages"]["infer"]["p50_ms"] >= 10
    assert document["stages"]["infer"]["busy"] <= 1
    assert list(document["stages"]) == ["read", "resize", "infer", "postprocess", "write"]
    assert document["program"] == {
        "arch": "fake",
        "precision": "float",
        "isr": "1,1,1,1-1,1,1",
        "size_hw": list(PROGRAM.image.size_hw),
        "mask_stride": 4,
    }
    assert sum(document["class_share"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("read_s", "infer_s", "write_s", "name"),
    [(0.01, 0, 0, "read"), (0, 0.01, 0, "infer"), (0, 0, 0.01, "write")],
)
def test_the_bottleneck_has_a_name(read_s: float, infer_s: float, write_s: float, name: str) -> None:
    def slowly() -> Iterator[ImageU8]:
        for image in random_images(15):
            time.sleep(read_s)
            yield image

    sink = FakeSink(lambda index: time.sleep(write_s))
    assert run(session(lambda number: time.sleep(infer_s)), FakeSource(slowly()), [sink]).bottleneck == name


def test_stages_overlap() -> None:
    """Three stages of 20 ms: a plain loop takes 60 ms a frame."""

    def slowly() -> Iterator[ImageU8]:
        for image in random_images(25):
            time.sleep(0.02)
            yield image

    sink = FakeSink(lambda index: time.sleep(0.02))
    report = run(session(lambda number: time.sleep(0.02)), FakeSource(slowly()), [sink])
    assert report.wall_s < 25 * 0.06 * 0.75


def test_progress_counts_every_frame() -> None:
    class Recorder(NoProgress):
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def start(self, task: str, total: int | None) -> None:
            self.calls.append((task, total))

        def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
            self.calls.append(steps)

        def finish(self, task: str) -> None:
            self.calls.append(task)

    recorder = Recorder()
    run(session(), open_source("synthetic://64x48?frames=9"), [], Options(limit=4, progress=recorder))
    assert recorder.calls == [("segment", 4), 1, 1, 1, 1, "segment"]


# what goes wrong


def test_a_source_that_breaks_off_is_written_up_to_there() -> None:
    broken, sink = StreamError("cable pulled", hint="put it back"), FakeSink()
    source = FakeSource(random_images(7), error=broken)
    with pytest.raises(StreamError, match="cable pulled") as caught:
        run(session(lambda number: time.sleep(0.005)), source, [sink])
    assert caught.value is broken
    assert [frame.index for frame in sink.frames] == list(range(7))
    assert (sink.closed, source.closed, lanes_running()) == (1, 1, [])


def test_a_sink_that_fails_is_taken_out_and_the_others_get_all() -> None:
    broken = StreamError("disk gone", hint="mount it")
    good, bad = FakeSink(), FakeSink(at(3, fail(broken)))
    report = run(session(), FakeSource(random_images(9)), [good, bad])
    assert [frame.index for frame in good.frames] == list(range(9))
    assert [frame.index for frame in bad.frames] == [0, 1, 2]
    assert (good.closed, bad.closed, lanes_running()) == (1, 1, [])
    assert report.failures == ({"what": "FakeSink", "error": "disk gone", "hint": "mount it"},)
    assert [(sink["state"], sink["written"], sink["missed"]) for sink in report.sinks] == [
        ("CLOSED", 9, 0),
        ("FAILED", 3, 6),
    ]
    assert [event["reason"] for event in report.events["recent"] if event["kind"] == "sink_failed"] == [
        "disk gone"
    ]


def test_a_run_for_files_ends_when_its_last_sink_has_failed() -> None:
    broken = StreamError("disk gone", hint="mount it")
    first, last = FakeSink(at(3, fail(broken))), FakeSink(at(5, fail(StreamError("gone too", hint="-"))))
    source = FakeSource(endless_images())
    with pytest.raises(StreamError) as caught:
        run(session(), source, [first, last])
    assert caught.value is broken
    assert (first.closed, last.closed, source.closed, lanes_running()) == (1, 1, 1, [])
    assert len(last.frames) == 5


def test_a_bug_in_a_sink_ends_the_run() -> None:
    with pytest.raises(ZeroDivisionError):
        run(session(), FakeSource(endless_images()), [FakeSink(), FakeSink(at(2, fail(ZeroDivisionError())))])
    assert lanes_running() == []


def test_an_engine_that_fails_stops_all_and_what_it_had_done_is_written() -> None:
    sink, source = FakeSink(lambda index: time.sleep(0.02)), FakeSource(endless_images())
    with pytest.raises(ZeroDivisionError):
        run(session(at(5, fail(ZeroDivisionError()))), source, [sink], Options(warmup=0))
    assert [frame.index for frame in sink.frames] == [0, 1, 2, 3, 4]
    assert (sink.closed, source.closed, lanes_running()) == (1, 1, [])


def test_the_first_error_wins() -> None:
    class BadEnd(FakeSink):
        def close(self) -> None:
            super().close()
            raise StreamError("consequence", hint="-")

    first, second = BadEnd(at(1, fail(StreamError("cause", hint="-")))), BadEnd()
    with pytest.raises(StreamError, match="cause"):
        run(session(), FakeSource(random_images(5)), [first, second])
    assert (first.closed, second.closed) == (1, 1)
    with pytest.raises(StreamError, match="consequence"):
        run(session(), FakeSource(random_images(5)), [second])


def test_a_sink_that_cannot_open_is_found_before_any_inference() -> None:
    class Unopened(FakeSink):
        def open(self, *given: Any) -> None:
            raise StreamError("read only", hint="-")

    engine, good, bad, source = session(), FakeSink(), Unopened(), FakeSource(random_images(3))
    with pytest.raises(StreamError, match="read only"):
        run(engine, source, [good, bad])
    assert (engine.calls, good.closed, source.closed) == (0, 1, 1)


@pytest.mark.parametrize("limit", [None, 0])
def test_no_frames(limit: int | None) -> None:
    source = FakeSource([] if limit is None else random_images(3))
    with pytest.raises(StreamError, match="no frames"):
        run(session(), source, [], Options(limit=limit))
    assert source.closed == 1


def test_an_error_in_on_result_is_raised() -> None:
    def refuse(*given: Any) -> None:
        raise LookupError("mine")

    sink = FakeSink()
    with pytest.raises(LookupError, match="mine"):
        run(session(), FakeSource(endless_images()), [sink], Options(on_result=refuse))
    assert sink.closed == 1


# stopping


def test_ctrl_c_finishes_the_recording_and_carries_the_report(tmp_path: Path) -> None:
    uris = [f"{tmp_path}/out.mp4", f"{tmp_path}/r.ndjson", f"{tmp_path}/m/"]
    interrupt = FakeSink(at(10, lambda: signal.raise_signal(signal.SIGINT)))
    source = FakeSource(endless_images())
    start_s = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run(session(), source, [*open_sinks(uris), interrupt])
    assert time.monotonic() - start_s < 20
    report = caught.value.report
    assert isinstance(caught.value, KeyboardInterrupt)
    assert report.interrupted
    assert report.frames >= 11
    lines = [json.loads(line) for line in (tmp_path / "r.ndjson").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(report.frames))
    assert len(list((tmp_path / "m").iterdir())) == report.frames
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == report.frames
    capture.release()
    assert (interrupt.closed, source.closed, lanes_running()) == (1, 1, [])


def test_a_second_ctrl_c_does_not_wait() -> None:
    def interrupt_twice() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.3)

    sink = FakeSink(at(2, interrupt_twice))
    with pytest.raises(KeyboardInterrupt):
        run(session(), FakeSource(endless_images()), [sink])
    assert lanes_running() == []
    assert sink.closed == 1


def test_the_stop_event_ends_a_run_in_good_order() -> None:
    stop = threading.Event()
    sink = FakeSink(at(6, stop.set))
    report = run(session(), FakeSource(endless_images()), [sink], Options(stop=stop))
    assert report.interrupted
    assert report.frames == len(sink.frames) >= 7
    assert [frame.index for frame in sink.frames] == list(range(report.frames))
    assert (sink.closed, lanes_running()) == (1, [])


def test_an_engine_that_hangs_does_not_hold_up_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done before is written; the lane that hangs is left behind."""
    monkeypatch.setattr(runner, "_DRAIN_S", 0.3)
    release = threading.Event()

    def hang() -> None:
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
        release.wait(30)

    sink, source = FakeSink(), FakeSource(endless_images())
    start_s = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        run(session(at(4, hang)), source, [sink], Options(warmup=0))
    assert time.monotonic() - start_s < 5
    assert caught.value.report.frames == len(sink.frames) == 4
    assert sink.closed == 1
    release.set()


def test_a_source_that_hangs_is_not_closed_under_its_reader() -> None:
    release = threading.Event()

    def stalls() -> Iterator[ImageU8]:
        yield from random_images(3)
        release.wait(30)

    sink, source = FakeSink(at(2, lambda: signal.raise_signal(signal.SIGINT))), FakeSource(stalls())
    with pytest.raises(Interrupted):
        run(session(), source, [sink])
    assert (sink.closed, source.closed, len(sink.frames)) == (1, 0, 3)
    release.set()
    with suppress(StopIteration):
        next(thread for thread in threading.enumerate() if thread.name == "edgeseg-capture-1").join(5)


# levels
