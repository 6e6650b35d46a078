"""What the tests of the stream share: pictures, clips, a session with a visible answer, a limit on
waiting.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.specs import ImageSpec, ImageU8, IsrPlan, LabelSpace, MaskU8, Program
from edgeseg.testing.fakes import FakeSession

LABELS = LabelSpace(
    ("road", "sky", "car", "tree"), ((128, 64, 128), (70, 130, 180), (0, 0, 142), (107, 142, 35))
)
PROGRAM = Program(Path("fake.onnx"), ImageSpec((64, 96)), LABELS, 4, IsrPlan(), "float", "fake")


def by_brightness(image_rgb: ImageU8) -> MaskU8:
    """The class map whose classes are steps of the green channel."""
    return (image_rgb[::4, ::4, 1] // 64).astype(np.uint8)


def session(before: Callable[[int], object] = lambda number: None) -> FakeSession:
    """A session that answers by brightness; `before` gets the number of each inference first, from 0."""
    numbers = iter(range(10**9))

    def answer(image_rgb: ImageU8) -> MaskU8:
        before(next(numbers))
        return by_brightness(image_rgb)

    return FakeSession(PROGRAM, answer)


def random_images(count: int, size_hw: tuple[int, int] = (48, 64), seed: int = 0) -> list[ImageU8]:
    """Distinct pictures with structure: smooth noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    return [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), size_hw[::-1]) for _ in range(count)]


def write_video(path: Path, images: Sequence[ImageU8], fps: float, codec: str = "mp4v") -> Path:
    """An ordinary video file, as any other tool would leave it."""
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for image_rgb in images:
        writer.write(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def time_limit() -> Iterator[None]:
    """Fails a test that waits for ever, instead of waiting with it."""

    def give_up(*_: object) -> None:
        raise AssertionError("the test did not end within 60 s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
