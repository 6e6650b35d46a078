"""Sinks write what they were given, say at once when they cannot, and leave what was written readable."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeseg.contracts import FrameSink
from edgeseg.errors import EdgesegError, StreamError
from edgeseg.images import overlay
from edgeseg.specs import Frame, ImageU8, MaskU8
from edgeseg.stream import files
from edgeseg.stream.mp4 import exact_rate, has_header, set_rate
from edgeseg.stream.sinks import encode_mask_png, open_sinks
from streams import LABELS, by_brightness, random_images, time_limit, write_video

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

RATES = [30000 / 1001, 29.97, 24000 / 1001, 25.0, 12.5, 7.4925, 1 / 3]


def sink(uri: str | Path, **options: Any) -> FrameSink:
    (made,) = open_sinks([str(uri)], **options)
    return made


def frame(image_rgb: ImageU8, index: int = 0, name: str = "") -> Frame:
    return Frame(image_rgb, index, index / 25, time.monotonic(), "test", name)


def mask_of(image_rgb: ImageU8) -> MaskU8:
    return (image_rgb[:, :, 1] // 64).astype(np.uint8)


def write_all(target: FrameSink, images: list[ImageU8], fps: float = 25.0) -> None:
    target.open(images[0].shape[:2], fps, LABELS)
    try:
        for index, image_rgb in enumerate(images):
            target.write(frame(image_rgb, index), mask_of(image_rgb), {"index": index})
    finally:
        target.close()


def read_video(path: Path) -> tuple[float, list[ImageU8]]:
    capture = cv2.VideoCapture(str(path))
    fps, images = capture.get(cv2.CAP_PROP_FPS), []
    while True:
        good, image_bgr = capture.read()
        if not good:
            capture.release()
            return fps, images
        images.append(image_bgr[:, :, ::-1])


# overlay video


@pytest.mark.parametrize("fps", RATES)
def test_video_keeps_the_rate_exactly(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "out.mp4"
    write_all(sink(path), random_images(40), fps)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-12)
    times_ms = []
    while capture.grab():
        times_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    assert times_ms == pytest.approx([1e3 * index / fps for index in range(40)], abs=1e-6)
    assert os.listdir(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_video_shows_the_overlay(tmp_path: Path, opacity: float) -> None:
    (image_rgb,) = random_images(1, (96, 128))
    write_all(sink(tmp_path / "new/folder/out.mp4", opacity=opacity), [image_rgb])
    _, (shown,) = read_video(tmp_path / "new/folder/out.mp4")
    expected = overlay(image_rgb, mask_of(image_rgb), LABELS, opacity)
    assert np.abs(shown.astype(float) - expected).mean() < 6.0


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 5), (31, 64), (2, 2)])
def test_odd_sizes_lose_no_pixel(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    write_all(sink(tmp_path / "out.mp4"), random_images(3, size_hw))
    _, images = read_video(tmp_path / "out.mp4")
    assert len(images) == 3
    assert images[0].shape[:2] == tuple(side + side % 2 for side in size_hw)


def test_video_of_pictures_needs_a_rate(tmp_path: Path) -> None:
    with pytest.raises(StreamError) as caught:
        write_all(sink(tmp_path / "out.mp4"), random_images(1), fps=0.0)
    assert "?fps=" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_video_refuses_another_size_and_keeps_what_it_has(tmp_path: Path) -> None:
    target = sink(tmp_path / "out.mp4")
    with pytest.raises(StreamError, match=r"frame 2 .* is 16x8, and the video is 64x48"):
        write_all(target, [*random_images(2), *random_images(1, (8, 16))])
    assert len(read_video(tmp_path / "out.mp4")[1]) == 2


def test_video_too_large_for_the_codec(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="cannot encode 9000x32"):
        sink(tmp_path / "out.mp4").open((32, 9000), 25.0, LABELS)
    assert not list(tmp_path.iterdir())


def test_a_recording_gets_its_name_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the recording of yesterday")
    target = sink(path)
    target.open((48, 64), 25.0, LABELS)
    (image_rgb,) = random_images(1)
    target.write(frame(image_rgb), mask_of(image_rgb), {})
    assert path.read_bytes() == b"the recording of yesterday"
    target.close()
    target.close()
    assert len(read_video(path)[1]) == 1


def test_a_recording_without_frames_leaves_nothing(tmp_path: Path) -> None:
    target = sink(tmp_path / "out.mp4")
    target.open((48, 64), 25.0, LABELS)
    target.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_recording_while_it_can_still_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, free_bytes = namedtuple("usage", "total used free"), [10 * files.RESERVE_BYTES]
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(0, 0, free_bytes[0]))
    target = sink(tmp_path / "out.mp4")
    target.open((48, 64), 25.0, LABELS)
    first, second = random_images(2)
    target.write(frame(first), mask_of(first), {})
    free_bytes[0] = files.RESERVE_BYTES - 1
    with pytest.raises(StreamError, match="the disk is full") as caught:
        target.write(frame(second, 1), mask_of(second), {})
    assert "df -h" in caught.value.hint
    target.close()
    assert len(read_video(tmp_path / "out.mp4")[1]) == 1


def test_a_recording_that_was_cut_off_is_never_called_finished(tmp_path: Path) -> None:
    target = sink(tmp_path / "out.mp4")
    target.open((48, 64), 25.0, LABELS)
    (image_rgb,) = random_images(1)
    target.write(frame(image_rgb), mask_of(image_rgb), {})
    (partial,) = tmp_path.iterdir()
    partial.unlink()
    partial.mkdir()
    with pytest.raises(StreamError, match="could not be finished"):
        target.close()
    assert not (tmp_path / "out.mp4").exists()


# mp4 headers


def test_header_of_what_is_no_mp4(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    assert not has_header(path)
    write_video(path, random_images(10), 25)
    assert has_header(path)
    data = path.read_bytes()
    for content in (b"", b"short", data[: len(data) // 2], data[:-3], bytes(5000)):
        path.write_bytes(content)
        assert not has_header(path)
        with pytest.raises(OSError, match="no header"):
            set_rate(path, Fraction(25))


@pytest.mark.parametrize("fps", [25.0, 12.5])
def test_a_rate_that_is_right_is_not_written(tmp_path: Path, fps: float) -> None:
    path = write_video(tmp_path / "clip.mp4", random_images(3), fps)
    before = path.read_bytes()
    set_rate(path, exact_rate(fps))
    assert path.read_bytes() == before


@given(st.integers(1, 120_000), st.sampled_from([1, 1000, 1001]))
def test_rates_come_back_from_their_floats(numerator: int, denominator: int) -> None:
    assert exact_rate(numerator / denominator) == Fraction(numerator, denominator)


# masks


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_mask_png_is_the_mask_with_its_palette(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    picture = Image.open(io.BytesIO(encode_mask_png(mask, LABELS.palette())))
    picture.load()
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), mask)
    assert np.array_equal(np.asarray(picture.convert("RGB")), LABELS.palette()[mask])


def test_opencv_reads_mask_png_in_colour() -> None:
    mask = by_brightness(random_images(1)[0])
    decoded = cv2.imdecode(np.frombuffer(encode_mask_png(mask, LABELS.palette()), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[:, :, ::-1], LABELS.palette()[mask])


def test_masks_are_numbered_for_videos_and_named_for_pictures(tmp_path: Path) -> None:
    target = sink(f"png:{tmp_path}/m")
    image_rgb, other = random_images(2, (5, 7))
    target.open((5, 7), 0.0, LABELS)
    target.write(frame(image_rgb, 3), mask_of(image_rgb), {})
    target.write(frame(other, 4, "street 1.jpg"), mask_of(other), {})
    target.close()
    assert sorted(os.listdir(tmp_path / "m")) == ["000003.png", "street 1.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "m/street 1.png")), mask_of(other))


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    target = sink(f"{tmp_path}/m/")
    (image_rgb,) = random_images(1)
    target.open((48, 64), 0.0, LABELS)
    target.write(frame(image_rgb, 0, "a.jpg"), mask_of(image_rgb), {})
    with pytest.raises(StreamError, match=r"second is a\.png"):
        target.write(frame(image_rgb, 1, "a.png"), mask_of(image_rgb), {})


# result lines


def test_result_lines_can_be_read_while_they_grow(tmp_path: Path) -> None:
    target, path = sink(tmp_path / "r.ndjson"), tmp_path / "r.ndjson"
    (image_rgb,) = random_images(1)
    target.open((48, 64), 25.0, LABELS)
    for index in range(3):
        target.write(frame(image_rgb, index), mask_of(image_rgb), {"index": index, "class_share": {"é": 0.5}})
        assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == list(range(index + 1))
    target.close()
    target.close()


def test_result_lines_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write_all(sink("-"), random_images(2))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [{"index": 0}, {"index": 1}]
    assert not sys.stdout.closed


def test_a_full_disk_under_result_lines(tmp_path: Path) -> None:
    """/dev/full takes no byte."""
    (tmp_path / "r.ndjson").symlink_to("/dev/full")
    with pytest.raises(StreamError, match=os.strerror(errno.ENOSPC)):
        write_all(sink(tmp_path / "r.ndjson"), random_images(1))


# what cannot be written


@pytest.mark.parametrize("name", ["out.mp4", "r.ndjson", "masks/"])
def test_unwritable_places_are_refused_when_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StreamError, match="cannot be written") as caught:
        sink(f"{tmp_path}/file/{name}").open((48, 64), 25.0, LABELS)
    assert caught.value.hint
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("name", ["out.mp4", "r.ndjson", "masks/"])
def test_read_only_folders_are_refused_when_opened(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StreamError, match="Permission denied"):
        sink(f"{tmp_path}/{name}").open((48, 64), 25.0, LABELS)


@pytest.mark.parametrize("name", ["out.mp4", "r.ndjson"])
def test_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    target = sink(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(StreamError, match="Is a directory"):
        target.open((48, 64), 25.0, LABELS)


@pytest.mark.parametrize("name", ["out.mp4", "r.ndjson", "masks/"])
def test_a_disk_that_is_full_is_refused_when_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(StreamError, match="the disk is full"):
        sink(f"{tmp_path}/{name}").open((48, 64), 25.0, LABELS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    """What fits is kept, and plays; no half mask is left."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    target, masks = sink(small_disk / "out.mp4"), sink(f"{small_disk}/masks/")
    masks.open((240, 320), 25.0, LABELS)
    with pytest.raises(StreamError, match="the disk is full"):
        write_all(target, [noise] * 200)
    fps, images = read_video(small_disk / "out.mp4")
    assert fps == 25
    assert 5 < len(images) < 200
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    mask = noise[:, :, 0]
    masks.write(frame(noise), mask, {})
    with pytest.raises(StreamError, match=os.strerror(errno.ENOSPC)):
        masks.write(frame(noise, 1), np.tile(mask, (2, 2)), {})
    assert os.listdir(small_disk / "masks") == ["000000.png"]


@pytest.mark.parametrize("uri", ["", "out.avi", "out", "foo://bar.mp4", "result.json"])
def test_unknown_forms_name_what_is_accepted(uri: str) -> None:
    with pytest.raises(StreamError, match="not a sink") as caught:
        open_sinks([uri])
    assert "out.mp4" in caught.value.hint
    assert "rtsp" not in caught.value.hint


def test_no_sink_writes_over_the_source_or_another_sink(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "1.png"), random_images(1)[0])
    (tmp_path / "clip.mp4").write_bytes(b"x")
    for source_uri, uris in (
        (f"{tmp_path}/clip.mp4", [f"{tmp_path}/pictures/../clip.mp4"]),
        (f"{pictures}/", [f"png:{pictures}"]),
        (f"{tmp_path}/**/*.png?fps=3", [f"{pictures}/"]),
        ("synthetic://64x48", [f"{tmp_path}/o.mp4", f"{tmp_path}/./o.mp4"]),
        ("synthetic://64x48", ["-", "-"]),
    ):
        with pytest.raises(StreamError, match="would write over"):
            open_sinks(uris, source_uri=source_uri)
    assert len(open_sinks([f"{tmp_path}/o.mp4", f"{tmp_path}/m/", "-", "null:", "null:"], source_uri=f"{pictures}/")) == 5


@given(st.text(max_size=20))
def test_any_text_is_a_sink_or_a_clear_error(text: str) -> None:
    try:
        open_sinks([text])
    except EdgesegError as error:
        assert error.hint
