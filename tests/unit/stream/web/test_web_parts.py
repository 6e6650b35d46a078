"""The parts of the live page that need no server: history, pictures, metrics, health."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.watch.events import Event
from edgeseg.stream.web.history import STEP_S, STEPS, History
from edgeseg.stream.web.metrics import exposition, health
from edgeseg.stream.web.page import LivePage
from edgeseg.stream.web.pictures import WIDTH_PX, encode
from statuses import run_status, sink_status, source_status
from streams import LABELS
from visitors import decode, frame, parse


@pytest.mark.parametrize("size_hw", [(48, 64), (1, 1), (37, 53), (720, 1280), (33, 4001)])
def test_masks_travel_exactly(size_hw: tuple[int, int]) -> None:
    shown = frame(3, size_hw)
    mask = shown.mask
    mask[0, 0] = 255
    header, picture, received = decode(encode(7, shown))
    assert (header["sequence"], header["index"], header["size_hw"]) == (7, 3, list(size_hw))
    assert picture.shape[:2] == received.shape
    assert received.shape[1] == min(size_hw[1], WIDTH_PX)
    if size_hw[1] <= WIDTH_PX:
        assert np.array_equal(received, mask)
        assert np.abs(picture.astype(int) - shown.frame.image_rgb).mean() < 12
    else:
        assert set(np.unique(received)) <= set(np.unique(mask))


def test_the_newest_picture_is_encoded_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        "edgeseg.stream.web.page.encode", lambda *parts: calls.append(parts[0]) or encode(*parts)
    )
    page = LivePage(LABELS)
    assert page.packet("gate") is None and page.sequence("gate") == 0
    for index in range(5):
        page.write(frame(index))
    viewers = [threading.Thread(target=page.packet, args=("gate",)) for _ in range(4)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join()
    assert calls == [5]
    packet = page.packet("gate")
    assert packet is not None and decode(packet)[0]["index"] == 4
    page.write(frame(0, source="yard"))
    assert page.sequence("gate") == 5 and page.sequence("yard") == 6
    assert page.packet("gate") is packet


def test_events_are_told_once_and_kept_for_those_who_come_late() -> None:
    page = LivePage(LABELS)
    for index in range(250):
        page.note(Event(float(index), "gate", "state", f"number {index}"))
    kept = page.events_after(0)
    assert [number for number, _ in kept] == list(range(51, 251))
    assert kept[-1][1]["reason"] == "number 249"
    assert [number for number, _ in page.events_after(248)] == [249, 250]


@given(st.lists(st.floats(0.001, 3.0), max_size=60), st.floats(0, 200))
def test_history_loses_no_frame_and_has_no_gaps(gaps_s: list[float], rest_s: float) -> None:
    history, now_s = History(100.0), 100.0
    for gap_s in gaps_s:
        now_s += gap_s
        history.add(now_s, age_ms=20.0, latency_ms=10.0)
    now_s += rest_s
    points = history.points(now_s)
    assert len(points) <= STEPS
    ends = np.array([point.at_s for point in points])
    assert np.allclose(np.diff(ends), STEP_S)
    if points:
        assert now_s - STEP_S - 1e-6 <= ends[-1] <= now_s
    counted = sum(point.fps * STEP_S for point in points)
    inside = [
        stamp
        for stamp in 100.0 + np.cumsum(gaps_s)
        if points and ends[0] - STEP_S + 1e-6 < stamp < ends[-1] - 1e-6
    ]
    assert counted >= len(inside) - 1  # a stamp may fall on an edge
    assert all(point.age_ms == pytest.approx(20.0) for point in points if point.fps)
    assert all(point.age_ms is None for point in points if not point.fps)


def test_history_after_a_week_of_silence_is_one_minute() -> None:
    history = History(0.0)
    history.add(0.1, 20.0, 10.0)
    begun_s = time.monotonic()
    points = history.points(7 * 86400.0)
    assert time.monotonic() - begun_s < 0.5
    assert len(points) == STEPS and points[-1].at_s == 7 * 86400.0
    assert all(point.fps == 0 for point in points)


@pytest.mark.parametrize(
    ("states", "sinks", "word"),
    [
        ([], [], "starting"),
        (["CONNECTING", "CONNECTING"], [], "starting"),
        (["RUNNING", "RUNNING"], ["OPEN"], "ok"),
        (["RUNNING", "ENDED"], ["OPEN", "WAITING"], "ok"),
        (["RUNNING", "RECONNECTING"], [], "degraded"),
        (["RUNNING", "CONNECTING"], [], "degraded"),
        (["RUNNING"], ["FAILED"], "degraded"),
        (["STALLED"], [], "failing"),
        (["RECONNECTING", "FAILED"], [], "failing"),
    ],
)
def test_health(states: list[Any], sinks: list[Any], word: str) -> None:
    assert health(None) == "starting"
    status = run_status(
        *(source_status(state=state) for state in states),
        sinks=tuple(sink_status(state=one) for one in sinks),
    )
    assert health(status) == word


def test_metrics() -> None:
    gate = source_status("gate", frames=100, delivered=90, dropped={"oldest": 8, "stale": 2}, reconnects=3)
    yard = source_status("yard", "RECONNECTING", last_error="refused")
    status = run_status(
        gate, yard, frames=90, sinks=(sink_status(), sink_status("mqtt://broker", "FAILED", 4, 7))
    )
    samples = parse(
        exposition(status, power_w={"VDD_IN": 7.5}, viewers=2, about={"model": "tiny", "regions": {}})
    )
    assert samples["edgeseg_frames_total", ()] == 90
    assert samples["edgeseg_power_watts", (("rail", "VDD_IN"),)] == 7.5
    assert samples["edgeseg_web_viewers", ()] == 2
    assert samples["edgeseg_source_dropped_total", (("source", "gate"), ("reason", "stale"))] == 2
    assert samples["edgeseg_source_reconnects_total", (("source", "gate"),)] == 3
    assert samples["edgeseg_source_state", (("source", "yard"), ("state", "RECONNECTING"))] == 1
    assert samples["edgeseg_source_state", (("source", "yard"), ("state", "RUNNING"))] == 0
    assert (
        samples["edgeseg_sink_state", (("sink", "mqtt://broker"), ("source", ""), ("state", "FAILED"))] == 1
    )
    assert samples["edgeseg_stage_seconds_sum", (("stage", "infer"),)] == pytest.approx(0.04)
    assert samples["edgeseg_stage_seconds_count", (("stage", "infer"),)] == 2
    assert ("edgeseg_stage_seconds_count", (("stage", "write"),)) not in samples
    assert samples["edgeseg_frame_age_seconds", (("source", "gate"), ("quantile", "0.99"))] == pytest.approx(
        0.03, rel=0.02
    )
    assert samples["process_resident_memory_bytes", ()] > 1e6


def test_metrics_before_the_run() -> None:
    samples = parse(exposition(None, power_w={}, viewers=0, about={}))
    assert ("edgeseg_web_viewers", ()) in samples and not any("source" in name for name, _ in samples)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_source_name_survives_as_a_label(name: str) -> None:
    samples = parse(exposition(run_status(source_status(name, frames=4)), power_w={}, viewers=0, about={}))
    assert samples["edgeseg_source_frames_total", (("source", name),)] == 4
