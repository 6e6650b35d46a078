"""Pictures are FFmpeg's own, upright, in their own colours, with the shape of their pixels; from files and
over HTTP alike.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from clips import ROTATED, apart, by_ffmpeg, encode, moving_images, with_matrix
from edgeseg.images import squared_hw
from edgeseg.specs import Frame
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.stream.sinks.contact_sheet import FrameSampler
from edgeseg.stream.sinks.masks import encode_mask_png
from edgeseg.stream.sinks.views import View
from edgeseg.stream.sources.convert import Converter, Refused
from edgeseg.stream.sources.table import open_source
from edgeseg.stream.watch.status import Monitor
from sinking import result, sink
from streams import LABELS, session, time_limit
from web_files import served

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


def read(uri: str | Path) -> list[Frame]:
    source = open_source(str(uri))
    source.open()
    try:
        return list(source.frames())
    finally:
        source.close()


def events_of(path: Path) -> list[str]:
    source, told = open_source(str(path)), list[str]()
    source.tell = lambda kind, reason, **_: told.append(f"{kind}: {reason}")  # type: ignore[attr-defined]
    source.open()
    list(source.frames())
    source.close()
    return told


# Name: codec, pixel format, suffix, attributes of the context.
KINDS = {
    "untagged": ("libx264", "yuv420p", ".mp4", {}),
    "bt709": (
        "libx264",
        "yuv420p",
        ".mp4",
        {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
    ),
    "full range": ("libx264", "yuv420p", ".mp4", {"colorspace": 1, "color_range": 2}),
    "bt2020 10 bit PQ": (
        "libx265",
        "yuv420p10le",
        ".mp4",
        {"colorspace": 9, "color_primaries": 9, "color_trc": 16},
    ),
    "HLG 4:2:2": ("libx265", "yuv422p10le", ".mkv", {"colorspace": 9, "color_primaries": 9, "color_trc": 18}),
    "mjpeg": ("mjpeg", "yuvj420p", ".avi", {}),
    "4:4:4": ("libx264", "yuv444p", ".mkv", {}),
    "gray": ("ffv1", "gray", ".mkv", {}),
    "gray 16 bit": ("ffv1", "gray16le", ".mkv", {}),
    "12 bit": ("ffv1", "yuv444p12le", ".mkv", {}),
    "alpha": ("ffv1", "bgra", ".mkv", {}),
    "palette": ("gif", "rgb8", ".gif", {}),
    "rgb": ("png", "rgb24", ".mov", {}),
    "ProRes": ("prores_ks", "yuv422p10le", ".mov", {}),
    "AV1": ("libsvtav1", "yuv420p", ".mp4", {}),
    "VP9": ("libvpx-vp9", "yuv420p", ".webm", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_ffmpeg(tmp_path: Path, kind: str) -> None:
    codec, pixels, suffix, tags = KINDS[kind]
    try:
        path = encode(tmp_path / f"clip{suffix}", moving_images(4, (98, 130)), codec, pixels, tags=tags)
    except (ValueError, av.FFmpegError) as error:
        pytest.skip(f"this PyAV cannot make it: {error}")
    frames = read(path)
    assert apart([frame.image_rgb for frame in frames], by_ffmpeg(path)) < 2
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3], abs=2e-3)


def test_odd_sides(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mkv", moving_images(3, (33, 17)), "ffv1", "yuv420p")
    assert apart([frame.image_rgb for frame in read(path)], by_ffmpeg(path)) < 2


def test_interlaced_coding_gives_whole_pictures(tmp_path: Path) -> None:
    """FFmpeg refuses to convert interlaced frames to progressive ones since 7.1; what was shown then was
    black, or the last.
    """
    images = moving_images(6, (96, 128))
    twin = read(encode(tmp_path / "twin.mp4", images, options={"crf": "1"}))
    path = encode(tmp_path / "clip.mp4", images, options={"crf": "1", "x264-params": "interlaced=1"})
    with av.open(str(path)) as container:
        assert all(frame.interlaced_frame for frame in container.decode(video=0))
    frames = read(path)
    assert apart([frame.image_rgb for frame in frames], [frame.image_rgb for frame in twin]) < 3
    assert any("interlaced" in told for told in events_of(path))


@pytest.mark.parametrize("turn", ROTATED)
def test_upright_by_the_display_matrix_from_a_file_and_over_http(tmp_path: Path, turn: str) -> None:
    path = encode(tmp_path / "clip.mp4", moving_images(3))
    stored = read(path)[0].image_rgb
    with_matrix(path, *ROTATED[turn])
    seen = {
        "90": lambda x: np.rot90(x, -1),
        "180": lambda x: x[::-1, ::-1],
        "270": np.rot90,
        "mirrored": lambda x: x[:, ::-1],
        "upside down": lambda x: x[::-1],
        "transposed": lambda x: x.transpose(1, 0, 2),
        "transversed": lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    }[turn](stored)
    frames = read(path)
    assert np.array_equal(frames[0].image_rgb, seen)
    with served(tmp_path) as url:
        behind = read(f"{url}/clip.mp4")
    assert all(np.array_equal(a.image_rgb, b.image_rgb) for a, b in zip(frames, behind, strict=True))


def test_a_size_that_changes_on_the_way(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{number}.ts", moving_images(5, size_hw), container="mpegts").read_bytes()
        for number, size_hw in enumerate(((96, 128), (48, 64)))
    ]
    (tmp_path / "clip.ts").write_bytes(b"".join(parts))
    assert [frame.image_rgb.shape[:2] for frame in read(tmp_path / "clip.ts")] == [(96, 128)] * 5 + [
        (48, 64)
    ] * 5


def test_hdr_and_unknown_tags_are_told(tmp_path: Path) -> None:
    path = encode(tmp_path / "pq.mp4", moving_images(2), tags={"color_trc": 16, "colorspace": 9})
    assert any("HDR (PQ)" in told for told in events_of(path))
    path = encode(tmp_path / "odd.mkv", moving_images(2), tags={"colorspace": 15})
    plain = read(encode(tmp_path / "plain.mp4", moving_images(2)))
    assert apart([frame.image_rgb for frame in read(path)], [frame.image_rgb for frame in plain]) < 2
    assert any("colour matrix 15 is not known" in told for told in events_of(path))


class _Unconvertible:
    """A frame as FFmpeg's filters refuse it."""

    width, height, colorspace, color_range, interlaced_frame = 0, 0, 2, 0, False
    format = type("Format", (), {"name": "yuv420p"})


def test_a_refused_conversion_is_an_error_of_its_own() -> None:
    with pytest.raises(Refused, match="yuv420p with colour matrix 2 cannot be converted"):
        Converter().convert(_Unconvertible(), None)


def test_an_animation_that_is_read_as_a_picture_is_told(tmp_path: Path) -> None:
    pages = [image_rgb[:, :, ::-1] for image_rgb in moving_images(3)]
    assert cv2.imwritemulti(str(tmp_path / "pages.tiff"), pages)
    cv2.imwrite(str(tmp_path / "one.png"), pages[0])
    assert events_of(tmp_path / "pages.tiff") == [
        "picture: pages.tiff holds 3 pictures, and only the first is read; make a video of it for all"
    ]
    assert events_of(tmp_path / "one.png") == []


# the shape of pixels


@pytest.fixture
def anamorphic(tmp_path: Path) -> Path:
    return encode(tmp_path / "sar.mp4", moving_images(4), tags={"sample_aspect_ratio": Fraction(4, 3)})


def test_the_shape_of_pixels_reaches_recording_and_record(anamorphic: Path, tmp_path: Path) -> None:
    assert [frame.pixel_aspect for frame in read(anamorphic)] == pytest.approx([4 / 3] * 4)
    outputs = [sink(tmp_path / "o.mp4"), sink(tmp_path / "o.ndjson"), sink(f"{tmp_path}/masks/")]
    sampler = FrameSampler()
    run(session(), open_source(str(anamorphic)), outputs, Options(on_result=sampler))
    with av.open(str(tmp_path / "o.mp4")) as container:
        ratio = container.streams.video[0].sample_aspect_ratio
        assert ratio.numerator * 3 == ratio.denominator * 4
    records = [json.loads(line) for line in (tmp_path / "o.ndjson").read_text().splitlines()]
    assert [record["pixel_aspect"] for record in records] == pytest.approx([4 / 3] * 4, abs=1e-5)
    mask = next((tmp_path / "masks").iterdir())
    assert b"pHYs" in mask.read_bytes()
    assert cv2.imread(str(mask)).shape[:2] == (96, 128)
    assert sampler._kept[0][0].shape[:2] == (96, 171)


def test_turned_pixels_are_turned_too(anamorphic: Path) -> None:
    with_matrix(anamorphic, *ROTATED["90"])
    assert read(anamorphic)[0].pixel_aspect == pytest.approx(3 / 4)


def test_what_is_shown_has_square_pixels() -> None:
    frame = Frame(np.zeros((96, 128, 3), np.uint8), 0, 0.0, 0.0, "x", pixel_aspect=4 / 3)
    assert View("frame").show(result(frame, np.zeros((96, 128), np.uint8))).shape == (96, 171, 3)
    assert squared_hw((96, 128), 0.5) == (192, 128)
    assert squared_hw((96, 128), 1.0) == (96, 128)
    assert b"pHYs" not in encode_mask_png(np.zeros((2, 2), np.uint8), LABELS.palette())


def test_events_of_pictures_reach_the_run(tmp_path: Path) -> None:
    path = encode(tmp_path / "pq.mp4", moving_images(2), tags={"color_trc": 16, "colorspace": 9})
    monitor = Monitor()
    run(session(), open_source(str(path)), [], Options(monitor=monitor, on_result=lambda *_: None))
    assert monitor.events.counts["picture"] == 1
