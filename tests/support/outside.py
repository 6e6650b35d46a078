"""What sinks write to, for tests: an MQTT broker, windows."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import pytest

from cameras import free_port
from edgeseg.specs import ImageU8

BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Broker:
    """mosquitto on a port of this machine; it can be killed and started again."""

    def __init__(self, folder: Path, *lines: str) -> None:
        if BROKER is None:
            pytest.skip("mosquitto is not installed: apt install mosquitto")
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            "\n".join([f"listener {self.port} 127.0.0.1", "persistence false", *lines]) + "\n"
        )
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(BROKER), "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until_s and self.process.poll() is None
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Windows:
    """cv2 with windows that live in memory; `key` is pressed at the next picture."""

    def __init__(self) -> None:
        self.shown: dict[str, list[ImageU8]] = {}
        self.key = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)

    def currentUIFramework(self) -> str:
        return "DOUBLE"

    def namedWindow(self, title: str, flags: int) -> None:
        self.shown.setdefault(title, [])

    def resizeWindow(self, title: str, width: int, height: int) -> None:
        assert title in self.shown and width > 0 and height > 0

    def imshow(self, title: str, image_bgr: ImageU8) -> None:
        self.shown.setdefault(title, []).append(image_bgr[:, :, ::-1])

    def getWindowProperty(self, title: str, which: int) -> float:
        if title not in self.shown:
            raise cv2.error("NULL guiReceiver (please create a window)")  # as Qt does
        return 1.0

    def destroyWindow(self, title: str) -> None:
        del self.shown[title]

    def pollKey(self) -> int:
        return self.key
