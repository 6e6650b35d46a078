"""Sources deliver every frame once, in order, with its time; what is missing, damaged or no picture says
so.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeseg.contracts import FrameSource
from edgeseg.data.pairs import walk
from edgeseg.errors import EdgesegError, StreamError
from edgeseg.specs import Frame
from edgeseg.stream.sources.places import find_images
from edgeseg.stream.sources.recorded import ImageFiles, VideoFile
from edgeseg.stream.sources.table import files_of, open_source
from edgeseg.synthetic.scene import Scene
from streams import random_images, time_limit, write_video

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

NTSC = 30000 / 1001


def read_all(source: FrameSource) -> list[Frame]:
    source.open()
    try:
        return list(source.frames())
    finally:
        source.close()


def failure(uri: str | Path) -> EdgesegError:
    """The error that reading a source ends in; it must carry a hint."""
    with pytest.raises(EdgesegError) as caught:
        read_all(open_source(str(uri)))
    assert caught.value.hint
    return caught.value


def boxes_replaced(path: Path, kind: bytes, share_kept: float) -> None:
    """Zero the end of an mp4's top-level box, as an interrupted copy or a bad card does."""
    data = bytearray(path.read_bytes())
    position = 0
    while data[position + 4 : position + 8] != kind:
        position += int.from_bytes(data[position : position + 4], "big")
    end = position + int.from_bytes(data[position : position + 4], "big")
    start = position + 8 + int((end - position - 8) * share_kept)
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


# video files


def test_video_frames_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", random_images(12), NTSC)
    frames = read_all(open_source(str(path)))
    capture = cv2.VideoCapture(str(path))
    for index, frame in enumerate(frames):
        good, expected_bgr = capture.read()
        assert good
        assert np.array_equal(frame.image_rgb, expected_bgr[:, :, ::-1])
        assert frame.index == index
        assert frame.pts_s == pytest.approx(index / NTSC, abs=1e-4)
    assert not capture.read()[0]
    capture.release()
    assert len({id(frame.image_rgb) for frame in frames}) == len(frames) == 12


def test_video_rate_and_count_are_known_once_open(tmp_path: Path) -> None:
    source = VideoFile(str(write_video(tmp_path / "clip.mp4", random_images(5), NTSC)))
    source.open()
    assert source.fps == pytest.approx(NTSC, rel=2e-6)  # OpenCV's writer rounds it
    assert source.frame_count == 5
    source.close()
    source.close()


def test_video_name_with_colon_percent_and_accent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", random_images(2), 25).rename(tmp_path / "a:b %03d é [1].mp4")
    assert len(read_all(open_source("a:b %03d é [1].mp4"))) == 2


def test_grayscale_video_comes_as_rgb(tmp_path: Path) -> None:
    path = tmp_path / "gray.avi"
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"FFV1"), 10, (32, 24), isColor=False
    )
    writer.write(np.full((24, 32), 90, np.uint8))
    writer.release()
    (frame,) = read_all(open_source(str(path)))
    assert frame.image_rgb.shape == (24, 32, 3)
    assert np.abs(frame.image_rgb.astype(int) - 90).max() <= 3


PICTURES = {
    "1x1": (np.full((1, 1, 3), 90, np.uint8), "rgb24", "png"),
    "odd": (np.full((33, 17, 3), 90, np.uint8), "rgb24", "png"),
    "gray": (np.full((24, 32), 90, np.uint8), "gray", "ffv1"),
    "16 bit": (np.full((24, 32), 90 * 257, np.uint16), "gray16le", "ffv1"),
    "16 bit colour": (np.full((24, 32, 3), 90 * 257, np.uint16), "rgb48le", "png"),
    "alpha": (np.full((24, 32, 4), 90, np.uint8), "rgba", "png"),
    "8K": (np.full((4320, 7680, 3), 90, np.uint8), "rgb24", "mjpeg"),
}


@pytest.mark.parametrize(
    "kind", [kind if kind != "8K" else pytest.param(kind, marks=pytest.mark.slow) for kind in PICTURES]
)
def test_pictures_of_every_kind_come_as_rgb(tmp_path: Path, kind: str) -> None:
    av = pytest.importorskip("av")
    picture, pixels, codec = PICTURES[kind]
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = {"mjpeg": "yuvj420p", "rgb48le": "rgb48be"}.get(
            codec, {"rgb48le": "rgb48be"}.get(pixels, pixels)
        )
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=pixels)))
        container.mux(stream.encode())
    frames = read_all(open_source(str(path)))
    assert [frame.image_rgb.shape for frame in frames] == [(*picture.shape[:2], 3)] * 2
    assert all(frame.image_rgb.dtype == np.uint8 for frame in frames)
    assert all(np.abs(frame.image_rgb[::7, ::7].astype(int) - 90).max() <= 3 for frame in frames)


def test_missing_video(tmp_path: Path) -> None:
    error = failure(tmp_path / "no.mp4")
    assert isinstance(error, StreamError)
    assert "No such file" in str(error)
    assert "edgeseg run --help" in error.hint


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is no video\n" * 500, b"\0" * 5000], ids=["empty", "text", "zeros"]
)
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    error = failure(path)
    assert isinstance(error, StreamError)
    assert str(path) in str(error)


def test_video_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25, (32, 32))
    writer.release()
    assert isinstance(failure(path), StreamError)


def test_cut_off_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", random_images(30), 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cut off" in str(failure(path))


def test_damaged_tail_is_an_error_after_the_good_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", random_images(100), 25)
    boxes_replaced(path, b"mdat", 0.5)
    source, seen = open_source(str(path)), list[Frame]()
    source.open()
    with pytest.raises(StreamError, match=r"damaged after frame \d+; \d+ of 100 frames") as caught:
        read_into(seen, source)
    source.close()
    assert 20 < len(seen) < 80
    assert [frame.index for frame in seen] == list(range(len(seen)))
    assert f"{len(seen)} of 100" in str(caught.value)


def read_into(seen: list[Frame], source: FrameSource) -> None:
    """Keeps the frames also of a source that breaks off."""
    for frame in source.frames():
        seen.append(frame)


def test_reading_goes_on_behind_a_damaged_packet(tmp_path: Path) -> None:
    """OpenCV says "no frame" at a packet that cannot be decoded; a plain loop would end there, and call it
    the end.
    """
    path = write_video(tmp_path / "clip.avi", random_images(60), 25, codec="MJPG")
    data = bytearray(path.read_bytes())
    chunks = [match.start() for match in re.finditer(b"00dc", data) if match.start() > data.index(b"movi")]
    start, end = chunks[30] + 8, chunks[31]
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    source, seen = open_source(str(path)), list[Frame]()
    source.open()
    with pytest.raises(StreamError, match="damaged after frame 30; 59 of 60"):
        read_into(seen, source)
    source.close()
    assert [frame.index for frame in seen] == list(range(59))
    assert seen[30].pts_s == pytest.approx(31 / 25)


# images


def test_folder_in_natural_order_with_every_kind_of_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        "frame1.png": rng.integers(0, 256, (7, 9), np.uint8),
        "frame2.png": rng.integers(0, 65536, (5, 4, 3), np.uint16),
        "frame10.png": rng.integers(0, 256, (6, 6, 4), np.uint8),
        "frame11.JPG": rng.integers(0, 256, (16, 8, 3), np.uint8),
        "frame12.png": np.zeros((1, 1, 3), np.uint8),
    }
    for name, picture in pictures.items():
        assert cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "notes.txt").write_text("no picture")
    frames = read_all(open_source(f"{tmp_path}/"))
    assert [frame.name for frame in frames] == list(pictures)
    assert [frame.image_rgb.shape for frame in frames] == [
        (*picture.shape[:2], 3) for picture in pictures.values()
    ]
    assert all(frame.image_rgb.dtype == np.uint8 and frame.pts_s == 0 for frame in frames)
    assert np.array_equal(frames[0].image_rgb, np.repeat(pictures["frame1.png"][:, :, None], 3, axis=2))
    assert np.array_equal(frames[2].image_rgb, pictures["frame10.png"][:, :, 2::-1])


def test_glob_recursive_glob_and_single_picture(tmp_path: Path) -> None:
    for name in ("a/x1.png", "a/x2.png", "b/y1.png", "b/[z].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))

    def names(uri: str) -> list[str]:
        return [frame.name for frame in read_all(open_source(f"{tmp_path}/{uri}"))]

    assert names("a/x?.png") == ["x1.png", "x2.png"]
    assert names("**/*1.png") == ["x1.png", "y1.png"]
    assert names("b/y1.png") == ["y1.png"]
    assert names("b/[z].png") == ["[z].png"]


@pytest.mark.parametrize(("text", "fps"), [("10", 10.0), ("29.97", 29.97), ("30000/1001", NTSC)])
def test_pictures_with_a_rate(tmp_path: Path, text: str, fps: float) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((4, 4, 3), np.uint8))
    source = ImageFiles(f"{tmp_path}/?fps={text}")
    frames = read_all(source)
    assert source.fps == pytest.approx(fps)
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 1 / fps, 2 / fps])


@pytest.mark.parametrize("rate", ["0", "1/0", "1e9", "9999", "1/2/3", "..."])
def test_impossible_rates(tmp_path: Path, rate: str) -> None:
    with pytest.raises(StreamError):
        read_all(open_source(f"{tmp_path}/?fps={rate}"))


def test_unreadable_picture_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "2.png").write_bytes(b"\x89PNG no picture")
    assert "2.png" in str(failure(f"{tmp_path}/"))


def test_what_file_managers_leave_is_no_picture(tmp_path: Path) -> None:
    """The same files that a data set would take, in a folder and by a pattern; what is named is taken."""
    clutter = ["._1.png", ".hidden.png", ".DS_Store", "Thumbs.db", "desktop.ini"]
    folders = [".thumbs", "@eaDir", "__MACOSX", "@eaDir/1.png"]
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "folder.png").mkdir()
    for name in ("1.png", "2.png", *(f"{folder}/3.png" for folder in folders), *clutter):
        if name.endswith(".png") and not name.startswith("._"):
            cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
        else:
            (tmp_path / name).write_bytes(b"junk")
    wanted = [tmp_path / "1.png", tmp_path / "2.png"]
    for pattern in (f"{tmp_path}/", f"{tmp_path}/*.png", f"{tmp_path}/**/*.png", f"{tmp_path}/**"):
        found = [path for path in find_images(pattern) if path.suffix == ".png"]
        assert found == wanted, pattern
    assert sorted(walk(tmp_path)) == wanted
    assert find_images(f"{tmp_path}/.hidden.png") == [tmp_path / ".hidden.png"]
    assert find_images(f"{tmp_path}/.thumbs/*.png") == [tmp_path / ".thumbs/3.png"]
    assert find_images(f"{tmp_path}/.thumbs/") == [tmp_path / ".thumbs/3.png"]
    assert len(find_images(f"{tmp_path}/@eaDir/**/*.png")) == 2


def test_an_empty_picture_is_told(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    assert "1.png" in str(failure(f"{tmp_path}/"))


def test_folders_without_pictures(tmp_path: Path) -> None:
    assert "no images" in str(failure(tmp_path))
    assert "no images" in str(failure(f"{tmp_path}/*.png"))
    assert "no such folder" in str(failure(f"{tmp_path}/missing.png"))
    assert "no such folder" in str(failure(f"{tmp_path}/missing/"))


# synthetic scenes


def test_synthetic_scene_is_the_generators(tmp_path: Path) -> None:
    source = open_source("synthetic://96x64@29.97?frames=3&seed=5")
    frames = read_all(source)
    assert (source.fps, source.frame_count) == (29.97, 3)
    for frame in frames:
        assert np.array_equal(frame.image_rgb, Scene(5, (64, 96)).frame(frame.index, 29.97)[0])
        assert frame.pts_s == pytest.approx(frame.index / 29.97)


def test_synthetic_defaults() -> None:
    source = open_source("synthetic://64x48")
    assert (source.fps, source.frame_count) == (30.0, 300)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "64",
        "64x48@0",
        "64x48@x",
        "8x8",
        "99999x64",
        "64x48?frames=0",
        "64x48?frames=-1",
        "64x48?colour=red",
        "64x48?seed=",
        "axb",
    ],
)
def test_malformed_synthetic_uris(uri: str) -> None:
    with pytest.raises(StreamError):
        open_source(f"synthetic://{uri}")


# the table


@pytest.mark.parametrize("uri", ["", "ftp://host/clip.mp4", "foo://bar", "s3://bucket/frames/"])
def test_unknown_forms_name_what_is_accepted(uri: str) -> None:
    error = failure(uri)
    assert isinstance(error, StreamError)
    assert "clip.mp4" in error.hint
    assert "frames/" in error.hint
    assert "rtsp://" in error.hint


def test_credentials_never_reach_a_message() -> None:
    for uri in (
        "foo://user:secret@host/x",
        "foo://user:se@cret@host/x",
        "rtsp://user:secret@host/a@b#transport=x",
    ):
        with pytest.raises(StreamError) as caught:
            open_source(uri)
        assert "cret" not in f"{caught.value} {caught.value.hint}"
        assert "user" not in str(caught.value)


@given(st.text(max_size=30))
@example("\0/")
@example("a\0.mp4")
def test_any_text_is_a_source_or_a_clear_error(text: str) -> None:
    try:
        source = open_source(text)
    except EdgesegError as error:
        assert error.hint
    else:
        assert source.source_id
        assert math.isfinite(source.fps)


def test_files_of_a_source(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "clip.mp4").write_bytes(b"x")
    assert files_of(f"{tmp_path}/?fps=3") == [tmp_path / "1.png"]
    assert files_of(f"{tmp_path}/clip.mp4") == [tmp_path / "clip.mp4"]
    assert files_of("synthetic://64x48") == []
