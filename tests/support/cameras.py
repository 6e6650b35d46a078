"""A real RTSP server for tests and benchmarks, on loopback, in a process of its own that can be killed and
frozen.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

PYTHON = Path("/usr/bin/python3")
SCRIPT = Path(__file__).with_name("rtsp_server.py")
_PROBE = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0'); "
    "from gi.repository import Gst, GstRtspServer; Gst.init(None); assert Gst.ElementFactory.find('x264enc')"
)


@cache
def missing() -> str:
    """Why no server can be run here; empty where one can."""
    if sys.platform != "linux" or not PYTHON.exists():
        return "no system Python"
    found = subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, timeout=60, check=False)
    return (
        ""
        if found.returncode == 0
        else (
            "the system's Python has no GStreamer RTSP server with x264 (python3-gi,"
            " gir1.2-gst-rtsp-server-1.0)"
        )
    )


def needs_server(test: Callable[..., Any]) -> Callable[..., Any]:
    """Skips a test where no server can be run. Asked when the test runs, not when it is collected."""
    return pytest.mark.usefixtures("rtsp_possible")(test)


@pytest.fixture
def rtsp_possible() -> None:
    if missing():
        pytest.skip(missing())


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RtspServer:
    """A server with cameras at `uri(0)`, `uri(1)`, ...; options are those of rtsp_server.py."""

    def __init__(self, **options: str | int) -> None:
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def uri(self, camera: int = 0, login: str = "") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}/cam{camera}"

    def start(self, **options: str | int) -> None:
        """Start it, with these options changed; returns when it listens."""
        self._options |= options
        words = [word for key, value in self._options.items() for word in (f"--{key}", str(value))]
        self._process = subprocess.Popen(
            [PYTHON, SCRIPT, "--port", str(self.port), *words], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(30), "the RTSP server did not start"
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """As a power cut: nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stdout:
                self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextmanager
def rtsp_server(**options: str | int) -> Iterator[RtspServer]:
    """A running server, killed at the end."""
    server = RtspServer(**options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Until something is true. AssertionError where it does not become so."""
    deadline_s = monotonic() + timeout_s
    while not condition():
        assert monotonic() < deadline_s, "it did not happen in time"
        sleep(0.02)
