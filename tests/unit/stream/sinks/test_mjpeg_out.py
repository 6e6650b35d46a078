"""Pictures over HTTP: right, one server for all, and no viewer holds the run up."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import pytest

from cameras import free_port
from edgeseg.errors import StreamError
from edgeseg.images import overlay
from edgeseg.stream.sinks import mjpeg
from sinking import frame, mask_of, result, sink
from streams import LABELS, random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

IMAGES = random_images(25, (96, 128))


class Feed:
    """Writes pictures into a sink, one each 10 ms, until it is left; `slowest_s` is the longest write."""

    def __init__(self, target: Any) -> None:
        self.target, self.count, self.slowest_s = target, 0, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            image_rgb = IMAGES[self.count % len(IMAGES)]
            start_s = time.perf_counter()
            self.target.write(result(frame(image_rgb, self.count)))
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start_s)
            self.count += 1


@pytest.fixture
def shown() -> Iterator[Any]:
    target: Any = sink("http://127.0.0.1:0/cam")
    target.open((96, 128), 25.0, LABELS)
    yield target
    target.close()


def get(
    target: Any, path: str, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    body = response.read() if response.getheader("Content-Length") else b""
    connection.close()
    return response, body


def test_the_newest_picture(shown: Any) -> None:
    with Feed(shown):
        response, body = get(shown, "/cam.jpg")
    assert response.status == 200 and response.getheader("Content-Type") == "image/jpeg"
    image_rgb = IMAGES[int(response.headers["X-Frame"]) % len(IMAGES)]
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(picture.astype(float) - overlay(image_rgb, mask_of(image_rgb), LABELS)).mean() < 6


def test_players_read_the_moving_picture(shown: Any) -> None:
    with Feed(shown):
        with av.open(f"http://127.0.0.1:{shown.port}/cam", format="mpjpeg", timeout=10) as container:
            pictures = [picture for _, picture in zip(range(5), container.decode(video=0), strict=False)]
        assert [(picture.height, picture.width) for picture in pictures] == [(96, 128)] * 5
        capture = cv2.VideoCapture(f"http://127.0.0.1:{shown.port}/cam", cv2.CAP_FFMPEG)
        assert [capture.read()[0] for _ in range(3)] == [True] * 3
        capture.release()


def test_nothing_is_compressed_while_nobody_looks(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = mjpeg.encode_jpeg
    monkeypatch.setattr(
        mjpeg, "encode_jpeg", lambda image, quality: calls.append(quality) or encode(image, quality)
    )
    with Feed(shown):
        time.sleep(0.1)
        assert not calls
        assert get(shown, "/cam.jpg")[0].status == 200
    assert calls and set(calls) == {80}


@pytest.mark.slow
def test_slow_viewers_hold_nothing_up() -> None:
    """Viewers that read nothing, beside one that reads all: the run does not feel them, and he sees what is
    new.
    """
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    target: Any = sink("http://127.0.0.1:0/cam")
    target.open((480, 640), 25.0, LABELS)
    lazy = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(4)]
    for viewer in lazy:
        viewer.sendall(b"GET /cam HTTP/1.0\r\n\r\n")
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
        connection.request("GET", "/cam")
        stream = connection.getresponse()
        while not done.is_set() and (line := stream.readline()):
            if line.startswith(b"X-Frame"):
                seen.append(written - int(line.split()[1]))
            if line.startswith(b"Content-Length"):
                length = int(line.split()[1])
            if line == b"\r\n":
                stream.read(length + 2)
        connection.close()

    written, slowest_s = 0, 0.0
    watcher = threading.Thread(target=watch)
    watcher.start()
    mask = mask_of(noise)
    for written in range(150):
        start_s = time.perf_counter()
        target.write(result(frame(noise, written), mask))
        slowest_s = max(slowest_s, time.perf_counter() - start_s)
        time.sleep(0.01)
    done.set()
    target.close()
    watcher.join(5)
    for viewer in lazy:
        viewer.close()
    assert not watcher.is_alive()
    assert slowest_s < 0.25
    # How many frames behind: no queue builds up before a viewer who reads.
    assert len(seen) > 10 and sorted(seen)[len(seen) // 2] < 30


def test_sinks_of_one_address_share_a_server() -> None:
    port = free_port()
    first, second = (sink(f"http://127.0.0.1:{port}/{name}") for name in "ab")
    first.open((96, 128), 25.0, LABELS)
    second.open((96, 128), 25.0, LABELS)
    with pytest.raises(StreamError, match="another sink"):
        sink(f"http://127.0.0.1:{port}/a").open((96, 128), 25.0, LABELS)
    with Feed(first), Feed(second):
        assert get(first, "/a.jpg")[0].status == get(first, "/b.jpg")[0].status == 200
        assert b'href="./a"' in get(first, "/")[1] and b'href="./b"' in get(first, "/")[1]
        assert get(first, "/c")[0].status == 404
    first.close()
    with Feed(second):
        assert get(second, "/a")[0].status == 404
        assert get(second, "/b.jpg")[0].status == 200
    second.close()
    with pytest.raises(OSError, match="refused"):
        get(second, "/b.jpg")
    second.open((96, 128), 25.0, LABELS)
    second.close()


def test_a_port_that_is_taken(shown: Any) -> None:
    with pytest.raises(StreamError, match="cannot listen there: Address already in use") as caught:
        sink(f"http://127.0.0.1:{shown.port}/x").open((96, 128), 25.0, LABELS)
    assert caught.value.hint


def test_those_who_must_log_in() -> None:
    target: Any = sink("http://me:p%40ss@127.0.0.1:0/cam")
    assert target.name == "http://***@127.0.0.1:0/cam" or "p%40ss" not in target.name
    target.open((96, 128), 25.0, LABELS)
    with Feed(target):
        good = {"Authorization": "Basic " + base64.b64encode(b"me:p@ss").decode()}
        bad = {"Authorization": "Basic " + base64.b64encode(b"me:pass").decode()}
        assert [get(target, "/cam.jpg", headers)[0].status for headers in (None, bad, good)] == [
            401,
            401,
            200,
        ]
        assert get(target, "/cam", bad)[0].status == 401
    target.close()


def test_too_many_viewers(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "_VIEWERS", 2)
    viewers = [socket.create_connection(("127.0.0.1", shown.port)) for _ in range(2)]
    with Feed(shown):
        for viewer in viewers:
            viewer.sendall(b"GET /cam HTTP/1.0\r\n\r\n")
            assert viewer.recv(12) == b"HTTP/1.0 200"
        assert get(shown, "/cam.jpg")[0].status == 503
        for viewer in viewers:
            viewer.close()
        until_s = time.monotonic() + 10
        while get(shown, "/cam.jpg")[0].status != 200:
            assert time.monotonic() < until_s


def test_no_thread_stays() -> None:
    before = threading.active_count()
    for _ in range(5):
        target: Any = sink("http://127.0.0.1:0/cam")
        target.open((96, 128), 25.0, LABELS)
        with Feed(target):
            assert get(target, "/cam.jpg")[0].status == 200
        target.close()
    until_s = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < until_s:
        time.sleep(0.01)
    assert threading.active_count() <= before
    assert urlsplit(target.name).port == 0
