"""RTSP out, against GStreamer's RTSP server: served by its child process, and pushed to one that the tests
start.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest

from cameras import free_port
from edgeseg.errors import StreamError, Unsupported
from edgeseg.images import overlay
from edgeseg.stream.sinks import rtsp_server
from locations import SUPPORT
from sinking import frame, mask_of, result, sink
from streams import LABELS, random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

IMAGES = random_images(2, (96, 128))
PLAYER = {"rtsp_transport": "tcp", "analyzeduration": "200000"}
needs_gstreamer = pytest.mark.usefixtures("gstreamer")


@pytest.fixture
def gstreamer() -> None:
    if rtsp_server.find_gstreamer_python() is None:
        pytest.skip("needs apt install python3-gi gir1.2-gst-rtsp-server-1.0")


class Feed:
    """Writes a still picture into a sink, 25 a second, until it is left.

    `error` is what the sink raised, `slowest_s` its longest write.
    """

    def __init__(self, target: Any, number: int = 0) -> None:
        self.target, self.error, self.slowest_s = target, "", 0.0
        self._image, self._stop = IMAGES[number], threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_error(self) -> str:
        self._thread.join(10)
        return self.error

    def _run(self) -> None:
        index, mask = 0, mask_of(self._image)
        while not self._stop.wait(0.04):
            start_s = time.perf_counter()
            try:
                self.target.write(result(frame(self._image, index), mask))
            except StreamError as error:
                self.error = str(error)
                return
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start_s)
            index += 1


def watch(port: int, name: str, count: int = 3) -> list[np.ndarray]:
    """The first pictures of a stream, as a player sees them."""
    with av.open(f"rtsp://127.0.0.1:{port}/{name}", options=PLAYER, timeout=10) as container:
        pictures = zip(range(count), container.decode(video=0), strict=False)
        return [picture.to_ndarray(format="rgb24") for _, picture in pictures]


def assert_shows(picture: np.ndarray, number: int) -> None:
    expected = overlay(IMAGES[number], mask_of(IMAGES[number]), LABELS)
    assert picture.shape == expected.shape and np.abs(picture.astype(float) - expected).mean() < 8


@needs_gstreamer
def test_served_streams_are_seen_by_players() -> None:
    """Two sinks of one server; viewers come, go, and come again."""
    port = free_port()
    first, second = (sink(f"rtsp://127.0.0.1:{port}/{name}#serve=1") for name in "ab")
    first.open((96, 128), 25.0, LABELS)
    second.open((96, 128), 25.0, LABELS)
    with pytest.raises(StreamError, match="another sink"):
        sink(f"rtsp://127.0.0.1:{port}/a#serve=1").open((96, 128), 25.0, LABELS)
    with Feed(first, 0) as feed:
        with Feed(second, 1):
            assert_shows(watch(port, "a")[-1], 0)
            assert_shows(watch(port, "b")[-1], 1)
        second.close()
        assert_shows(watch(port, "a")[-1], 0)
        with pytest.raises(av.FFmpegError):
            watch(port, "b")
    assert feed.slowest_s < 0.25
    first.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


@needs_gstreamer
def test_a_server_that_dies_is_told_and_started_again() -> None:
    port = free_port()
    target = sink(f"rtsp://127.0.0.1:{port}/cam#serve=1")
    target.open((96, 128), 25.0, LABELS)
    (server,) = rtsp_server._servers.values()
    with Feed(target) as feed:
        server._child.kill()
        assert "the RTSP server ended" in feed.wait_for_error()
    target.close()
    target.open((96, 128), 25.0, LABELS)
    with Feed(target):
        assert_shows(watch(port, "cam")[-1], 0)
    target.close()
    assert not rtsp_server._servers


@needs_gstreamer
def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        target = sink(f"rtsp://127.0.0.1:{holder.getsockname()[1]}/cam#serve=1")
        with pytest.raises(StreamError, match="the port cannot be had"):
            target.open((96, 128), 25.0, LABELS)
        target.close()
    assert not rtsp_server._servers


def test_without_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtsp_server, "find_gstreamer_python", lambda: None)
    with pytest.raises(Unsupported, match="needs GStreamer") as caught:
        sink("rtsp://0.0.0.0:18554/cam").open((96, 128), 25.0, LABELS)
    assert "apt install" in caught.value.hint and "push" in caught.value.hint


@pytest.fixture
def recorder(gstreamer: None) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server that takes what is pushed to /in."""
    script, port = SUPPORT / "rtsp_recorder.py", free_port()
    child = subprocess.Popen(["/usr/bin/python3", str(script), str(port)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    yield port, child
    child.kill()
    child.wait()
    child.stdout.close()


def test_pushed_streams_arrive_and_a_lost_server_is_told(recorder: tuple[int, subprocess.Popen[str]]) -> None:
    port, child = recorder
    target = sink(f"rtsp://127.0.0.1:{port}/in")
    target.open((96, 128), 25.0, LABELS)
    assert child.stdout is not None
    with Feed(target) as feed:
        assert [int(child.stdout.readline()) for _ in range(20)] == list(range(1, 21))
        child.kill()
        assert "could not be written" in feed.wait_for_error()
    assert feed.slowest_s < 0.25
    target.close()
    with pytest.raises(StreamError, match="cannot be opened: Connection refused") as caught:
        target.open((96, 128), 25.0, LABELS)
    assert "MediaMTX" in caught.value.hint


@pytest.mark.slow
def test_a_frozen_server_holds_nothing_up(recorder: tuple[int, subprocess.Popen[str]]) -> None:
    port, child = recorder
    target = sink(f"rtsp://127.0.0.1:{port}/in")
    target.open((96, 128), 25.0, LABELS)
    child.send_signal(signal.SIGSTOP)
    with Feed(target) as feed:
        time.sleep(1)
    assert feed.slowest_s < 0.25
    start_s = time.monotonic()
    target.close()
    with pytest.raises(StreamError, match="cannot be opened"):
        target.open((96, 128), 25.0, LABELS)
    assert time.monotonic() - start_s < 4


def test_messages_hold_no_password() -> None:
    with pytest.raises(StreamError) as caught:
        sink(f"rtsp://me:secret@127.0.0.1:{free_port()}/in").open((96, 128), 25.0, LABELS)
    assert "secret" not in str(caught.value) + caught.value.hint


def test_pictures_have_no_rate() -> None:
    with pytest.raises(StreamError, match="needs a frame rate"):
        sink("rtsp://127.0.0.1:1/in").open((96, 128), 0.0, LABELS)
