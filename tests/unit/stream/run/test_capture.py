"""One source at work, and several in one run, with cameras that fail by script: nothing leaks, nothing stops
the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cameras import wait_for
from edgeseg.errors import AccessDenied, StreamError
from edgeseg.specs import Frame
from edgeseg.stream.run.capture import Capture
from edgeseg.stream.run.channel import FirstError
from edgeseg.stream.run.mailbox import LIVE, RECORDED, Mailroom, Policy
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.report import RunReport
from edgeseg.stream.run.runner import run
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.watch.events import EventBus
from edgeseg.stream.watch.status import Monitor
from edgeseg.testing.fakes import FakeLiveSource, FakeSink, FakeSource
from streams import random_images, session, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

QUICK = Patience(
    connect_s=0.3, stall_s=0.05, watchdog_s=0.15, retry_s=0.01, retry_cap_s=0.02, stable_s=0.2, start_s=0.5
)
BROKEN = StreamError("cable pulled", hint="put it back")


def camera(name: str, *connections: Any, size_hw: tuple[int, int] = (12, 16)) -> FakeLiveSource:
    return FakeLiveSource(name, connections, size_hw)


def run_until(
    condition: Callable[[Monitor], object], sources: Sequence[Any], sinks: Any, **options: Any
) -> RunReport:
    """Run until something is true, then stop."""
    monitor, stop = Monitor(), threading.Event()

    def wait() -> None:
        try:
            wait_for(lambda: monitor.snapshot() and condition(monitor), 20)
        finally:
            stop.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    try:
        engine = options.pop("session", None) or session()
        return run(
            engine, sources, sinks, Options(monitor=monitor, stop=stop, **{"patience": QUICK, **options})
        )
    finally:
        stop.set()
        waiter.join()


def states(report: RunReport, source: str) -> list[str]:
    events = [
        event for event in report.events["recent"] if (event["kind"], event["source"]) == ("state", source)
    ]
    told = [event["details"]["state"] for event in events]
    return [state for before, state in pairwise(["", *told]) if state != before]


def test_a_camera_that_breaks_off_again_and_again() -> None:
    """Twenty connections, each of three frames; one line of indices, and no thread or connection is left."""
    before = threading.active_count()
    live, sink = camera("cam", *[[0, 1, 2, BROKEN]] * 20, [0] * 1000), FakeSink()
    report = run_until(
        lambda monitor: monitor.snapshot().sources[0].connects > 20,
        [live],
        [sink],
        policy=Policy("oldest", 100),
    )
    (source,) = report.sources
    assert source["reconnects"] >= 20
    assert source["last_error"] == "cable pulled"
    assert [frame.index for frame in sink.frames][:60] == list(range(60))
    assert all(second.pts_s >= first.pts_s for first, second in pairwise(sink.frames))
    assert live.open_now() == 0
    wait_for(lambda: threading.active_count() == before, 5)


def test_a_camera_that_hangs_is_left_behind_and_ends_when_it_can() -> None:
    release = threading.Event()
    live = camera("cam", [0, release.wait], [0, 1, 2, 3] * 100)
    report = run_until(lambda monitor: monitor.snapshot().sources[0].delivered > 3, [live], [FakeSink()])
    assert states(report, "cam") == ["CONNECTING", "RUNNING", "STALLED", "RECONNECTING", "RUNNING", "ENDED"]
    assert live.open_now() == 1  # it still hangs
    release.set()
    wait_for(lambda: live.open_now() == 0, 5)


def test_no_more_than_three_captures_hang_at_once() -> None:
    release = threading.Event()
    live = camera("cam", *[[0, release.wait]] * 50)
    monitor = Monitor()
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    run(session(), [live], [], Options(patience=QUICK, monitor=monitor, stop=stop))
    assert live.opened == 3
    assert any("captures hang" in event.reason for event in monitor.events.recent())
    release.set()
    wait_for(lambda: live.open_now() == 0, 5)


def test_captures_that_hang_do_not_keep_the_watchdog_from_the_one_that_runs() -> None:
    release = threading.Event()
    live = camera("cam", [release.wait], [release.wait], [0, 1, release.wait], [0] * 1000)
    monitor, stop = Monitor(), threading.Event()
    threading.Timer(2.0, release.set).start()
    waiter = threading.Thread(
        target=lambda: (
            wait_for(lambda: monitor.snapshot() and monitor.snapshot().sources[0].connects == 2),
            stop.set(),
        )
    )
    waiter.start()
    report = run(
        session(), [live], [], Options(patience=replace(QUICK, start_s=None), monitor=monitor, stop=stop)
    )
    waiter.join()
    assert states(report, "cam") == ["CONNECTING", "RUNNING", "STALLED", "RECONNECTING", "RUNNING", "ENDED"]


def test_a_dead_and_a_hanging_source_stop_no_other() -> None:
    release = threading.Event()
    sources = [
        FakeSource(random_images(40), name="clip"),
        camera("dead", *[[BROKEN]] * 1000),
        camera("hangs", [release.wait], [release.wait], [release.wait]),
        camera("locked", [AccessDenied("no", hint="-")]),
    ]
    sinks = {source.source_id: [FakeSink()] for source in sources} | {"": [FakeSink()]}
    report = run_until(
        lambda monitor: monitor.snapshot().sources[0].state == "ENDED" and monitor.snapshot().frames == 40,
        sources,
        sinks,
    )
    assert [frame.index for frame in sinks["clip"][0].frames] == list(range(40))
    assert [source["state"] for source in report.sources] == ["ENDED", "ENDED", "ENDED", "FAILED"]
    assert [source["delivered"] for source in report.sources] == [40, 0, 0, 0]
    assert [failure["what"] for failure in report.failures] == ["locked"]
    assert len(sinks[""][0].frames) == 40
    assert sinks["dead"][0].size_hw is None
    release.set()


def test_a_file_that_breaks_off_stops_no_other_and_is_told() -> None:
    sources = [
        FakeSource(random_images(3), error=BROKEN, name="bad"),
        FakeSource(random_images(20), name="good"),
    ]
    sink = FakeSink()
    report = run(session(), sources, [sink])
    assert [(source["state"], source["delivered"]) for source in report.sources] == [
        ("FAILED", 3),
        ("ENDED", 20),
    ]
    assert report.failures == ({"what": "bad", "error": "cable pulled", "hint": "put it back"},)
    assert report.frames == 23


def test_all_sources_failed_is_an_error() -> None:
    with pytest.raises(StreamError, match="cable pulled"):
        run(session(), [FakeSource([], error=BROKEN, name=name) for name in "ab"], [])


def test_nothing_within_the_start_time_is_an_error_that_says_why() -> None:
    with pytest.raises(StreamError, match="cam: cable pulled"):
        run(session(), [camera("cam", *[[BROKEN]] * 1000)], [], Options(patience=QUICK))


def test_frames_that_are_not_read_are_dropped_and_counted() -> None:
    slow = session(lambda number: time.sleep(0.02))
    live, sink = camera("cam", list(range(100_000))), FakeSink()
    live.step_s = 0.001
    report = run_until(
        lambda monitor: monitor.snapshot().sources[0].dropped.get("oldest", 0) > 50,
        [live],
        [sink],
        session=slow,
    )
    (source,) = report.sources
    assert source["dropped"]["oldest"] > 50
    assert source["frames"] == source["delivered"] + sum(source["dropped"].values()) + lost_in_the_lanes(
        source
    )
    # The newest is kept: what is shown is never older than what lies between two lanes.
    # Five times the engine's own time, which a busy machine stretches alike: 100 ms where it takes its 20.
    ages, engine = (np.median([record[name] for record in sink.records]) for name in ("age_ms", "infer_ms"))
    assert ages < 5 * engine


def lost_in_the_lanes(source: Any) -> int:
    """Frames that were between two stages when the run was stopped: at most one in each."""
    lost = source["frames"] - source["delivered"] - sum(source["dropped"].values())
    assert 0 <= lost <= 4
    return lost


def test_stale_frames_are_not_shown() -> None:
    slow, sink = session(lambda number: time.sleep(0.03)), FakeSink()
    live = camera("cam", list(range(100_000)))
    live.step_s = 0.005
    report = run_until(
        lambda monitor: monitor.snapshot().sources[0].dropped.get("stale", 0) > 5 and len(sink.records) > 5,
        [live],
        [sink],
        session=slow,
        policy=Policy("none", 10, max_age_ms=60),
    )
    assert report.sources[0]["dropped"]["stale"] > 5
    assert np.median([record["age_ms"] for record in sink.records]) < 60 + 90


def test_sources_take_turns() -> None:
    """A camera with a hundred times the rate gets no more than its turn while the other has frames."""
    fast, file = camera("fast", list(range(100_000))), FakeSource(random_images(30), name="file")
    fast.step_s = 0.0001
    sink = FakeSink()
    slow = session(lambda number: time.sleep(0.003))
    run_until(
        lambda monitor: monitor.snapshot().sources[1].delivered == 30, [fast, file], [sink], session=slow
    )
    order = [frame.source_id for frame in sink.frames]
    while_both = order[: len(order) - order[::-1].index("file")]
    assert while_both.count("fast") <= while_both.count("file") + 5


def test_a_size_that_changes_opens_the_sinks_anew() -> None:
    live = camera("cam", [0, 1, BROKEN], [0, 1, 2, BROKEN], [0] * 100)
    live.sizes = {2: (20, 30), 3: (20, 30)}
    sink, other = FakeSink(), FakeSink()
    sources = [live, camera("still", [0] * 1000)]
    report = run_until(
        lambda monitor: (
            monitor.snapshot().sources[0].connects > 2 and monitor.snapshot().sources[0].delivered > 6
        ),
        sources,
        {"cam": [sink], "": [other]},
        policy=Policy("oldest", 100),
    )
    assert (sink.size_hw, sink.opened, sink.closed) == ((20, 30), 2, 2)
    assert (other.opened, other.closed) == (1, 1)  # a sink of all sources has no size of its own
    assert report.events["counts"]["resized"] == 1
    assert [mask.shape for mask in sink.masks] == [frame.image_rgb.shape[:2] for frame in sink.frames]


def test_a_sink_that_fails_comes_back_while_a_camera_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.stream.run.outputs._RETRY_S", 0.05)
    failing = iter([False] * 3 + [True] * 2)

    def before(index: int) -> None:
        if next(failing, False):
            raise StreamError("disk full", hint="df -h")

    sink, events = FakeSink(before), []
    sink.event = events.append  # type: ignore[attr-defined]
    report = run_until(lambda monitor: len(sink.frames) > 6, [camera("cam", list(range(100_000)))], [sink])
    assert (sink.opened, report.failures) == (3, ())
    assert report.sinks[0]["missed"] >= 2
    assert report.events["counts"]["sink_failed"] == report.events["counts"]["sink_recovered"] == 2
    assert "sink_recovered" in [event.kind for event in events]


def test_a_sink_that_takes_long_to_come_back_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.stream.run.outputs._RETRY_S", 0.02)
    release, other = threading.Event(), FakeSink()

    class Away(FakeSink):
        def open(self, *given: Any) -> None:
            super().open(*given)
            if self.opened > 1:
                release.wait(20)
                raise StreamError("no broker", hint="-")

        def write(self, *given: Any) -> None:
            raise StreamError("broker gone", hint="-")

    away = Away()
    report = run_until(
        lambda monitor: len(other.frames) > 60, [camera("cam", list(range(100_000)))], [away, other]
    )
    assert (away.opened, report.sinks[0]["state"]) == (2, "FAILED")
    assert report.sinks[0]["missed"] >= 60
    release.set()


def test_a_live_run_goes_on_without_its_only_sink() -> None:
    def before(index: int) -> None:
        raise StreamError("read only", hint="-")

    report = run_until(
        lambda monitor: monitor.snapshot().sources[0].frames > 30,
        [camera("cam", [0] * 1000)],
        [FakeSink(before)],
    )
    assert [failure["error"] for failure in report.failures] == ["read only"]
    assert report.interrupted


def test_the_limit_counts_for_each_source() -> None:
    sink = FakeSink()
    live = camera("cam", list(range(100_000)))
    report = run(
        session(), [live, FakeSource(random_images(9), name="file")], [sink], Options(limit=4, patience=QUICK)
    )
    assert [source["delivered"] for source in report.sources] == [4, 4]
    assert report.interrupted is False


class Learning(FakeSource):
    """A source that looks live, and is known to be finite once it is open: a clip over HTTP."""

    is_live = True

    def open(self) -> None:
        super().open()
        self.is_live = False


def test_what_is_known_to_be_finite_once_it_is_open_is_read_whole() -> None:
    slow, sink, learning = (
        session(lambda number: time.sleep(0.01)),
        FakeSink(),
        Learning(random_images(40), name="clip"),
    )
    report = run(slow, [learning], [sink], Options(patience=QUICK))
    (source,) = report.sources
    assert [frame.index for frame in sink.frames] == list(range(40))
    assert [frame.pts_s for frame in sink.frames] == [index / 25 for index in range(40)]
    assert (source["is_live"], source["state"], source["dropped"], source["policy"]) == (
        False,
        "ENDED",
        {},
        str(RECORDED),
    )
    assert (learning.opened, report.frames_dropped) == (1, 0)


def test_what_is_known_to_be_finite_takes_the_policy_limit_and_errors_of_a_file() -> None:
    sink, chosen = FakeSink(), {True: LIVE, False: Policy("none", 5)}
    report = run(
        session(),
        [Learning(random_images(40), name="clip")],
        [sink],
        Options(limit=7, policy={"clip": chosen.__getitem__}),
    )
    assert (len(sink.frames), report.frames, report.sources[0]["policy"]) == (7, 7, str(chosen[False]))
    with pytest.raises(StreamError, match="cable pulled"):
        run(
            session(),
            [Learning(random_images(3), error=BROKEN, name="clip")],
            [FakeSink()],
            Options(patience=QUICK),
        )


def test_stopping_before_the_first_frame_gives_an_empty_report() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    report = run(
        session(), [camera("cam", *[[BROKEN]] * 1000)], [FakeSink()], Options(patience=QUICK, stop=stop)
    )
    assert (report.frames, report.size_hw, report.interrupted) == (0, (0, 0), True)


@pytest.mark.parametrize("wrong", ["sources", "sinks", "policy", "regions"])
def test_what_does_not_fit_the_sources_is_refused(wrong: str) -> None:
    sources = [FakeSource(random_images(1), name=name) for name in ("a", "a" if wrong == "sources" else "b")]
    sinks = {"c": [FakeSink()]} if wrong == "sinks" else []
    options: dict[str, Any] = {wrong: {"c": LIVE}} if wrong in ("policy", "regions") else {}
    with pytest.raises(ValueError, match="sources"):
        run(session(), sources, sinks, Options(**options))


def test_a_capture_tells_its_figures() -> None:
    room, bus = Mailroom(), EventBus()
    capture = Capture(FakeSource(random_images(5), name="f"), room.add(RECORDED), bus, FirstError(), QUICK)
    taken: list[Frame] = []
    deadline_s = time.monotonic() + 10
    while not capture.is_final and time.monotonic() < deadline_s:
        capture.tick()
        try:
            taken.append(room.take(0.01)[1])
        except Exception:  # noqa: BLE001  none yet, or none any more
            continue
    status = capture.status()
    assert (status.state, status.frames, status.size_hw, status.connects) == ("ENDED", 5, (48, 64), 1)
    assert [event.details["state"] for event in bus.recent()] == ["CONNECTING", "RUNNING", "ENDED"]
