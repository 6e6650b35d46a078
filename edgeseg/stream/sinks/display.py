"""A window on this machine's screen: `display://`, or `display://TITLE`.

The key q, or closing it, ends the showing and not the run.
"""

from __future__ import annotations

import os
import sys
from typing import Any
from urllib.parse import unquote

from edgeseg.contracts import FrameSink
from edgeseg.errors import Unsupported
from edgeseg.images import opencv, squared_hw
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.sinks.options import read_options
from edgeseg.stream.sinks.views import VIEW, View, view_of

_QUIT_KEYS = (ord("q"), 27)


class Display(FrameSink):
    """A window of OpenCV's. Its calls come from one thread, as window systems want them."""

    def __init__(self, address: str, view: View) -> None:
        self.name = address
        self._title = unquote(address.removeprefix("display://")) or "edgeseg"
        self._view = view
        self._shown = False

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        cv2 = opencv()
        if not _has_windows(cv2):
            raise Unsupported(
                f"{self.name}: this OpenCV opens no windows (it is the headless one)",
                hint="pip uninstall opencv-python-headless && pip install opencv-python, or watch --sink http://127.0.0.1:8090/",
            )
        if sys.platform == "darwin":
            raise Unsupported(
                f"{self.name}: macOS opens windows for a program's first thread only, and sinks have another",
                hint="watch --sink http://127.0.0.1:8090/",
            )
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise Unsupported(
                f"{self.name}: no screen here", hint="watch it from elsewhere: --sink http://127.0.0.1:8090/"
            )
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        height, width = squared_hw(self._view.size_hw(size_hw), self.pixel_aspect)
        cv2.resizeWindow(self._title, width, height)
        self._shown, self._frames = True, 0

    def write(self, result: Result) -> None:
        if not self._shown:
            return
        cv2 = opencv()
        # A window that was closed would be opened again by the next picture.
        if self._frames and not self._is_there():
            self._shown = False
            return
        image_rgb = self._view.show(result)
        cv2.imshow(self._title, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
        self._frames += 1
        if cv2.pollKey() & 0xFF in _QUIT_KEYS:
            self.close()

    def close(self) -> None:
        if self._shown:
            self._shown = False
            if self._is_there():
                opencv().destroyWindow(self._title)
            opencv().pollKey()

    def _is_there(self) -> bool:
        cv2 = opencv()
        try:
            return bool(cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:
            return False  # Qt raises where no window is left


def _has_windows(cv2: Any) -> bool:
    try:
        return bool(cv2.currentUIFramework())
    except (AttributeError, cv2.error):
        return False


def from_uri(uri: str, opacity: float) -> Display:
    """Return the window of `display://TITLE#view=...`. Raises StreamError for a malformed option."""
    address, options = read_options(uri, VIEW)
    return Display(address, view_of(options, opacity))
