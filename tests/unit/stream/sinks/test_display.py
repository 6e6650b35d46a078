"""The window: what is shown, and how showing ends. The window system is a double; a real one is used where
there is one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import Unsupported
from edgeseg.images import overlay
from edgeseg.stream.sinks import display
from outside import Windows
from sinking import frame, mask_of, result, sink
from streams import LABELS, random_images

IMAGES = random_images(3)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    made = Windows()
    monkeypatch.setattr(display, "opencv", lambda: made)
    monkeypatch.setenv("DISPLAY", ":0")
    return made


def write(target: Any, index: int) -> None:
    target.write(result(frame(IMAGES[index], index)))


def test_it_shows_the_overlay(windows: Windows) -> None:
    target = sink("display://gate 1", opacity=0.3)
    target.open((48, 64), 25.0, LABELS)
    for index in range(3):
        write(target, index)
    shown = windows.shown["gate 1"]
    assert all(
        np.array_equal(picture, overlay(image, mask_of(image), LABELS, 0.3))
        for picture, image in zip(shown, IMAGES, strict=True)
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


def test_macos(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Unsupported, match="macOS") as caught:
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
    not (cv2.currentUIFramework() and os.environ.get("DISPLAY")),
    reason="OpenCV is headless here, or there is no screen",
)
def test_a_real_window() -> None:
    target = sink("display://")
    for _ in range(2):
        target.open((48, 64), 25.0, LABELS)
        for index in range(3):
            write(target, index)
        target.close()
        target.close()
