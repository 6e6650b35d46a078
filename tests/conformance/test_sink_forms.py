"""What every sink must do, over all rows of the table."""

from __future__ import annotations

import inspect
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cameras import free_port
from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError
from edgeseg.stream.sinks import display
from edgeseg.stream.sinks.rtsp_server import find_gstreamer_python
from edgeseg.stream.sinks.table import FORMS, SINKS, SinkForm
from outside import Broker, Windows
from sinking import frame, result, sink
from streams import LABELS, random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

COUNT = 6


class Place:
    """A working target of a row, and one that cannot be written."""

    def __init__(self, good: str, bad: str | None, leave: Callable[[], object] = lambda: None) -> None:
        self.good, self.bad, self.leave = good, bad, leave


def _file(name: str) -> Callable[[Path, pytest.MonkeyPatch], Place]:
    def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        (tmp_path / "file").write_text("no folder")
        return Place(f"{tmp_path}/{name}", f"{tmp_path}/file/{name}")

    return make


def _http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    holder = socket.create_server(("127.0.0.1", 0))
    return Place(
        f"http://127.0.0.1:{free_port()}/x", f"http://127.0.0.1:{holder.getsockname()[1]}/x", holder.close
    )


def _rtsp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if find_gstreamer_python() is None:
        pytest.skip("needs apt install python3-gi gir1.2-gst-rtsp-server-1.0")
    return Place(f"rtsp://127.0.0.1:{free_port()}/x#serve=1", f"rtsp://127.0.0.1:{free_port()}/x")


def _mqtt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    broker = Broker(tmp_path, "allow_anonymous true")
    return Place(f"mqtt://127.0.0.1:{broker.port}/x", f"mqtt://127.0.0.1:{free_port()}/x", broker.kill)


def _display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    windows = Windows()
    monkeypatch.setattr(display, "opencv", lambda: windows)
    monkeypatch.setenv("DISPLAY", ":0")
    return Place("display://", None)


# A working example of each row, by the form that the table shows to users.
PLACES: dict[str, Callable[[Path, pytest.MonkeyPatch], Place]] = {
    "null:": lambda tmp_path, monkeypatch: Place("null:", None),
    "results.ndjson": _file("r.ndjson"),
    "- (stdout)": lambda tmp_path, monkeypatch: Place("-", None),
    "masks/ or png:DIR": _file("m/"),
    "out.mp4": _file("o.mp4"),
    "rtsp://0.0.0.0:8554/out": _rtsp,
    "http://127.0.0.1:8090/out": _http,
    "display://": _display,
    "mqtt://broker/topic": _mqtt,
}


def by_example(form: SinkForm) -> str:
    return form.example


def test_every_row_has_an_example() -> None:
    assert set(PLACES) == {form.example for form in FORMS}


@pytest.mark.parametrize("form", FORMS, ids=by_example)
def test_the_example_shown_to_users_is_of_its_row(form: SinkForm) -> None:
    for example in form.example.removesuffix(" (stdout)").replace("png:DIR", "png:d").split(" or "):
        assert next(row for row in FORMS if row.matches(example)) is form
        assert SINKS.load(form.row)(example, 0.5)


# GStreamer's server takes half a second to start.
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[pytest.mark.slow] if form.example.startswith("rtsp:") else [])
        for form in FORMS
    ],
    ids=[form.example for form in FORMS],
)
class TestSink:
    @pytest.fixture
    def place(self, form: SinkForm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
        place = PLACES[form.example](tmp_path, monkeypatch)
        yield place
        place.leave()

    @pytest.fixture
    def target(self, place: Place) -> FrameSink:
        return sink(place.good)

    def test_it_takes_frames_closes_twice_and_opens_again(self, target: FrameSink) -> None:
        for size_hw in ((48, 64), (31, 17)):
            target.open(size_hw, 25.0, LABELS)
            for index, image_rgb in enumerate(random_images(COUNT, size_hw)):
                target.write(result(frame(image_rgb, index)))
            target.close()
            target.close()

    def test_it_changes_neither_frame_nor_mask(self, target: FrameSink) -> None:
        target.open((48, 64), 25.0, LABELS)
        image_rgb, mask = random_images(1)[0], np.full((48, 64), 2, np.uint8)
        image_rgb.flags.writeable = mask.flags.writeable = False
        given = result(frame(image_rgb), mask)
        before = json.dumps(given.to_json())
        target.write(given)
        target.close()
        assert json.dumps(given.to_json()) == before

    def test_it_can_be_closed_unopened_and_without_frames(self, target: FrameSink) -> None:
        target.close()
        target.open((48, 64), 25.0, LABELS)
        target.close()

    def test_a_place_that_cannot_be_written_is_told_each_time(self, place: Place) -> None:
        if place.bad is None:
            pytest.skip("it has no place")
        target = sink(place.bad)
        for _ in range(2):
            with pytest.raises(StreamError) as caught:
                target.open((48, 64), 25.0, LABELS)
            assert caught.value.hint
            target.close()

    def test_the_smallest_frame(self, target: FrameSink) -> None:
        target.open((1, 1), 25.0, LABELS)
        target.write(result(frame(np.zeros((1, 1, 3), np.uint8)), np.zeros((1, 1), np.uint8)))
        target.close()

    def test_it_leaves_no_thread_and_no_file_open(self, target: FrameSink) -> None:
        (image_rgb,) = random_images(1)
        counts = []
        for _ in range(4):
            target.open((48, 64), 25.0, LABELS)
            target.write(result(frame(image_rgb)))
            target.close()
            # Threads of the system end a moment after they were told to.
            until_s = time.monotonic() + 2
            while counts and _held() > counts[0] and time.monotonic() < until_s:
                time.sleep(0.01)
            counts.append(_held())
        assert counts[-1] <= counts[0]

    def test_it_keeps_the_contract(self, target: FrameSink) -> None:
        for name in ("open", "write", "close"):
            wanted = list(inspect.signature(getattr(FrameSink, name)).parameters)[1:]
            assert list(inspect.signature(getattr(target, name)).parameters) == wanted
        assert isinstance(target.takes_all_sources, bool) and target.name  # type: ignore[attr-defined]
        if hasattr(target, "event"):
            assert list(inspect.signature(target.event).parameters) == ["event"]


def _held() -> tuple[int, int]:
    """Threads and open files of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
