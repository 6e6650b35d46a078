"""The RTSP server that shows sinks: GStreamer's, in a child process. Sinks of one address share it."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from edgeseg.errors import StreamError, Unsupported
from edgeseg.signals import children_spared
from edgeseg.specs import ImageU8
from edgeseg.stream.sinks import rtsp_child
from edgeseg.stream.sinks.muxer import CODECS, Encoder, check_encoder, exact_rate, pyav

_START_S = 10.0
_ENDED = "run again, or look for what ended it: dmesg | tail"
_PROBE = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
_INSTALL = (
    "sudo apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
    " gstreamer1.0-plugins-bad"
)


class ServedStream:
    """One path of the server at an address: takes pictures, compresses them as H.264, and shows them to who
    asks.
    """

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        size_hw: tuple[int, int],
        fps: float,
        *,
        what: str,
        pixel_aspect: float = 1.0,
    ) -> None:
        codec, rate = CODECS["h264"], exact_rate(fps)
        check_encoder("h264", what)
        self._what = what
        # Not in a container: parameter sets go out with every keyframe, as viewers come at any time.
        context = pyav().CodecContext.create(codec.encoder, "w")
        self._encoder = Encoder(context, codec, size_hw, rate, pixel_aspect)
        with _servers_lock:
            server = _servers.get((host, port))
            if server is None or not server.is_alive:
                server = _servers[host, port] = _Server(host, port, what)
            self._server, self._number = server, server.add(path, what)

    def write(self, image_rgb: ImageU8, pts_s: float) -> None:
        """Show a picture. Raises StreamError where the server died."""
        for packet in self._encoder.encode(image_rgb, pts_s):
            kind = rtsp_child.KEY if packet.is_keyframe else rtsp_child.DELTA
            self._server.send(kind, self._number, bytes(packet), self._what)

    def close(self) -> None:
        with _servers_lock:
            if self._server.remove(self._number):
                for address, server in list(_servers.items()):
                    if server is self._server:
                        del _servers[address]


class _Server:
    """The child, and the paths that it shows."""

    def __init__(self, host: str, port: int, what: str) -> None:
        self._numbers = count()
        self._paths: dict[int, str] = {}
        self._lock = threading.Lock()
        python = find_gstreamer_python()
        if python is None:
            raise Unsupported(
                f"{what}: serving RTSP needs GStreamer's RTSP server, which no Python here has",
                hint=f"{_INSTALL}, or push to a server: --sink rtsp://server:8554/name",
            )
        with children_spared():  # it ends with its stdin, after the last picture
            self._child = subprocess.Popen(
                [python, str(Path(rtsp_child.__file__)), host, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        answer = _first_line(self._child)
        if answer != "ready":
            self.stop()
            raise StreamError(
                f"{what}: cannot be served: {answer}", hint="take another port, or end what holds it"
            )

    @property
    def is_alive(self) -> bool:
        return self._child.poll() is None

    def add(self, path: str, what: str) -> int:
        """Show a new path; its number."""
        if path in self._paths.values():
            raise StreamError(
                f"{what}: another sink shows its pictures there", hint="give this sink another name"
            )
        number = next(self._numbers)
        self.send(rtsp_child.NAME, number, path.encode(), what)
        self._paths[number] = path
        if _first_line(self._child) != "named":
            self._paths.clear()  # it died, or was ended because it hung
            self.stop()
            raise StreamError(f"{what}: the RTSP server ended", hint=_ENDED)
        return number

    def send(self, kind: int, number: int, body: bytes, what: str) -> None:
        try:
            with self._lock:
                stdin: Any = self._child.stdin
                stdin.write(rtsp_child.HEAD.pack(kind, number, len(body)) + body)
                stdin.flush()
        except (OSError, ValueError) as error:
            raise StreamError(f"{what}: the RTSP server ended", hint=_ENDED) from error

    def remove(self, number: int) -> bool:
        """End a path; True where it was the last, and the server ended too."""
        self._paths.pop(number, None)
        try:
            self.send(rtsp_child.END, number, b"", "")
        except StreamError:
            self._paths.clear()  # it died, and its paths with it
        if self._paths:
            return False
        self.stop()
        return True

    def stop(self) -> None:
        """End the child; it ends by itself when its stdin does."""
        for pipe in (self._child.stdin, self._child.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                continue  # what was not sent is lost with the child
        try:
            self._child.wait(1.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


_servers: dict[tuple[str, int], _Server] = {}
_servers_lock = threading.Lock()


@cache
def find_gstreamer_python() -> str | None:
    """A Python that can run GStreamer's RTSP server: this one, or the system's, for which distributions
    package it.
    """
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            found = (
                subprocess.run([python, "-c", _PROBE], capture_output=True, timeout=_START_S).returncode == 0
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if found:
            return python
    return None


def _first_line(child: subprocess.Popen[bytes]) -> str:
    """What the child says first; it is killed where it says nothing in time."""
    timer = threading.Timer(_START_S, child.kill)
    timer.start()
    try:
        assert child.stdout is not None
        return child.stdout.readline().decode().strip() or "the server ended"
    finally:
        timer.cancel()
