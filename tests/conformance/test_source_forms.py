"""What every source must do, over all rows of the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest

from edgeseg.contracts import FrameSource, LiveSource
from edgeseg.errors import StreamError, Unsupported
from edgeseg.specs import Frame
from edgeseg.stream.sources.table import FORMS, SourceForm, open_source
from edgeseg.testing.streams import check_fresh, check_source, check_unreachable
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

# One of each live row that cannot be reached. Nothing listens on port 1.
UNREACHABLE: dict[str, str] = {
    "rtsp://user:password@camera/stream": "rtsp://viewer:secret@127.0.0.1:1/x#timeout=1",
    "http://camera/video.mjpg": "http://viewer:secret@127.0.0.1:1/x.mjpg#timeout=1",
    "udp://0.0.0.0:5000": "udp://127.0.0.1:1#timeout=0.3",
    "/dev/video0": "/dev/video987",
    "v4l2://0": "v4l2://987",
    "csi://0": "csi://0",
    "gst:PIPELINE": "gst:rtspsrc location=rtsp://viewer:secret@127.0.0.1:1/x ! fakesink",
}

recorded = [form for form in FORMS if form.example in SOURCE_EXAMPLES]
live = [form for form in FORMS if form.example not in SOURCE_EXAMPLES]


def by_example(form: SourceForm) -> str:
    return form.example


def test_every_row_has_an_example() -> None:
    assert set(UNREACHABLE) == {form.example for form in live}


def _first(source: FrameSource) -> Frame:
    source.open()
    return next(source.frames())


@pytest.mark.parametrize("form", live, ids=by_example)
class TestLiveSource:
    @pytest.fixture
    def source(self, form: SourceForm) -> LiveSource:
        return cast(LiveSource, open_source(UNREACHABLE[form.example]))

    def test_it_says_in_time_that_it_cannot_be_reached_and_tells_no_secret(self, source: LiveSource) -> None:
        start_s = time.monotonic()
        with pytest.raises((StreamError, Unsupported)) as caught:
            _first(source)
        source.close()
        assert time.monotonic() - start_s < 10
        shown = f"{caught.value} {caught.value.hint} {source.source_id}"
        assert caught.value.hint
        assert "secret" not in shown
        assert "viewer" not in shown
        assert caught.value.__cause__ is None  # a library's error quotes the password

    def test_it_keeps_the_contract(self, source: LiveSource, form: SourceForm) -> None:
        for given in (source, cast(LiveSource, open_source(UNREACHABLE[form.example], "front"))):
            check_fresh(given)
        assert given.source_id == "front"
        check_unreachable(source)

    def test_it_can_be_closed_unopened_and_twice(self, source: LiveSource) -> None:
        source.close()
        source.close()


@pytest.mark.parametrize("form", FORMS, ids=by_example)
def test_the_example_shown_to_users_is_of_its_row(form: SourceForm) -> None:
    for example in form.example.split(" or "):
        assert next(row for row in FORMS if row.matches(example)) is form


@pytest.mark.parametrize("form", recorded, ids=by_example)
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
        assert [frame.pts_s for frame in frames] == pytest.approx(
            [index / source.fps for index in range(COUNT)], abs=1e-3
        )
        assert all(frame.image_rgb.dtype == np.uint8 and frame.image_rgb.ndim == 3 for frame in frames)
        assert all(before_s <= frame.arrival_s <= time.monotonic() for frame in frames)
        assert {frame.source_id for frame in frames} == {source.source_id}

    def test_it_keeps_the_contract(self, form: SourceForm, tmp_path: Path) -> None:
        uri = SOURCE_EXAMPLES[form.example](tmp_path)
        check_source(lambda: open_source(uri))
        assert open_source(uri).is_live is False
