"""Streams over the network and from GStreamer, from real senders on loopback."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pytest

from cameras import free_port
from edgeseg.errors import AccessDenied, StreamError, Unsupported
from edgeseg.specs import Frame
from edgeseg.stream.sources import gstreamer
from edgeseg.stream.sources.table import open_source
from streams import random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

av = pytest.importorskip("av")
gst_launch = pytest.mark.skipif(not shutil.which("gst-launch-1.0"), reason="there is no gst-launch-1.0")


def first(uri: str, count: int) -> list[Frame]:
    source = open_source(uri)
    source.open()
    try:
        return list(islice(source.frames(), count))
    finally:
        source.close()


@contextmanager
def mjpeg_server(parts: list[bytes], step_s: float = 0.02, then_hang: bool = False) -> Iterator[str]:
    """A camera as many are: JPEG pictures one after another in one HTTP answer. Wants viewer:right for
    /locked.
    """
    release = threading.Event()

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/locked" and self.headers.get("Authorization") != "Basic dmlld2VyOnJpZ2h0":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for part in parts:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n"
                self.wfile.write(head.encode() + part + b"\r\n")
                time.sleep(step_s)
            if then_hang:
                release.wait(20)

        def log_message(self, *_: Any) -> None: ...

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return  # the reader went away

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def jpegs(count: int) -> list[bytes]:
    return [cv2.imencode(".jpg", image_rgb[:, :, ::-1])[1].tobytes() for image_rgb in random_images(count)]


def test_mjpeg_over_http() -> None:
    parts = jpegs(12)
    with mjpeg_server(parts) as host:
        source = open_source(f"http://{host}/video.mjpg")
        source.open()
        frames: list[Frame] = []
        with pytest.raises(StreamError):
            keep(frames, source.frames())
        source.close()
    # FFmpeg's parser holds the last picture until the next one begins.
    assert len(frames) >= 11
    expected = cv2.imdecode(np.frombuffer(parts[5], np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    # The same picture, but for how two decoders spread its colours.
    apart = [np.abs(frame.image_rgb.astype(int) - expected).mean() for frame in frames]
    assert apart[5] < 10 < min(apart[4], apart[6])
    # No clock in such a stream: times are those of arrival, not of a rate that FFmpeg guesses.
    assert source.fps == 0
    assert frames[-1].pts_s < 5


def keep(frames: list[Frame], stream: Iterator[Frame]) -> None:
    """Keeps the frames also of a stream that breaks off."""
    for frame in stream:
        frames.append(frame)


def test_a_damaged_picture_is_left_out_and_counted() -> None:
    parts = jpegs(9)
    parts[4] = parts[4][:80] + b"\xff" * 40
    with mjpeg_server(parts) as host:
        source = open_source(f"http://{host}/video.mjpg")
        source.open()
        frames: list[Frame] = []
        with pytest.raises(StreamError):
            keep(frames, source.frames())
        source.close()
    assert 6 <= len(frames) <= 8


def test_a_camera_that_says_no_more_is_left_in_time() -> None:
    with mjpeg_server(jpegs(4), then_hang=True) as host:
        source = open_source(f"http://{host}/video.mjpg#timeout=0.5")
        source.open()
        frames: list[Frame] = []
        start_s = time.monotonic()
        with pytest.raises(StreamError):
            keep(frames, source.frames())
        assert time.monotonic() - start_s < 5
        source.close()
    assert frames


def test_http_with_a_password() -> None:
    with mjpeg_server(jpegs(8)) as host:
        with pytest.raises(AccessDenied) as caught:
            first(f"http://viewer:wrong@{host}/locked", 1)
        assert "wrong" not in f"{caught.value} {caught.value.hint}"
        (frame,) = first(f"http://viewer:right@{host}/locked", 1)
    assert "right" not in frame.source_id


def test_udp() -> None:
    """MPEG-TS over UDP, from FFmpeg; the reader comes in the middle of it."""
    port, stop = free_port(), threading.Event()

    def send() -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 64, 48, "yuv420p", 5
            for image_rgb in random_images(25) * 20:
                if stop.is_set():
                    return
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image_rgb, format="rgb24")))
                time.sleep(0.02)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        frames = first(f"udp://127.0.0.1:{port}#timeout=5", 10)
    finally:
        stop.set()
        sender.join()
    assert [frame.image_rgb.shape for frame in frames] == [(48, 64, 3)] * 10


@gst_launch
def test_a_pipeline() -> None:
    source = open_source(
        "gst:videotestsrc num-buffers=5 pattern=red ! video/x-raw,width=32,height=16 ! appsink drop=true"
    )
    source.open()
    frames = list(source.frames())
    source.close()
    assert [frame.index for frame in frames] == list(range(5))
    assert all(frame.image_rgb.shape == (16, 32, 3) for frame in frames)
    assert np.abs(frames[0].image_rgb.astype(int) - (255, 0, 0)).max() <= 3


@gst_launch
@pytest.mark.parametrize(
    "pipeline", ["nosuchelement", "videotestsrc ! nosuchelement", "filesrc location=/no/such/file", "a ' b"]
)
def test_pipelines_that_do_not_work_say_why(pipeline: str) -> None:
    with pytest.raises(StreamError) as caught:
        first(f"gst:{pipeline}", 1)
    assert caught.value.hint
    assert "it said nothing" not in str(caught.value)


@gst_launch
def test_a_pipeline_is_ended_with_its_source() -> None:
    source = open_source("gst:videotestsrc is-live=true")
    source.open()
    next(source.frames())
    child = source._reader._process  # type: ignore[attr-defined]
    source.close()
    assert child.returncode is not None


def test_without_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(gstreamer, "_opencv_has_gstreamer", lambda: False)
    with pytest.raises(Unsupported) as caught:
        first("gst:videotestsrc", 1)
    assert "apt install" in caught.value.hint
