"""The public checks: fakes pass them, and what breaks a promise does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeseg.contracts import FrameSink
from edgeseg.results import Result
from edgeseg.specs import Frame, LabelSpace
from edgeseg.synthetic.draw import LABELS
from edgeseg.testing import (
    FakeLiveSource,
    FakeMeter,
    FakeProgress,
    FakeSink,
    FakeSource,
    check_dataset,
    check_meter,
    check_sink,
    check_source,
)

IMAGES = [np.full((8, 8, 3), value, np.uint8) for value in range(1, 5)]


def fresh_images() -> list[np.ndarray]:
    return [image.copy() for image in IMAGES]


def test_fakes_keep_the_contracts() -> None:
    check_source(lambda: FakeSource(fresh_images()))
    check_source(lambda: FakeLiveSource("camera", [[1] * 20]))
    check_sink(FakeSink)
    check_meter(FakeMeter({}, {"VDD_IN": 4.2}))
    progress = FakeProgress()
    progress.start("build", 2)
    progress.advance("build")
    progress.message("slow")
    assert (progress.started, progress.steps, progress.messages) == (["build"], {"build": 1}, ["slow"])


class Changed(FakeSource):
    """Frames of a source, changed."""

    def __init__(self, change: Callable[[Frame], Frame]) -> None:
        super().__init__(fresh_images())
        self._change = change

    def frames(self) -> Iterator[Frame]:
        return map(self._change, super().frames())


@pytest.mark.parametrize(
    "change, promise",
    [
        (lambda frame: replace(frame, index=0), "frames are counted from 0"),
        (lambda frame: replace(frame, source_id="other"), "frames name their source"),
        (lambda frame: replace(frame, image_rgb=frame.image_rgb[..., 0]), "an image is"),
        (lambda frame: replace(frame, pts_s=-frame.pts_s), "time stamps of a recording do not fall"),
    ],
)
def test_a_source_that_breaks_a_promise(change: Callable[[Frame], Frame], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_source(lambda: Changed(change))


def test_a_source_that_hands_out_one_buffer() -> None:
    with pytest.raises(AssertionError, match="a frame belongs to its receiver"):
        check_source(lambda: FakeSource([np.ones((4, 4, 3), np.uint8)] * 3))


END = threading.Event()


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    END.clear()
    yield
    END.set()


class Leaky(FakeSink):
    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        threading.Thread(target=END.wait, daemon=True).start()


class Scribbling(FakeSink):
    def write(self, result: Result) -> None:
        result.mask[:] = 0


class Bare:
    """Has every method, and is no sink."""

    name, takes_all_sources = "bare", True
    open = write = close = lambda self, *given: None


@pytest.mark.parametrize(
    "make, told",
    [(Leaky, "leaves no thread"), (Scribbling, "read-only"), (Bare, "derives from contracts.FrameSink")],
)
def test_a_sink_that_breaks_a_promise(make: Callable[[], FrameSink], told: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=told):
        check_sink(make)


def test_a_target_that_is_not_told_to_be_unwritable() -> None:
    with pytest.raises(AssertionError, match="told by open, each time"):
        check_sink(FakeSink, unwritable=FakeSink)


class Set:
    """Two samples, and what is changed of them."""

    def __init__(self, **changed: Any) -> None:
        self.labels = LABELS
        self.changed = changed

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return str(self.changed.get("name", ("a", "b")[index]))

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        ("a", "b")[index]
        return np.zeros((4, 6, 3), np.uint8), self.changed.get("mask", np.zeros((4, 6), np.uint8))


@pytest.mark.parametrize(
    "changed, promise",
    [
        ({"name": "a"}, "no two samples share a name"),
        ({"mask": np.zeros((6, 4), np.uint8)}, "a class map is"),
        ({"mask": np.full((4, 6), 99, np.uint8)}, "a class map holds known values"),
    ],
)
def test_a_data_set_that_breaks_a_promise(changed: Mapping[str, Any], promise: str) -> None:
    check_dataset(Set())
    with pytest.raises(AssertionError, match=promise):
        check_dataset(Set(**changed))


@pytest.mark.parametrize("reading", [{"VDD_IN": -1.0}, {"VDD_IN": float("nan")}, {"": 1.0}])
def test_a_meter_that_breaks_a_promise(reading: Mapping[str, float]) -> None:
    with pytest.raises(AssertionError):
        check_meter(FakeMeter(reading))
