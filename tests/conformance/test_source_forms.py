"""What every source must do, over all rows of the table."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.contracts import FrameSource
from edgeseg.errors import Unsupported
from edgeseg.stream.sources import SOURCES, SourceForm, open_source
from streams import random_images, time_limit, write_video

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

COUNT = 6


def _folder(tmp_path: Path) -> str:
    for index, image_rgb in enumerate(random_images(COUNT)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image_rgb)
    return f"{tmp_path}/?fps=5"


# A working example of each row, by the form that the table shows to users.
SOURCE_EXAMPLES: dict[str, Callable[[Path], str]] = {
    "synthetic://640x480@30?frames=300&seed=1": lambda tmp_path: f"synthetic://64x48@10?frames={COUNT}",
    "frames/ or frames/*.png": _folder,
    "clip.mp4": lambda tmp_path: str(write_video(tmp_path / "clip.mp4", random_images(COUNT), 10)),
}

readable = [form for form in SOURCES if form.make]


def by_example(form: SourceForm) -> str:
    return form.example


def test_every_row_has_an_example() -> None:
    assert set(SOURCE_EXAMPLES) == {form.example for form in readable}


@pytest.mark.parametrize("form", [form for form in SOURCES if not form.make], ids=by_example)
def test_known_sources_that_are_not_read_say_what_to_do(form: SourceForm) -> None:
    with pytest.raises(Unsupported, match="not read yet") as caught:
        open_source(form.example)
    assert caught.value.hint == form.instead != ""


@pytest.mark.parametrize("form", SOURCES, ids=by_example)
def test_the_example_shown_to_users_is_of_its_row(form: SourceForm) -> None:
    for example in form.example.split(" or "):
        assert next(row for row in SOURCES if row.matches(example)) is form


@pytest.mark.parametrize("form", readable, ids=by_example)
class TestSource:
    @pytest.fixture
    def source(self, form: SourceForm, tmp_path: Path) -> FrameSource:
        return open_source(SOURCE_EXAMPLES[form.example](tmp_path))

    def test_frames_come_in_order_with_their_times(self, source: FrameSource) -> None:
        source.open()
        assert source.frame_count == COUNT
        assert source.fps > 0
        before_s = time.monotonic()
        frames = list(source.frames())
        source.close()
        assert [frame.index for frame in frames] == list(range(COUNT))
        assert [frame.pts_s for frame in frames] == pytest.approx([index / source.fps for index in range(COUNT)], abs=1e-3)
        assert all(frame.image_rgb.dtype == np.uint8 and frame.image_rgb.ndim == 3 for frame in frames)
        assert all(before_s <= frame.arrival_s <= time.monotonic() for frame in frames)
        assert {frame.source_id for frame in frames} == {source.source_id}

    def test_a_frame_belongs_to_its_receiver(self, source: FrameSource) -> None:
        source.open()
        frames = list(source.frames())
        copies = [frame.image_rgb.copy() for frame in frames]
        frames[0].image_rgb[:] = 0
        source.close()
        assert all(np.array_equal(frame.image_rgb, copy) for frame, copy in zip(frames[1:], copies[1:], strict=True))

    def test_it_can_be_closed_early_twice_and_unopened(self, source: FrameSource) -> None:
        source.close()
        source.open()
        stream = source.frames()
        next(stream)
        source.close()
        source.close()

    def test_it_gives_the_same_frames_again(self, source: FrameSource) -> None:
        runs = []
        for _ in range(2):
            source.open()
            runs.append([frame.image_rgb for frame in source.frames()])
            source.close()
        assert all(np.array_equal(first, second) for first, second in zip(*runs, strict=True))

    def test_it_keeps_the_contract(self, source: FrameSource) -> None:
        assert source.is_live is False
        assert_methods(source, FrameSource, ("open", "frames", "close"))


def assert_methods(thing: object, contract: type, names: tuple[str, ...]) -> None:
    for name in names:
        wanted = list(inspect.signature(getattr(contract, name)).parameters)[1:]
        assert list(inspect.signature(getattr(thing, name)).parameters) == wanted
