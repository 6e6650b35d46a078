"""Recordings keep every frame and its time, play up to the last second whatever ends them, and go on when
they can.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import StreamError, Unsupported
from edgeseg.images import overlay
from edgeseg.specs import ImageU8
from edgeseg.stream.sinks import disk, mp4, muxer
from edgeseg.stream.sinks.mp4 import Rotation
from edgeseg.stream.sinks.muxer import VideoClock, exact_rate
from locations import REPOSITORY, SUPPORT
from sinking import fill, frame, mask_of, read_video, result, sink, write_all
from streams import LABELS, random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

RATES = [30000 / 1001, 29.97, 24000 / 1001, 25.0, 12.5, 7.4925, 1 / 3]


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
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.average_rate, video.frames, video.codec_context.name) == (exact_rate(fps), 40, "h264")
        assert container.duration == pytest.approx(40e6 / fps, abs=1)
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
    for codec, width in (("h264", 70_000), ("mpeg4", 9000)):
        with pytest.raises(StreamError, match=f"cannot be written as {codec} of {width}x32"):
            sink(f"{tmp_path}/out.mp4#codec={codec}").open((32, width), 25.0, LABELS)
    assert not list(tmp_path.iterdir())


def test_a_recording_gets_its_name_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the recording of yesterday")
    target = sink(path)
    target.open((48, 64), 25.0, LABELS)
    (image_rgb,) = random_images(1)
    target.write(result(frame(image_rgb)))
    assert path.read_bytes() == b"the recording of yesterday"
    target.close()
    target.close()
    assert len(read_video(path)[1]) == 1


def test_a_recording_without_frames_leaves_nothing(tmp_path: Path) -> None:
    target = sink(tmp_path / "out.mp4")
    target.open((48, 64), 25.0, LABELS)
    target.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_recording_while_it_can_still_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, free_bytes = namedtuple("usage", "total used free"), [10 * disk.RESERVE_BYTES]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(0, 0, free_bytes[0]))
    target = sink(tmp_path / "out.mp4")
    target.open((48, 64), 25.0, LABELS)
    first, second = random_images(2)
    target.write(result(frame(first)))
    free_bytes[0] = disk.RESERVE_BYTES - 1
    with pytest.raises(StreamError, match="the disk is full") as caught:
        target.write(result(frame(second, 1)))
    assert "df -h" in caught.value.hint
    target.close()
    assert len(read_video(tmp_path / "out.mp4")[1]) == 1


# times


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=40), st.sampled_from(RATES))
def test_times_increase_whatever_comes(times_s: list[float], fps: float) -> None:
    clock = VideoClock(exact_rate(fps))
    ticks = [clock.ticks(time_s) for time_s in times_s]
    assert ticks[0] == 0 and all(later > earlier for earlier, later in pairwise(ticks))
    assert clock.step * clock.time_base == 1 / exact_rate(fps)


@given(st.lists(st.integers(1, 3_000_000), max_size=40), st.floats(0, 1e6), st.sampled_from(RATES))
def test_times_that_increase_are_kept(steps_ms: list[int], first_s: float, fps: float) -> None:
    clock, times_s = (
        VideoClock(exact_rate(fps)),
        [first_s + sum(steps_ms[:count]) / 1e3 for count in range(len(steps_ms) + 1)],
    )
    for time_s in times_s:
        assert abs(float(clock.ticks(time_s) * clock.time_base) - (time_s - first_s)) <= 1 / 90_000 + 1e-9


@given(st.integers(1, 120_000), st.sampled_from([1, 1000, 1001]))
def test_rates_come_back_from_their_floats(numerator: int, denominator: int) -> None:
    assert exact_rate(numerator / denominator) == Fraction(numerator, denominator)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_variable_rate_is_kept(tmp_path: Path, codec: str) -> None:
    """A camera that stutters, loses a second, and begins its clock anew."""
    times_s = [7.0, 7.04, 7.1, 7.101, 7.14, 8.5, 8.54, 0.0, 0.02, 0.06]
    expected = [0, 0.04, 0.1, 0.101, 0.14, 1.5, 1.54, 1.58, 1.6, 1.64]
    write_all(sink(f"{tmp_path}/out.mp4#codec={codec}"), random_images(len(times_s)), 25.0, times_s)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.name == codec
        assert [float(picture.time) for picture in container.decode(video=0)] == pytest.approx(
            expected, abs=1e-5
        )
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    shown_s = [capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3 for _ in times_s if capture.grab()]
    assert shown_s == pytest.approx(expected, abs=1e-5)


# views and codecs


def test_views(tmp_path: Path) -> None:
    (image_rgb,) = random_images(1, (96, 128))
    mask = mask_of(image_rgb)
    blended, plain = overlay(image_rgb, mask, LABELS), overlay(image_rgb, mask, LABELS, 1.0)
    expected = {
        "overlay": blended,
        "side": np.concatenate([image_rgb, blended], axis=1),
        "mask": plain,
        "frame": image_rgb,
    }
    for view, picture in expected.items():
        write_all(sink(f"{tmp_path}/{view}.mp4#view={view}"), [image_rgb])
        _, (shown,) = read_video(tmp_path / f"{view}.mp4")
        assert shown.shape == picture.shape
        assert np.abs(shown.astype(float) - picture).mean() < 6.0


def test_an_encoder_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(muxer.CODECS, "h264", muxer.Codec("libmissing", {}))
    with pytest.raises(Unsupported, match="no encoder libmissing for h264") as caught:
        sink(tmp_path / "out.mp4").open((48, 64), 25.0, LABELS)
    assert "#codec=mpeg4" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_large_frames(tmp_path: Path) -> None:
    image_rgb = np.zeros((4320, 7680, 3), np.uint8)
    image_rgb[:2000] = 200
    write_all(sink(tmp_path / "out.mp4"), [image_rgb] * 2)
    _, images = read_video(tmp_path / "out.mp4")
    assert len(images) == 2 and images[1].shape == image_rgb.shape


# killed, full, taken


KILLED = """
import os, sys
sys.path[:0] = sys.argv[2:]
from sinking import frame, mask_of, result, sink
from streams import LABELS, random_images
target = sink(sys.argv[1])
target.open((48, 64), 25.0, LABELS)
images = random_images(25)
print("begun", flush=True)
for index in range(10**9):
    target.write(result(frame(images[index % 25], index)))
    if index == 200:
        print("far", flush=True)
"""


def recording_child(uri: str | Path) -> subprocess.Popen[str]:
    """A process that records until it is killed; it has written more than 200 frames."""
    folders = [str(SUPPORT), str(REPOSITORY)]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(uri), *folders], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["begun\n", "far\n"]
    return child


def test_a_killed_recording_plays_up_to_the_last_second(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"the recording of yesterday")
    child = recording_child(tmp_path / "out.mp4")
    with pytest.raises(StreamError, match="another run is writing it"):
        sink(tmp_path / "out.mp4").open((48, 64), 25.0, LABELS)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert child.stdout is not None
    child.stdout.close()
    assert (tmp_path / "out.mp4").read_bytes() == b"the recording of yesterday"
    left = tmp_path / "out.partial.mp4"
    _, images = read_video(left)
    with av.open(str(left)) as container:
        times_s = [float(picture.time) for picture in container.decode(video=0)]
    # A fragment is a second; the one that was being written may be lost.
    assert len(images) == len(times_s) >= 175
    assert times_s == pytest.approx([index / 25 for index in range(len(times_s))])
    pictures = random_images(25)
    for index in (0, 100, len(images) - 1):
        expected = overlay(pictures[index % 25], mask_of(pictures[index % 25]), LABELS)
        assert np.abs(images[index].astype(float) - expected).mean() < 8
    # The next recording keeps it.
    before = left.read_bytes()
    write_all(sink(tmp_path / "out.mp4"), random_images(3))
    assert sorted(os.listdir(tmp_path)) == ["out-0001.mp4", "out.mp4"]
    assert (tmp_path / "out-0001.mp4").read_bytes() == before
    assert len(read_video(tmp_path / "out.mp4")[1]) == 3


def test_what_never_held_a_picture_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "out.partial.mp4").write_bytes(b"no video")
    write_all(sink(tmp_path / "out.mp4"), random_images(1))
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_a_recording_that_is_opened_again_goes_on_in_a_numbered_file(tmp_path: Path) -> None:
    target = sink(tmp_path / "out.mp4")
    for size_hw in ((48, 64), (32, 40), (48, 64)):
        write_all(target, random_images(4, size_hw))
    assert {name: read_video(tmp_path / name)[1][0].shape[:2] for name in os.listdir(tmp_path)} == {
        "out.mp4": (48, 64),
        "out-0001.mp4": (32, 40),
        "out-0002.mp4": (48, 64),
    }


def noise(count: int, size_hw: tuple[int, int] = (240, 320)) -> list[ImageU8]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size_hw, 3), np.uint8) for _ in range(count)]


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    """What fits is kept, and plays; it goes on when there is room worth it."""
    target, pictures = sink(small_disk / "out.mp4"), noise(4)
    target.open((240, 320), 25.0, LABELS)
    with pytest.raises(StreamError, match="the disk is full"):
        fill(target, pictures, 400)
    target.close()
    fps, images = read_video(small_disk / "out.mp4")
    assert fps == 25 and len(images) > 20
    for _ in range(2):
        with pytest.raises(StreamError, match="the disk is full"):
            target.open((240, 320), 25.0, LABELS)
    shutil.move(small_disk / "out.mp4", small_disk.parent)
    write_all(target, pictures)
    assert os.listdir(small_disk) == ["out-0001.mp4"]
    assert len(read_video(small_disk / "out-0001.mp4")[1]) == 4


def test_a_disk_that_is_full_to_the_last_byte(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others take the reserve, the file still plays as far as it was written."""
    monkeypatch.setattr(mp4, "check_space", lambda path, beside_bytes: None)
    monkeypatch.setattr(disk, "_RESUME_SHARE", 0.9)
    target, pictures = sink(small_disk / "out.mp4"), noise(4)
    target.open((240, 320), 25.0, LABELS)
    with pytest.raises(StreamError, match="No space left"):
        fill(target, pictures, 400)
    with pytest.raises(StreamError, match=r"could not be finished"):
        target.close()
    target.close()
    assert os.listdir(small_disk) == ["out.mp4"]
    assert len(read_video(small_disk / "out.mp4")[1]) >= 20
    with pytest.raises(StreamError, match="the disk is full"):
        target.open((240, 320), 25.0, LABELS)


def test_a_recording_that_never_plays_takes_no_place(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp4, "check_space", lambda path, beside_bytes: None)
    target, pictures = sink(small_disk / "out.mp4"), noise(4)
    (small_disk / "out.mp4").write_bytes(b"the recording of yesterday")
    target.open((240, 320), 25.0, LABELS)
    (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    with pytest.raises(StreamError, match="No space left"):
        fill(target, pictures, 400)
    with pytest.raises(StreamError, match="could not be finished"):
        target.close()
    assert sorted(os.listdir(small_disk)) == ["others", "out.mp4"]
    assert (small_disk / "out.mp4").read_bytes() == b"the recording of yesterday"


def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    target = sink(small_disk / "out.mp4")
    write_all(target, random_images(3))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StreamError, match="Read-only file system"):
        target.open((48, 64), 25.0, LABELS)
    target.close()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    write_all(target, random_images(3))
    assert sorted(os.listdir(small_disk)) == ["out-0001.mp4", "out.mp4"]


# rotation


@pytest.mark.parametrize("keep", [None, 3])
def test_segments_by_time_lose_no_frame(tmp_path: Path, keep: int | None) -> None:
    images = [np.full((48, 64, 3), 2 * index, np.uint8) for index in range(110)]
    uri = f"{tmp_path}/cam.mp4#view=frame&segment_s=1" + (f"&keep={keep}" if keep else "")
    write_all(sink(uri), images, 30000 / 1001)
    names = sorted(os.listdir(tmp_path))
    assert names == [f"cam-{number:04d}.mp4" for number in range(1, 5)][-(keep or 4) :]
    brightness = []
    for name in names:
        fps, shown = read_video(tmp_path / name)
        assert fps == pytest.approx(30000 / 1001, rel=1e-12)
        assert len(shown) in (30, 20)
        brightness += [round(float(picture.mean()) / 2) for picture in shown]
    assert brightness == pytest.approx(list(range(110))[-len(brightness) :], abs=1)


def test_segments_by_size_and_the_next_run_goes_on_counting(tmp_path: Path) -> None:
    pictures = noise(20)
    for _ in range(2):
        write_all(sink(f"{tmp_path}/cam.mp4#segment_mb=0.3"), pictures)
    names = sorted(os.listdir(tmp_path))
    assert len(names) >= 6 and names == [f"cam-{number:04d}.mp4" for number in range(1, len(names) + 1)]
    assert sum(len(read_video(tmp_path / name)[1]) for name in names) == 40
    assert all((tmp_path / name).stat().st_size < 500_000 for name in names)


def test_only_segments_of_its_own_are_deleted(tmp_path: Path) -> None:
    others = ["cam.mp4", "cam-1.mp4", "cam-0001.mp4.txt", "camera-0001.mp4", "cam-0001.mov"]
    for name in others:
        (tmp_path / name).write_text("mine")
    for number in (1, 2, 7):
        (tmp_path / f"cam-{number:04d}.mp4").write_text("old")
    write_all(sink(f"{tmp_path}/cam.mp4#keep=2"), random_images(2))
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "cam-0007.mp4", "cam-0008.mp4"])


def test_a_rotation_never_deletes_the_source(tmp_path: Path) -> None:
    (tmp_path / "cam-0001.mp4").write_text("source")
    with pytest.raises(StreamError, match="would write over the source"):
        sink(f"{tmp_path}/cam.mp4#keep=2", source_uri=str(tmp_path / "cam-0001.mp4"))
    assert sink(f"{tmp_path}/cam.mp4#segment_s=2", source_uri=str(tmp_path / "cam-0001.mp4"))


@given(
    st.floats(0, 100),
    st.integers(0, 1000),
    st.one_of(st.none(), st.floats(1, 50)),
    st.one_of(st.none(), st.floats(1, 500)),
)
def test_a_segment_ends_at_the_first_limit(
    pts_s: float, size: int, most_s: float | None, most_bytes: float | None
) -> None:
    due = (most_s is not None and pts_s >= most_s) or (most_bytes is not None and size >= most_bytes)
    assert Rotation(most_s, most_bytes).is_due(pts_s, size) == due
