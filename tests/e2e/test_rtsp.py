"""Against a real RTSP server on loopback: killed, frozen, restarted otherwise, with a wrong password, slow,
one of four dead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import pytest

from cameras import RtspServer, needs_server, rtsp_possible, rtsp_server, wait_for
from edgeseg.contracts import FrameSource
from edgeseg.errors import AccessDenied
from edgeseg.stream.run.mailbox import Policy
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.report import RunReport
from edgeseg.stream.run.runner import run
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.sources.table import open_source
from edgeseg.stream.uris import Connection
from edgeseg.stream.watch.status import Monitor, SourceStatus
from edgeseg.testing.fakes import FakeSink
from streams import session, time_limit

__all__ = ["rtsp_possible"]

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

QUICK = Patience(connect_s=4, stall_s=0.4, watchdog_s=1.5, retry_s=0.1, retry_cap_s=0.5)


class Run:
    """A run on a thread of its own, looked at through its monitor."""

    def __init__(self, sources: list[FrameSource], sinks: Any, **options: Any) -> None:
        self.monitor, self._stop = Monitor(), threading.Event()
        self.report: RunReport | None = None
        self._options = {"patience": QUICK, **options}
        self._thread = threading.Thread(target=self._run, args=(sources, sinks))
        self._thread.start()

    def _run(self, sources: list[FrameSource], sinks: Any) -> None:
        self.report = run(
            session(), sources, sinks, Options(monitor=self.monitor, stop=self._stop, **self._options)
        )

    def source(self, number: int = 0) -> SourceStatus:
        snapshot = self.monitor.snapshot()
        assert snapshot is not None
        return snapshot.sources[number]

    def wait_for_frames(self, count: int, number: int = 0) -> None:
        """Until that many more were delivered."""
        before = self.source(number).delivered if self.monitor.snapshot() else 0
        wait_for(lambda: self.monitor.snapshot() and self.source(number).delivered >= before + count)

    def finish(self) -> RunReport:
        self._stop.set()
        self._thread.join(10)
        assert self.report is not None
        return self.report


@contextmanager
def running(sources: list[FrameSource], sinks: Any, **options: Any) -> Iterator[Run]:
    going = Run(sources, sinks, **options)
    try:
        yield going
    finally:
        going.finish()


def states(report: RunReport, source: str) -> list[str]:
    """States that a source went through, without repeats."""
    told = [
        event for event in report.events["recent"] if (event["kind"], event["source"]) == ("state", source)
    ]
    found = [event["details"]["state"] for event in told]
    return [state for before, state in pairwise(["", *found]) if state != before]


@needs_server
def test_a_server_that_is_killed_and_comes_back_with_another_picture() -> None:
    sink = FakeSink()
    with rtsp_server(fps=20) as server:
        with running([open_source(f"{server.uri()}#timeout=2", "cam")], [sink]) as going:
            going.wait_for_frames(5)
            server.kill()
            wait_for(lambda: going.source().state == "RECONNECTING")
            server.start(size="160x120", fps=25)
            going.wait_for_frames(5)
        report = going.finish()
    (source,) = report.sources
    assert states(report, "cam") == ["CONNECTING", "RUNNING", "RECONNECTING", "RUNNING", "ENDED"]
    assert (source["reconnects"], source["size_hw"], source["fps"]) == (1, (120, 160), 25.0)
    assert [event["reason"] for event in report.events["recent"] if event["kind"] == "resized"] == [
        "320x240 -> 160x120"
    ]
    # One line of indices and times over both connections; the sink was closed and opened again for the new
    # size.
    assert (sink.size_hw, sink.closed) == ((120, 160), 2)
    assert all(
        second.index > first.index and second.pts_s > first.pts_s for first, second in pairwise(sink.frames)
    )
    assert source["delivered"] == len(sink.frames) == report.frames


@needs_server
def test_a_wrong_password_is_told_once_and_without_it() -> None:
    with rtsp_server(user="viewer", password="right") as server:
        monitor = Monitor()
        with pytest.raises(AccessDenied) as caught:
            run(
                session(),
                open_source(server.uri(login="viewer:wr0ng@")),
                [],
                Options(monitor=monitor, patience=QUICK),
            )
        assert (
            "wr0ng"
            not in f"{caught.value} {caught.value.hint} {monitor.events.recent()} {monitor.snapshot()}"
        )
        assert [event.details["state"] for event in monitor.events.recent()] == ["CONNECTING", "FAILED"]
        report = run(session(), open_source(server.uri(login="viewer:right@")), [], Options(limit=3))
    assert (report.frames, report.source) == (3, f"rtsp://***@127.0.0.1:{server.port}/cam0")
    assert "right" not in str(report.to_json())


@needs_server
@pytest.mark.slow
def test_a_frozen_server_stalls_is_left_and_comes_back() -> None:
    with rtsp_server(fps=20) as server:
        sink = FakeSink()
        with running(
            [open_source(f"{server.uri()}#timeout=1.5", "cam")], [sink], policy=Policy("oldest", 1, 700)
        ) as going:
            going.wait_for_frames(10)
            server.freeze()
            wait_for(lambda: going.source().state == "STALLED")
            server.thaw()
            wait_for(lambda: going.source().state == "RUNNING")
            going.wait_for_frames(10)
            server.freeze()
            wait_for(lambda: going.source().state == "RECONNECTING")
            server.thaw()
            going.wait_for_frames(10)
        report = going.finish()
    assert report.sources[0]["reconnects"] == 1
    # What was held up was not shown as if it were new.
    assert max(record["age_ms"] for record in sink.records) < 1000


@needs_server
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_slow_source_is_no_dead_one(transport: Literal["tcp", "udp"]) -> None:
    with rtsp_server(fps=2) as server:
        with running([open_source(server.uri(), "cam", Connection(transport))], []) as going:
            going.wait_for_frames(6)
        report = going.finish()
    assert states(report, "cam")[:2] == ["CONNECTING", "RUNNING"]
    assert report.sources[0]["reconnects"] == 0


@needs_server
@pytest.mark.slow
def test_one_of_four_dies_and_the_rest_does_not_notice() -> None:
    with rtsp_server(fps=15, cameras=3) as good, rtsp_server(fps=15) as bad:
        names = ["a", "b", "c", "dead"]
        uris = [*(good.uri(camera) for camera in range(3)), bad.uri()]
        sinks = {name: [FakeSink()] for name in names} | {"": [FakeSink()]}
        sources = [open_source(uri, name) for name, uri in zip(names, uris, strict=True)]
        with running(sources, sinks) as going:
            for number in range(4):
                going.wait_for_frames(3, number)
            bad.kill()
            before = [going.source(number).delivered for number in range(4)]
            going.wait_for_frames(45)
            after = [going.source(number).delivered for number in range(4)]
        report = going.finish()
    assert [later - earlier >= 40 for earlier, later in zip(before, after, strict=True)] == [
        True,
        True,
        True,
        False,
    ]
    assert [source["reconnects"] for source in report.sources] == [0, 0, 0, 0]
    assert states(report, "dead") == ["CONNECTING", "RUNNING", "RECONNECTING", "ENDED"]
    for name in names:
        assert {record["source"] for record in sinks[name][0].records} == {name}
    assert len(sinks[""][0].records) == report.frames == sum(len(sinks[name][0].records) for name in names)


@needs_server
@pytest.mark.slow
def test_a_run_starts_with_the_cameras_that_are_there() -> None:
    late = RtspServer(fps=15)
    try:
        with rtsp_server(fps=15) as server:
            with running([open_source(server.uri(), "on"), open_source(late.uri(), "late")], []) as going:
                going.wait_for_frames(5)
                assert going.source(1).state == "CONNECTING"
                assert "refused" in str(going.source(1).last_error)
                late.start()
                going.wait_for_frames(5, 1)
            assert going.finish().sources[1]["connects"] == 1
    finally:
        late.kill()
