"""Sinks that fail during a run: an event says so, inference goes on, and they come back."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edgeseg.contracts import LiveSource
from edgeseg.errors import StreamError
from edgeseg.specs import Frame
from edgeseg.stream.run import outputs
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.stream.sinks.table import route_sinks
from edgeseg.stream.sources.table import open_source
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.regions import parse_region, parse_threshold
from edgeseg.stream.watch.status import Monitor
from edgeseg.testing.fakes import FakeSource
from outside import Broker
from sinking import read_video, sink, write_all
from streams import LABELS, random_images, session, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


class Camera(LiveSource):
    """A live source of noise, 100 frames a second, until it is stopped; `at` does something at a frame."""

    source_id, is_live, fps, frame_count = "cam", True, 25.0, None

    def __init__(self, at: dict[int, Any], size_hw: tuple[int, int] = (96, 128)) -> None:
        self._at = at
        self._images = list(np.random.default_rng(0).integers(0, 256, (8, *size_hw, 3), np.uint8))

    def fresh(self) -> Camera:
        return self

    def open(self) -> None: ...

    def close(self) -> None: ...

    def frames(self) -> Iterator[Frame]:
        for index in range(10**6):
            self._at.get(index, lambda: None)()
            time.sleep(0.01)
            yield Frame(self._images[index % 8], index, index / 25, time.monotonic(), "cam")


def stop_when(stop: threading.Event, condition: Any) -> threading.Thread:
    """Sets `stop` when `condition()` is true, or after 30 s."""

    def watch() -> None:
        until_s = time.monotonic() + 30
        while not condition() and time.monotonic() < until_s:
            time.sleep(0.02)
        stop.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_recording_stops_at_a_full_disk_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "_RETRY_S", 0.2)
    monitor, stop, ballast = Monitor(), threading.Event(), small_disk / "others"
    kinds: list[str] = []
    monitor.events.subscribe(lambda event: kinds.append(event.kind))

    def make_room() -> None:
        while "sink_failed" not in kinds:
            time.sleep(0.01)
        ballast.unlink()

    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1_200_000))
    threading.Thread(target=make_room, daemon=True).start()
    second = small_disk / "out-0001.partial.mp4"
    watcher = stop_when(stop, lambda: second.exists() and second.stat().st_size > 10_000)
    sinks = route_sinks([f"{small_disk}/out.mp4", f"{tmp_path}/r.ndjson"], {"cam": "rtsp://cam"})
    report = run(session(), Camera({}), sinks, Options(stop=stop, monitor=monitor))
    watcher.join()
    records = [json.loads(line) for line in (tmp_path / "r.ndjson").read_text().splitlines()]
    assert len(records) == report.frames
    assert sorted(os.listdir(small_disk)) == ["out-0001.mp4", "out.mp4"]
    recorded = sum(len(read_video(small_disk / name)[1]) for name in ("out.mp4", "out-0001.mp4"))
    assert 10 < recorded == report.to_json()["sinks"][0]["written"] < report.frames
    (failed,) = [event for event in monitor.events.recent() if event.kind == "sink_failed"][:1]
    assert "the disk is full" in failed.reason and failed.source == f"{small_disk}/out.mp4"


def test_a_disk_that_stays_full_costs_a_clip_its_recording_and_not_its_results(
    small_disk: Path, tmp_path: Path
) -> None:
    """A file source: nothing is written behind a gap, the other sink holds every frame, the report says what
    failed.
    """
    (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free - 1_500_000))
    images = list(np.random.default_rng(0).integers(0, 256, (120, 240, 320, 3), np.uint8))
    uris = [f"{small_disk}/out.mp4", f"{tmp_path}/r.ndjson"]
    report = run(session(), FakeSource(images), route_sinks(uris, {"fake": "clip.mp4"}))
    assert report.frames == 120 == len((tmp_path / "r.ndjson").read_text().splitlines())
    assert 5 < len(read_video(small_disk / "out.mp4")[1]) < 120
    assert "the disk is full" in str(report.to_json()["failures"])
    (small_disk / "out.mp4").unlink()
    with pytest.raises(StreamError, match="the disk is full"):
        run(session(), FakeSource(images), route_sinks(uris[:1], {"fake": "clip.mp4"}))
    assert len(read_video(small_disk / "out.mp4")[1]) > 5


def test_a_broker_that_dies_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_RETRY_S", 0.1)
    broker, monitor, stop = Broker(tmp_path, "allow_anonymous true"), Monitor(), threading.Event()
    kinds: list[str] = []
    monitor.events.subscribe(lambda event: kinds.append(event.kind))
    sinks = route_sinks(
        [f"mqtt://127.0.0.1:{broker.port}/cam", f"{tmp_path}/r.ndjson"], {"cam": "rtsp://cam"}
    )
    watcher = stop_when(stop, lambda: "sink_recovered" in kinds)
    report = run(
        session(), Camera({20: broker.kill, 60: broker.start}), sinks, Options(stop=stop, monitor=monitor)
    )
    watcher.join()
    broker.kill()
    assert "sink_failed" in kinds and "sink_recovered" in kinds
    assert report.frames == len((tmp_path / "r.ndjson").read_text().splitlines()) > 30


def test_alarms_of_a_run_are_in_its_results_and_events(tmp_path: Path) -> None:
    """The lower half fills with class 3 from the tenth frame on."""
    images = [np.zeros((96, 128, 3), np.uint8) for _ in range(30)]
    for image_rgb in images[10:]:
        image_rgb[48:] = 255
    regions = {
        "fake": RegionMonitor(
            [parse_region("lane=0,0.5;1,0.5;1,1;0,1")],
            [parse_threshold("road blocked=lane:!road>35%/30%@0.2s")],
            LABELS,
        )
    }
    monitor = Monitor()
    sinks = route_sinks([f"{tmp_path}/r.ndjson#events=1"], {"fake": "clip.mp4"})
    run(session(), FakeSource(images), sinks, Options(regions=regions, monitor=monitor))
    lines = [json.loads(line) for line in (tmp_path / "r.ndjson").read_text().splitlines()]
    records = [line for line in lines if "index" in line]
    assert [record["regions"]["lane"] for record in records] == [{"road": 1.0}] * 10 + [{"tree": 1.0}] * 20
    (event,) = [event for event in monitor.events.recent() if event.kind == "region"]
    assert (event.source, event.reason) == ("fake", "lane: road blocked 100 %")
    assert event.details["raised"] and event.details["share"] == 1.0
    assert [
        line["event"]["reason"] for line in lines if "event" in line and line["event"]["kind"] == "region"
    ] == [event.reason]


@pytest.mark.parametrize("rate", ["variable", "30000/1001"])
def test_a_recording_shows_each_frame_when_the_clip_did(tmp_path: Path, rate: str) -> None:
    images = random_images(40)
    steps_s = (
        np.random.default_rng(0).uniform(0.005, 0.3, 40) if rate == "variable" else np.full(40, 1001 / 30000)
    )
    times_s = [float(time_s) for time_s in np.cumsum(steps_s) - steps_s[0]]
    write_all(sink(f"{tmp_path}/clip.mp4#view=frame"), images, 30000 / 1001, times_s)
    source = open_source(f"{tmp_path}/clip.mp4")
    run(session(), source, route_sinks([f"{tmp_path}/out.mp4"], {source.source_id: f"{tmp_path}/clip.mp4"}))
    shown_s, ticks = [], []
    for name, into in (("clip.mp4", shown_s), ("out.mp4", ticks)):
        with av.open(str(tmp_path / name)) as container:
            into += [picture.pts * picture.time_base for picture in container.decode(video=0)]
    assert [float(time_s) for time_s in ticks] == pytest.approx(times_s, abs=2e-5)
    if rate != "variable":
        assert ticks == shown_s == [index * Fraction(1001, 30000) for index in range(40)]
