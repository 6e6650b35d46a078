"""Whatever goes wrong with one source's frames, at whichever stage: that source has failed, and nobody
else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cameras import wait_for
from edgeseg.errors import StreamError
from edgeseg.specs import Frame, ImageU8
from edgeseg.stream.run import lanes
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.report import RunReport
from edgeseg.stream.run.runner import run
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.sinks.table import route_sinks
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.regions import parse_region
from edgeseg.stream.watch.status import Monitor
from edgeseg.testing.fakes import FakeLiveSource, FakeSession, FakeSink, FakeSource
from streams import LABELS, PROGRAM, by_brightness, random_images, session, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

COUNT, AT = 12, 4
SMALL_HW = (8, 10)


class Bug(Exception):
    """No error of ours."""


class Source(FakeSource):
    """A file; `at` does something before the frame of that number, `change` changes its picture."""

    def __init__(
        self, name: str, size_hw: tuple[int, int], at: Mapping[int, Any] | None = None, change: Any = None
    ) -> None:
        super().__init__(random_images(COUNT, size_hw), name=name)
        self._at, self._change = at or {}, change

    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            self._at.get(frame.index, lambda: None)()
            image_rgb = (
                self._change(frame.image_rgb) if self._change and frame.index == AT else frame.image_rgb
            )
            yield Frame(image_rgb, frame.index, frame.pts_s, frame.arrival_s, frame.source_id)


def raising(error: Exception) -> Callable[..., Any]:
    def work(*_: Any) -> Any:
        raise error

    return work


def run_two(bad: Source, **options: Any) -> tuple[RunReport, dict[str, list[FakeSink]]]:
    sinks = {"good": [FakeSink()], "bad": [FakeSink()], "": [FakeSink()]} | options.pop("sinks", {})
    engine = options.pop("engine", None) or session()
    return run(engine, [bad, Source("good", (48, 64))], sinks, Options(**options)), sinks


def assert_only_bad_failed(report: RunReport, sinks: Mapping[str, Any], said: str, frames: int = AT) -> None:
    sources = {source["source"]: source for source in report.sources}
    assert (sources["good"]["state"], sources["good"]["delivered"]) == ("ENDED", COUNT)
    assert [frame.index for frame in sinks["good"][0].frames] == list(range(COUNT))
    assert sources["bad"]["state"] == "FAILED" and said in sources["bad"]["last_error"]
    assert [frame.index for frame in sinks["bad"][0].frames] == list(range(frames))
    assert len(sinks[""][0].frames) == COUNT + frames
    assert [failure["what"] for failure in report.failures] == ["bad"]
    assert said in report.failures[0]["error"] and report.failures[0]["hint"]
    assert (
        sinks["good"][0].closed == sinks[""][0].closed == 1
        and sinks["bad"][0].closed == sinks["bad"][0].opened
    )
    taken = sources["bad"]
    assert taken["frames"] == taken["delivered"] + sum(taken["dropped"].values())


def only_small(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """A function of a picture that fails at the fifth small one."""
    seen = iter(range(10**6))

    def work(image: ImageU8, *given: Any) -> Any:
        if min(image.shape[:2]) <= 10 and next(seen) >= AT:
            raise error
        return real(image, *given)

    return work


@pytest.mark.parametrize(
    "error",
    [StreamError("cable pulled", hint="-"), OSError(22, "Invalid argument"), Bug("rtsp://u:secret@x")],
)
def test_reading(error: Exception) -> None:
    report, sinks = run_two(Source("bad", SMALL_HW, {AT: raising(error)}))
    said = (
        "cable pulled"
        if isinstance(error, StreamError)
        else f"bad: could not be read: {type(error).__name__}"
    )
    assert_only_bad_failed(report, sinks, said)
    assert "secret" not in json.dumps(report.to_json())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda image: image[:, :, 0], "uint8 (8, 10)", id="grey"),
        pytest.param(lambda image: np.dstack([image, image[:, :, :1]]), "uint8 (8, 10, 4)", id="alpha"),
        pytest.param(lambda image: image.astype(np.float32), "float32 (8, 10, 3)", id="float"),
        pytest.param(lambda image: image.astype(np.uint16), "uint16 (8, 10, 3)", id="16 bits"),
        pytest.param(lambda image: image[:0], "uint8 (0, 10, 3)", id="no rows"),
        pytest.param(lambda image: np.uint8(3), "uint8 ()", id="a number"),
    ],
)
def test_what_is_no_picture(change: Any, told: str) -> None:
    report, sinks = run_two(Source("bad", SMALL_HW, change=change))
    assert_only_bad_failed(report, sinks, f"frame {AT} is no RGB picture of 8 bits: {told}")


def test_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "resize_image", only_small(lanes.resize_image, Bug("no")))
    report, sinks = run_two(Source("bad", SMALL_HW))
    assert_only_bad_failed(report, sinks, f"bad: frame {AT} could not be resized: Bug: no")


def test_the_engine() -> None:
    white, whites = np.full((8, 10, 3), 255, np.uint8), iter(range(10**6))

    def answer(image_rgb: ImageU8) -> Any:
        if image_rgb.min() == 255 and next(whites) >= AT:
            raise Bug("no kernel")
        return by_brightness(image_rgb)

    bad = Source("bad", SMALL_HW)
    bad._images = [white] * COUNT
    report, sinks = run_two(bad, engine=FakeSession(PROGRAM, answer))
    assert_only_bad_failed(report, sinks, f"bad: frame {AT} could not be segmented: Bug: no kernel")


def test_finishing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = lanes.resize_mask, iter(range(10**6))

    def resize(mask: Any, size_hw: tuple[int, int]) -> Any:
        if size_hw == SMALL_HW and next(seen) >= AT:
            raise Bug("no")
        return real(mask, size_hw)

    monkeypatch.setattr(lanes, "resize_mask", resize)
    report, sinks = run_two(Source("bad", SMALL_HW))
    assert_only_bad_failed(report, sinks, f"bad: frame {AT} could not be finished: Bug: no")


def test_regions_that_do_not_fit() -> None:
    regions = {
        name: RegionMonitor([parse_region("gate=40,30;60,30;60,45;40,45")], [], LABELS)
        for name in ("good", "bad")
    }
    report, sinks = run_two(Source("bad", SMALL_HW), regions=regions)
    assert_only_bad_failed(report, sinks, "region gate: holds no pixel of a frame of 10x8", frames=0)
    assert all(set(record["regions"]) == {"gate"} for record in sinks["good"][0].records)


def test_a_bug_in_measuring_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = RegionMonitor([parse_region("all=0,0;1,0;1,1;0,1")], [], LABELS)
    monkeypatch.setattr(monitor, "update", raising(Bug("no")))
    report, sinks = run_two(Source("bad", SMALL_HW), regions={"bad": monitor})
    assert_only_bad_failed(report, sinks, "bad: frame 0 could not be finished: Bug: no", frames=0)


def test_closing() -> None:
    bad = Source("bad", SMALL_HW)
    bad.close = raising(Bug("no"))  # type: ignore[method-assign]
    report, sinks = run_two(bad)
    assert_only_bad_failed(report, sinks, "bad: could not be closed: Bug: no", frames=COUNT)


@pytest.mark.parametrize("error", [StreamError("too small", hint="-"), Bug("too small")])
@pytest.mark.parametrize("method", ["open", "write", "close"])
def test_its_own_sink(error: Exception, method: str) -> None:
    broken, twin = FakeSink(), FakeSink()
    setattr(broken, method, raising(error))
    report, sinks = run_two(Source("bad", SMALL_HW), sinks={"bad": [broken, twin]})
    assert all(source["state"] == "ENDED" for source in report.sources)
    assert len(sinks["good"][0].frames) == len(twin.frames) == COUNT and len(sinks[""][0].frames) == 2 * COUNT
    assert [failure["what"] for failure in report.failures] == [
        "FakeSink"
    ] and "too small" in report.failures[0]["error"]


def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine, sources = session(), [Source("good", (48, 64)), Source("bad", SMALL_HW)]
    sinks = route_sinks([f"{tmp_path}/file/{{source}}.mp4"], {"good": "", "bad": ""})
    with pytest.raises(StreamError, match="cannot be written"):
        run(engine, sources, sinks)
    assert engine.calls == 0


def test_the_last_one_that_fails_ends_the_run_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "resize_image", raising(Bug("no")))
    with pytest.raises(Bug):
        run(session(), [Source("a", SMALL_HW), Source("b", (48, 64))], [], Options(warmup=0))


def test_a_camera_that_fails_leaves_the_others_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """For good where its frames cannot be handled; until it comes back where it was not read."""
    patience = Patience(retry_s=0.01, retry_cap_s=0.02)
    monkeypatch.setattr(lanes, "resize_image", only_small(lanes.resize_image, Bug("no")))
    sources = [
        FakeLiveSource("good", [list(range(10**6))], (48, 64)),
        FakeLiveSource("small", [list(range(10**6))], SMALL_HW),
        FakeLiveSource("odd", [[0, 1, Bug("no")]], (48, 64)),
    ]
    monitor, stop = Monitor(), threading.Event()

    def far_enough() -> bool:
        status = monitor.snapshot()
        if status is None:
            return False
        good, small, odd = status.sources
        return good.delivered > 50 and small.state == "FAILED" and odd.connects > 3

    watcher = threading.Thread(target=lambda: (wait_for(far_enough), stop.set()))
    watcher.start()
    report = run(
        session(),
        sources,
        [],
        Options(patience=patience, monitor=monitor, stop=stop, on_result=lambda *_: None),
    )
    watcher.join()
    assert [failure["what"] for failure in report.failures] == ["small"]
    assert "odd: could not be read: Bug: no" in report.sources[2]["last_error"]
