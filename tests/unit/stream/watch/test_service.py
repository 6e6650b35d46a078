"""A run as a service: systemd's messages over a real socket, SIGTERM, logs that machines read."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.watch.events import Event
from edgeseg.stream.watch.service import Heartbeat, JsonLog, is_progressing, notify, watchdog_limit_s
from statuses import run_status, source_status


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """The socket that systemd would read, and the environment that it would give."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edgeseg-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(5)
        yield receiver, {"NOTIFY_SOCKET": name}


def test_messages_arrive(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    receiver, environment = systemd
    assert notify("READY=1", environment)
    assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "/nowhere/notify", "@nobody-listens-here", "vsock:2:1234"]
)
def test_nobody_listens(address: str | None) -> None:
    assert notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address}) is False


def test_a_full_socket_does_not_hold_up_the_run(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        begun_s = time.monotonic()
        said = [notify("WATCHDOG=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")}) for _ in range(2000)]
        assert time.monotonic() - begun_s < 5
        assert said[0] and not said[-1]


@pytest.mark.parametrize(
    ("environment", "limit_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_watchdog_limit(environment: dict[str, str], limit_s: float | None) -> None:
    assert watchdog_limit_s(environment) == limit_s


def test_the_heart_beats_while_the_run_is_alive(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    receiver, environment = systemd
    alive = [True]
    with Heartbeat(
        lambda: alive[0], lambda: "25 frames/s\nREADY=0", environment | {"WATCHDOG_USEC": "150000"}
    ):
        assert receiver.recv(100) == b"READY=1"
        for _ in range(3):
            assert receiver.recv(100) == b"STATUS=25 frames/s READY=0\nWATCHDOG=1"
        alive[0] = False
        told = [receiver.recv(100) for _ in range(4)]
        assert told[-1] == b"STATUS=25 frames/s READY=0"
        alive.clear()  # now asking fails
        told = [receiver.recv(100) for _ in range(2)]
        assert told[-1] == b"STATUS="
    last = b""
    while last != b"STOPPING=1":
        last = receiver.recv(100)
    assert "edgeseg-heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_without_systemd_there_is_no_thread() -> None:
    with Heartbeat(lambda: True, environment={}):
        assert "edgeseg-heartbeat" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("before", "now", "well"),
    [
        (None, run_status(), True),
        (run_status(frames=5), run_status(frames=6), True),
        # Nothing came, or all of it was dealt with.
        (run_status(frames=5), run_status(frames=5), True),
        (
            run_status(
                source_status(state="RECONNECTING", frames=9, delivered=6, dropped={"oldest": 3}), frames=6
            ),
            run_status(
                source_status(state="RECONNECTING", frames=9, delivered=6, dropped={"oldest": 3}), frames=6
            ),
            True,
        ),
        # A frame has just come in: not yet late.
        (
            run_status(source_status(frames=5, delivered=5), frames=5),
            run_status(source_status(frames=6, delivered=5), frames=5),
            True,
        ),
        # Frames waited both times, and none was finished.
        (
            run_status(source_status(frames=6, delivered=5), frames=5),
            run_status(source_status(frames=7, delivered=5, dropped={"oldest": 1}), frames=5),
            False,
        ),
    ],
)
def test_what_counts_as_alive(before: object, now: object, well: bool) -> None:
    assert is_progressing(before, now) is well  # type: ignore[arg-type]


def test_progress_as_lines() -> None:
    out, clock = io.StringIO(), [0.0]
    log = JsonLog(out, interval_s=10, clock=lambda: clock[0])
    log.start("segment", None)
    for _ in range(25):
        clock[0] += 1
        log.advance("segment", level="1")
    log.finish("segment")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["started", "progress", "progress", "finished"]
    assert [line.get("done") for line in lines] == [None, 10, 20, 25]
    assert lines[1]["per_s"] == 1.0 and lines[1]["figures"] == {"level": "1"}
    assert lines[3]["wall_s"] == 25.0
    told = datetime.fromisoformat(lines[0]["time"].replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - told).total_seconds()) < 60


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (Event(1.5, "gate", "state", "first frame", {"state": "RUNNING"}), "info"),
        (Event(1.5, "gate", "state", "silence", {"state": "STALLED"}), "warning"),
        (Event(1.5, "gate", "state", "password refused", {"state": "FAILED"}), "error"),
        (Event(1.5, "out.mp4", "sink_failed", "no space left"), "error"),
        (Event(1.5, "gate", "region", "lane: road blocked 40 %", {"raised": True}), "info"),
    ],
)
def test_events_as_lines(event: Event, level: str) -> None:
    out = io.StringIO()
    JsonLog(out).event(event)
    line = json.loads(out.getvalue())
    assert (line["level"], line["event"], line["source"], line["reason"]) == (
        level,
        event.kind,
        event.source,
        event.reason,
    )
    assert line["at_s"] == 1.5 and line["details"] == event.details


@given(
    st.text(),
    st.dictionaries(st.text(min_size=1).map(lambda key: f"x{key}"), st.floats() | st.text() | st.binary()),
)
def test_whatever_is_said_stays_one_line(message: str, details: dict[str, object]) -> None:
    out = io.StringIO()
    JsonLog(out).line("message", message=message, **details)
    assert len(out.getvalue().splitlines()) == out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue(), parse_constant=pytest.fail)["message"] == message


def test_a_log_that_nobody_reads_any_more_is_no_error() -> None:
    out = io.StringIO()
    out.close()
    JsonLog(out).message("into the void")


def test_no_beat_comes_after_the_end_however_long_one_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("edgeseg.stream.watch.service.notify", lambda state, *_: told.append(state) or True)
    asked, answer = threading.Event(), threading.Event()

    def alive() -> bool:
        asked.set()
        return answer.wait(20)

    with Heartbeat(alive) as heartbeat:
        asked.wait(20)
        threading.Timer(0.2, answer.set).start()
    if heartbeat._thread is not None:
        heartbeat._thread.join(20)
    assert told == ["READY=1", "STOPPING=1"]
