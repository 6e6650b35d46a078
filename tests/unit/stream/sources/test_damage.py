"""Damaged means damaged: what is missing is told behind all that could be read, and what was left out by
intention is not.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clips import apart, cut, encode, h264, moving_images, packets, scrambled, with_edit_list
from edgeseg.errors import EdgesegError, StreamError
from edgeseg.specs import Frame
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.stream.sources.losses import Losses
from edgeseg.stream.sources.table import files_of, open_source
from edgeseg.stream.watch.status import Monitor
from edgeseg.testing.fakes import FakeSource
from sinking import sink
from streams import random_images, session, time_limit
from web_files import served

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


class Reading:
    """What came of a source: frames, the error behind them, events."""

    def __init__(self, uri: str | Path) -> None:
        self.frames: list[Frame] = []
        self.told: list[str] = []
        self.error: EdgesegError | None = None
        source = open_source(str(uri))
        source.tell = lambda kind, reason, **_: self.told.append(kind)  # type: ignore[attr-defined]
        try:
            source.open()
            for frame in source.frames():
                self.frames.append(frame)
        except EdgesegError as error:
            self.error = error
        finally:
            source.close()
        self.damaged, self.undecodable = source.damaged, source.undecodable  # type: ignore[attr-defined]
        self.is_live = source.is_live

    @property
    def images(self) -> list[np.ndarray]:
        return [frame.image_rgb for frame in self.frames]


# what is whole


@pytest.mark.parametrize(("start", "length"), [(0, 30), (0, 12), (5, 25), (14, 10), (10, 20)])
def test_clips_that_were_trimmed_are_whole(tmp_path: Path, start: int, length: int) -> None:
    path = h264(tmp_path / "clip.mp4")
    whole = Reading(path)
    read = Reading(with_edit_list(path, start, length))
    assert (read.error, read.damaged, read.undecodable, read.told) == (None, 0, 0, [])
    assert apart(read.images, whole.images[start : start + length]) == 0
    assert [frame.pts_s for frame in read.frames] == pytest.approx([i / 10 for i in range(length)], abs=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_stale_durations_and_counts_are_no_damage(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = encode(tmp_path / f"clip{suffix}", moving_images(20), codec)
    data = bytearray(path.read_bytes())
    if suffix == ".mp4":  # track header and edit list say ten times as much
        for box, at in ((b"elst", 8), (b"mdhd", 20), (b"mvhd", 20)):
            place = data.index(box) + 4 + at - (4 if box != b"elst" else 0)
            struct.pack_into(">I", data, place, 10 * struct.unpack_from(">I", data, place)[0])
    elif suffix == ".mkv":
        place = data.index(bytes.fromhex("448988")) + 3
        struct.pack_into(">d", data, place, 10 * struct.unpack_from(">d", data, place)[0])
    else:  # total frames of the file, length of the stream
        for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
            struct.pack_into("<I", data, place, 10 * struct.unpack_from("<I", data, place)[0])
    path.write_bytes(data)
    read = Reading(path)
    assert (len(read.frames), read.error) == (20, None)


def test_a_recording_that_begins_in_the_middle(tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.ts", container="mpegts")
    whole = Reading(path)
    places = packets(path)
    keys = [number for number, (_, _, is_key) in enumerate(places) if is_key]
    start = places[keys[0] + 3][0] // 188 * 188
    path.write_bytes(path.read_bytes()[:564] + path.read_bytes()[start:])
    read = Reading(path)
    assert read.error is None
    assert apart(read.images, whole.images[keys[1] :]) == 0
    assert read.undecodable > 0
    assert read.damaged == 0
    assert read.told == ["undecodable"]
    monitor = Monitor()
    report = run(session(), open_source(str(path)), [], Options(monitor=monitor, on_result=lambda *_: None))
    assert report.sources[0]["dropped"] == {"undecodable": read.undecodable}
    assert not report.failures


def test_recordings_that_were_joined_are_whole(tmp_path: Path) -> None:
    parts = [h264(tmp_path / f"{seed}.ts", container="mpegts").read_bytes() for seed in range(2)]
    (tmp_path / "clip.ts").write_bytes(b"".join(parts))
    read = Reading(tmp_path / "clip.ts")
    assert (len(read.frames), read.error) == (60, None)


# what is not


@pytest.mark.parametrize("kind", ["mp4", "fragments", "mkv", "webm", "flv", "mpegts", "mpeg"])
@pytest.mark.parametrize("share", [0.3, 0.62, 0.9])
def test_cut_clips_are_told_behind_all_that_they_hold(tmp_path: Path, kind: str, share: float) -> None:
    whole, path = tmp_path / "whole.x", tmp_path / "cut.x"
    if kind == "webm":
        encode(
            whole,
            moving_images(30),
            "libvpx-vp9",
            container="webm",
            options={"deadline": "realtime", "g": "3"},
        )
    elif kind == "mpeg":
        encode(whole, moving_images(30), "mpeg2video", fps=25, container="mpeg", options={"b": "2M"})
    else:
        with (
            av.open(
                str(whole),
                "w",
                format={"mkv": "matroska", "fragments": "mp4"}.get(kind, kind),
                options=_MOVFLAGS.get(kind, {}),
            ) as out,
            av.open(str(h264(tmp_path / "clip.mkv"))) as source,
        ):
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    everything = Reading(whole)
    assert (len(everything.frames), everything.error) == (30, None)
    read = Reading(cut(whole, share, path))
    assert read.error is not None
    assert read.error.exit_code == StreamError.exit_code
    assert f"{len(read.frames)}" in str(read.error)
    by_time = {round(frame.pts_s, 2): frame.image_rgb for frame in everything.frames}
    assert apart(read.images, [by_time[round(frame.pts_s, 2)] for frame in read.frames]) < 2
    assert len(read.frames) >= 30 * share - 8


_MOVFLAGS = {"mp4": {"movflags": "faststart"}, "fragments": {"movflags": "frag_keyframe+empty_moov"}}


def test_behind_damage_nothing_is_shown_until_the_next_key_frame(tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.mp4", b_frames=0)
    whole = Reading(path)
    read = Reading(scrambled(path, 13))
    assert "damaged after frame 13" in str(read.error)
    assert [round(10 * frame.pts_s) for frame in read.frames] == [*range(13), *range(20, 30)]
    assert apart(read.images, whole.images[:13] + whole.images[20:]) == 0
    assert read.damaged == 7
    assert read.told == ["damaged"]


def test_damaged_pictures_can_be_had_marked(tmp_path: Path) -> None:
    path = scrambled(h264(tmp_path / "clip.mp4", b_frames=0), 13)
    read = Reading(f"{path}#damaged=show")
    marked = [round(10 * frame.pts_s) for frame in read.frames if frame.damaged]
    assert set(marked) == set(range(13, 20)) & {round(10 * frame.pts_s) for frame in read.frames}
    assert marked
    assert files_of(f"{path}#damaged=show") == [path]
    with pytest.raises(StreamError):
        run(session(), open_source(f"{path}#damaged=show"), [sink(tmp_path / "o.ndjson")])
    records = [json.loads(line) for line in (tmp_path / "o.ndjson").read_text().splitlines()]
    assert [round(10 * record["pts_s"]) for record in records if record.get("damaged")] == marked
    with pytest.raises(StreamError, match="damaged=perhaps"):
        open_source(f"{path}#damaged=perhaps")


def test_a_jpeg_that_ends_early_is_not_shown(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mov", random_images(12), "mjpeg", "yuvj420p")
    position, size, _ = packets(path)[5]
    data = bytearray(path.read_bytes())
    data[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(data)
    read = Reading(path)
    assert (len(read.frames), read.damaged) == (11, 1)
    assert "damaged after frame 5" in str(read.error)


def test_another_source_goes_on(tmp_path: Path) -> None:
    path = scrambled(h264(tmp_path / "clip.mp4", b_frames=0), 3)
    other = FakeSource(random_images(20), name="other")
    report = run(session(), [open_source(str(path), "bad"), other], [], Options(on_result=lambda *_: None))
    assert [failure["what"] for failure in report.failures] == ["bad"]
    by_name = {source["source"]: source for source in report.sources}
    assert by_name["other"]["delivered"] == 20
    assert by_name["bad"]["dropped"]["damaged"] == 7


def test_a_clip_of_nothing_but_damage_names_its_codec(tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.mp4", 10, gop=1, b_frames=0)
    for number in range(10):
        data = bytearray(path.read_bytes())
        position, size, _ = packets(path)[number]
        data[position + 4 : position + size] = b"\xff" * (size - 4)
        path.write_bytes(data)
    read = Reading(path)
    assert not read.frames
    assert "(h264, " in str(read.error)
    assert "cannot be decoded: Invalid data" in str(read.error)


def test_sound_alone_and_cover_art_are_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    assert "only sound" in str(Reading(tmp_path / "a.wav").error)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path, fifo = h264(tmp_path / "clip.mkv"), tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()))
    writer.start()
    read = Reading(fifo)
    writer.join()
    assert (len(read.frames), read.error) == (30, None)


@pytest.mark.parametrize("name", ["-x.mp4", "a:b.mp4", "a b#c.mp4", "caf\udce9.mp4"])
def test_names_of_every_kind(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    h264(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
    assert len(Reading(name).frames) == 5


# over HTTP


@pytest.mark.parametrize("manner", ["range", "plain", "chunked"])
def test_a_clip_over_http_is_read_whole(tmp_path: Path, manner: str) -> None:
    path = h264(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    with served(tmp_path, manner) as url:
        read = Reading(f"{url}/clip.mp4")
        slow = session(lambda number: threading.Event().wait(0.02))
        report = run(slow, open_source(f"{url}/clip.mp4"), [], Options(on_result=lambda *_: None))
    assert (read.error, read.is_live) == (None, False)
    assert apart(read.images, Reading(path).images) == 0
    assert (report.frames, report.frames_dropped, report.sources[0]["state"]) == (30, 0, "ENDED")
    assert report.sources[0]["is_live"] is False


def test_a_clip_over_http_that_breaks_off_is_damaged(tmp_path: Path) -> None:
    h264(tmp_path / "clip.ts", container="mpegts")
    with served(tmp_path, "plain", share=0.6) as url:
        read = Reading(f"{url}/clip.ts")
        with pytest.raises(StreamError, match="damaged after frame"):
            run(session(), open_source(f"{url}/clip.ts"), [], Options(on_result=lambda *_: None))
    assert 10 < len(read.frames) < 20
    assert "damaged after frame" in str(read.error)


def test_a_finished_playlist_is_read_whole_and_a_growing_one_is_live(tmp_path: Path) -> None:
    with (
        av.open(str(h264(tmp_path / "clip.mkv"))) as source,
        av.open(
            str(tmp_path / "list.m3u8"), "w", format="hls", options={"hls_time": "1", "hls_list_size": "0"}
        ) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with served(tmp_path) as url:
        read = Reading(f"{url}/list.m3u8")
        assert (len(read.frames), read.error, read.is_live) == (30, None, False)
        growing = (tmp_path / "list.m3u8").read_text().replace("#EXT-X-ENDLIST", "")
        (tmp_path / "growing.m3u8").write_text(growing)
        source = open_source(f"{url}/growing.m3u8#timeout=2")
        source.open()
        assert source.is_live is True
        assert len([next(source.frames()) for _ in range(1)]) == 1
        source.close()


# the rule of what is behind a loss


@given(st.integers(2, 12), st.sets(st.integers(0, 59), max_size=4), st.integers(0, 3))
def test_a_picture_is_shown_only_where_nothing_before_it_is_missing(
    gop: int, lost: set[int], late: int
) -> None:
    """Pictures come `late` packets after theirs; a loss is told when its packet comes."""
    losses, shown = Losses(), set[int]()
    for number in range(60 + late):
        if number in lost:
            losses.add(number)
        came = number - late
        if came >= 0 and came not in lost and not losses.is_behind(came, came, came % gop == 0, came / 10):
            shown.add(came)
    whole = {n for n in range(60) if not any(n - n % gop <= one <= n for one in lost)}
    assert shown == whole


def test_a_stream_that_refreshes_bit_by_bit_is_whole_behind_a_whole_round() -> None:
    losses, behind = Losses(), list[int]()
    for number in range(100):
        if number % 20 == 0:
            losses.begin_round(number)
        if number == 25:
            losses.add(number)
        elif losses.is_behind(number, number, number == 0, number / 25):
            behind.append(number)
    assert behind == [*range(26, 60)]


def test_marks_on_every_packet_mean_nothing() -> None:
    losses = Losses()
    losses.add(3)
    for number in range(4, 30):
        losses.begin_round(number)
        assert losses.is_behind(number, number, False, number / 25)


def test_waiting_for_a_key_frame_has_an_end() -> None:
    losses = Losses()
    losses.add(0)
    behind = [losses.is_behind(number, number, False, number / 10) for number in range(1, 300)]
    assert behind[0]
    assert not behind[-1]
    assert 9 <= sum(behind) / 10 <= 11
    assert not losses.is_behind(300, 300, False, 30.0)


def test_key_frames_that_are_far_apart_are_waited_for() -> None:
    losses = Losses()
    assert not losses.is_behind(0, 0, True, 0.0)
    assert not losses.is_behind(300, 300, True, 30.0)
    losses.add(301)
    assert all(
        losses.is_behind(300 + number, 300 + number, False, 30 + number / 10) for number in range(2, 300)
    )
    assert not losses.is_behind(600, 600, True, 60.0)
