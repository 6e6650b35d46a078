"""What every sink must do, over all rows of the table."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cameras import free_port
from edgeseg.stream.sinks import display
from edgeseg.stream.sinks.rtsp_server import find_gstreamer_python
from edgeseg.stream.sinks.table import FORMS, SINKS, SinkForm
from edgeseg.testing.streams import check_sink
from outside import Broker, Windows
from sinking import sink
from streams import time_limit

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

    def test_it_keeps_the_contract(self, place: Place) -> None:
        bad = place.bad
        check_sink(lambda: sink(place.good), unwritable=None if bad is None else lambda: sink(bad))
