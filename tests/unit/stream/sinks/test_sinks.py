"""Sinks write what they were given, say at once when they cannot, and leave what was written readable."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from edgeseg.errors import EdgesegError, StreamError
from edgeseg.stream.sinks import disk
from edgeseg.stream.sinks.masks import encode_mask_png
from edgeseg.stream.sinks.table import open_sinks, route_sinks
from edgeseg.stream.watch.events import Event
from sinking import frame, mask_of, result, sink, write_all
from streams import LABELS, by_brightness, random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

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
    target.write(result(frame(image_rgb, 3)))
    target.write(result(frame(other, 4, "street 1.jpg")))
    target.close()
    assert sorted(os.listdir(tmp_path / "m")) == ["000003.png", "street 1.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "m/street 1.png")), mask_of(other))


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    target = sink(f"{tmp_path}/m/")
    (image_rgb,) = random_images(1)
    target.open((48, 64), 0.0, LABELS)
    target.write(result(frame(image_rgb, 0, "a.jpg")))
    with pytest.raises(StreamError, match=r"second is a\.png"):
        target.write(result(frame(image_rgb, 1, "a.png")))


# result lines


def test_result_lines_can_be_read_while_they_grow(tmp_path: Path) -> None:
    target, path = sink(tmp_path / "r.ndjson"), tmp_path / "r.ndjson"
    (image_rgb,) = random_images(1)
    target.open((48, 64), 25.0, LABELS)
    for index in range(3):
        target.write(result(frame(image_rgb, index), share={"é": 0.5}))
        assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == list(range(index + 1))
    target.close()
    target.close()


def test_events_stand_between_result_lines_where_that_is_asked_for(tmp_path: Path) -> None:
    event = Event(1.5, "cam", "region", "lane: road blocked 40 %", {"share": 0.4})
    (image_rgb,) = random_images(1)
    for uri, count in ((f"{tmp_path}/plain.ndjson", 1), (f"{tmp_path}/all.ndjson#events=1", 2)):
        target: Any = sink(uri)
        target.event(event)
        target.open((48, 64), 25.0, LABELS)
        target.write(written := result(frame(image_rgb)))
        target.event(event)
        target.close()
        lines = [json.loads(line) for line in Path(target.name).read_text().splitlines()]
        assert len(lines) == count and lines[0] == written.to_json()
    assert lines[1]["event"]["reason"] == "lane: road blocked 40 %" and lines[1]["event"]["details"] == {
        "share": 0.4
    }


def test_result_lines_begin_anew_with_a_run_and_go_on_within_it(tmp_path: Path) -> None:
    for _ in range(2):
        target = sink(tmp_path / "r.ndjson")
        for count in (2, 1):
            write_all(target, random_images(count))
    assert [json.loads(line)["index"] for line in (tmp_path / "r.ndjson").read_text().splitlines()] == [
        0,
        1,
        0,
    ]


def test_result_lines_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write_all(sink("-"), random_images(2))
    assert [json.loads(line)["index"] for line in capsys.readouterr().out.splitlines()] == [0, 1]
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
def test_a_disk_that_is_full_is_refused_when_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(StreamError, match="the disk is full"):
        sink(f"{tmp_path}/{name}").open((48, 64), 25.0, LABELS)


def test_a_disk_that_fills_up_under_masks(small_disk: Path) -> None:
    """No half mask is left; masks go on when there is room worth it."""
    masks, mask = (
        sink(f"{small_disk}/masks/"),
        np.random.default_rng(0).integers(0, 256, (240, 320), np.uint8),
    )
    masks.open((240, 320), 25.0, LABELS)
    ballast = small_disk / "other"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    masks.write(result(frame(mask), mask))
    with pytest.raises(StreamError, match=os.strerror(errno.ENOSPC)):
        masks.write(result(frame(mask, 1), np.tile(mask, (2, 2))))
    assert os.listdir(small_disk / "masks") == ["000000.png"]
    with pytest.raises(StreamError, match="the disk is full"):
        masks.open((240, 320), 25.0, LABELS)
    ballast.unlink()
    masks.open((240, 320), 25.0, LABELS)
    masks.write(result(frame(mask, 1), np.tile(mask, (2, 2))))
    assert sorted(os.listdir(small_disk / "masks")) == ["000000.png", "000001.png"]


def test_a_disk_that_fills_up_under_result_lines(small_disk: Path) -> None:
    """No half line is left; lines go on when there is room worth it, after those that are there."""
    target, path = sink(small_disk / "r.ndjson"), small_disk / "r.ndjson"
    (image_rgb,) = random_images(1)
    target.open((48, 64), 25.0, LABELS)
    ballast = small_disk / "other"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 10_000))
    results = [result(frame(image_rgb, index, "x" * 1000)) for index in range(3)]
    wanted = [one.to_json() for one in results]
    for one in results[:2]:
        target.write(one)
    with pytest.raises(StreamError, match=os.strerror(errno.ENOSPC)):
        target.write(result(frame(image_rgb, 3, "x" * 50_000)))
    before = path.read_text().splitlines()
    assert [json.loads(line) for line in before] == wanted[:2]
    target.close()
    with pytest.raises(StreamError, match="the disk is full"):
        target.open((48, 64), 25.0, LABELS)
    ballast.unlink()
    target.open((48, 64), 25.0, LABELS)
    target.write(results[2])
    target.close()
    assert path.read_text().splitlines()[:-1] == before
    assert json.loads(path.read_text().splitlines()[-1]) == wanted[2]


@pytest.mark.parametrize("uri", ["", "out.avi", "out", "foo://bar.mp4", "result.json"])
def test_unknown_forms_name_what_is_accepted(uri: str) -> None:
    with pytest.raises(StreamError, match="not a sink") as caught:
        open_sinks([uri])
    assert "out.mp4" in caught.value.hint


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
    assert (
        len(
            open_sinks(
                [f"{tmp_path}/o.mp4", f"{tmp_path}/m/", "-", "null:", "null:"], source_uri=f"{pictures}/"
            )
        )
        == 5
    )


@given(st.text(max_size=20))
@example("\0/")
@example("png:\0")
@example("a\0.mp4")
def test_any_text_is_a_sink_or_a_clear_error(text: str) -> None:
    try:
        open_sinks([text])
    except EdgesegError as error:
        assert error.hint


# options and routes


@pytest.mark.parametrize(
    "uri",
    [
        "out.mp4#codec=vp9", "out.mp4#view=both", "out.mp4#segment_s=0", "out.mp4#segment_mb=nan",
        "out.mp4#keep=0",
        "out.mp4#keep=x", "out.mp4#rate=3", "out.mp4#codec=h264&codec=h264",
        "r.ndjson#events=2", "-#view=side",
        "http://127.0.0.1:8090/x#quality=101",
        "http://127.0.0.1/x", "http://:8090/x", "http://127.0.0.1:99999/x", "rtsp://127.0.0.1:8554/", "rtsp://127.0.0.1:x/cam",
        "rtsp://user:secret@0.0.0.0:8554/cam", "mqtt://broker", "mqtt://broker/a/+/b", "mqtt:///topic", "mqtt://broker/t#qos=3",
        "display://#view=x",
    ],
)  # fmt: skip
def test_malformed_uris(uri: str) -> None:
    with pytest.raises(StreamError) as caught:
        open_sinks([uri])
    assert caught.value.hint and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret@127.0.0.1:8090/x",
        "rtsp://user:secret@host:8554/cam",
        "mqtts://user:secret@broker/t",
        "out#1.mp4",
    ],
)
def test_names_hold_no_credentials(uri: str) -> None:
    name = sink(uri).name  # type: ignore[attr-defined]
    assert "secret" not in name and "user" not in name
    assert "1.mp4" in name or "***" in name


def test_file_names_may_hold_any_character(tmp_path: Path) -> None:
    target = sink(tmp_path / "take #1 view=x:1.mp4")
    write_all(target, random_images(1))
    assert os.listdir(tmp_path) == ["take #1 view=x:1.mp4"]


def test_sinks_are_routed_to_their_sources(tmp_path: Path) -> None:
    sources = {"gate": "rtsp://u:p@host/1", "rtsp://***@host/2": "rtsp://u:p@host/2"}
    routed = route_sinks(["null:", f"{tmp_path}/{{source}}.mp4", "-", "mqtt://b/{source}/x"], sources)
    assert {
        source: [sink.name.replace(str(tmp_path), "") for sink in sinks] for source, sinks in routed.items()
    } == {  # type: ignore[attr-defined]
        "": ["null:", "-"],
        "gate": ["/gate.mp4", "mqtt://b/gate/x"],
        "rtsp://***@host/2": ["/rtsp_host_2.mp4", "mqtt://b/rtsp_host_2/x"],
    }


@pytest.mark.parametrize(
    "uri", ["out.mp4", "masks/", "http://127.0.0.1:8090/x", "rtsp://0.0.0.0:8554/x", "display://"]
)
def test_sinks_that_show_one_source_are_refused_for_two(uri: str) -> None:
    with pytest.raises(StreamError, match="shows one source, and there are 2") as caught:
        route_sinks([uri], {"a": "synthetic://64x48", "b": "synthetic://64x48"})
    assert "{source}" in caught.value.hint


def test_names_of_sources_that_files_cannot_tell_apart() -> None:
    with pytest.raises(StreamError, match="another source"):
        route_sinks(["{source}.mp4"], {"a/b": "synthetic://64x48", "a:b": "synthetic://64x48"})
