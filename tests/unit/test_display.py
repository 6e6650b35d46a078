"""The window: what is shown, and how showing ends. The window system is a double; a real one is used where there is one."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import Unsupported
from edgeseg.images import overlay
from edgeseg.specs import ImageU8
from edgeseg.stream import display
from sinking import frame, mask_of, sink
from streams import LABELS, random_images

IMAGES = random_images(3)


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
        assert title in self.shown and (width, height) == (64, 48)

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


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    made = Windows()
    monkeypatch.setattr(display, "opencv", lambda: made)
    monkeypatch.setenv("DISPLAY", ":0")
    return made


def write(target: Any, index: int) -> None:
    target.write(frame(IMAGES[index], index), mask_of(IMAGES[index]), {})


def test_it_shows_the_overlay(windows: Windows) -> None:
    target = sink("display://gate 1", opacity=0.3)
    target.open((48, 64), 25.0, LABELS)
    for index in range(3):
        write(target, index)
    shown = windows.shown["gate 1"]
    assert all(
        np.array_equal(picture, overlay(image, mask_of(image), LABELS, 0.3)) for picture, image in zip(shown, IMAGES, strict=True)
    )
    target.close()
    assert not windows.shown
    target.close()


def test_a_key_ends_the_showing_and_not_the_run(windows: Windows) -> None:
    target = sink("display://")
    target.open((48, 64), 25.0, LABELS)
    windows.key = ord("q")
    write(target, 0)
    assert not windows.shown
    write(target, 1)
    assert not windows.shown
    target.close()


def test_a_window_that_was_closed_is_not_opened_again(windows: Windows) -> None:
    target = sink("display://")
    target.open((48, 64), 25.0, LABELS)
    write(target, 0)
    windows.destroyWindow("edgeseg")
    write(target, 1)
    write(target, 2)
    assert not windows.shown
    target.close()


def test_no_screen(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unsupported, match="no screen") as caught:
        sink("display://").open((48, 64), 25.0, LABELS)
    assert "http://" in caught.value.hint


def test_an_opencv_without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    headless = Windows()
    monkeypatch.setattr(headless, "currentUIFramework", lambda: "")
    monkeypatch.setattr(display, "opencv", lambda: headless)
    with pytest.raises(Unsupported, match="opens no windows") as caught:
        sink("display://").open((48, 64), 25.0, LABELS)
    assert "opencv-python" in caught.value.hint


@pytest.mark.skipif(
    not (cv2.currentUIFramework() and os.environ.get("DISPLAY")), reason="OpenCV is headless here, or there is no screen"
)
def test_a_real_window() -> None:
    target = sink("display://")
    for _ in range(2):
        target.open((48, 64), 25.0, LABELS)
        for index in range(3):
            write(target, index)
        target.close()
        target.close()
