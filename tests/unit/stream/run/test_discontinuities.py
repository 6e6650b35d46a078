"""Stamps that jump in a run: told as events, and neither alarms nor recordings believe them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from edgeseg.contracts import LiveSource
from edgeseg.specs import Frame
from edgeseg.stream.run.mailbox import Policy
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.report import RunReport
from edgeseg.stream.run.runner import run
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.events import Event
from edgeseg.stream.watch.regions import parse_region, parse_threshold
from edgeseg.stream.watch.service import JsonLog
from edgeseg.testing.fakes import FakeSink, FakeSource
from sinking import sink
from streams import LABELS, random_images, session, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

FPS = 50
ALL = Policy("none", 100)


class Stamped(LiveSource):
    """A live source of `count` frames at 50 a second, each stamped by a function of its number and true
    time.
    """

    source_id, is_live, fps, frame_count = "cam", True, float(FPS), None

    def __init__(self, stamp: Callable[[int, float], Any], count: int = 100) -> None:
        self._stamp, self._count = stamp, count

    def fresh(self) -> Stamped:
        return Stamped(self._stamp, 0)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def frames(self) -> Iterator[Frame]:
        start_s = time.monotonic()
        for index, image_rgb in zip(range(self._count), random_images(self._count), strict=True):
            time.sleep(max(0.0, start_s + index / FPS - time.monotonic()))
            now_s = time.monotonic()
            yield Frame(image_rgb, index, self._stamp(index, now_s - start_s), now_s, "cam")


def run_stamped(
    stamp: Callable[[int, float], Any], *sinks: Any, count: int = 100, **options: Any
) -> RunReport:
    return run(session(), [Stamped(stamp, count)], list(sinks), Options(limit=count, policy=ALL, **options))


def told(report: RunReport) -> list[dict[str, Any]]:
    return [event["details"] for event in report.events["recent"] if event["kind"] == "discontinuity"]


@pytest.mark.parametrize(
    ("stamp", "jump_s"),
    [
        (lambda index, at_s: at_s + 37_600 * (index == 40), 37_600),
        (lambda index, at_s: at_s + 1_800 * (index >= 40), 1_800),
        (lambda index, at_s: at_s - 95_443 * (index >= 40), -95_443),
    ],
)
def test_a_recording_lasts_as_long_as_it_took(
    stamp: Callable[[int, float], float], jump_s: float, tmp_path: Path
) -> None:
    kept = FakeSink()
    report = run_stamped(stamp, sink(tmp_path / "o.mp4"), kept)
    assert [round(one["jump_s"]) for one in told(report)] == [jump_s]
    assert 0.7 < told(report)[0]["pts_s"] < 1.2
    times_s = [record["pts_s"] for record in kept.records]
    assert len(times_s) == 100 and max(after - before for before, after in pairwise(times_s)) < 0.3
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert float(Fraction(container.duration, av.time_base)) == pytest.approx(
            times_s[-1] - times_s[0], abs=0.1
        )
    assert times_s[-1] == pytest.approx(2.0, abs=0.4)


@pytest.mark.parametrize("jump_s", [5.0, 37_600.0, -37_600.0])
def test_an_alarm_takes_its_second_though_the_clock_is_set(jump_s: float) -> None:
    regions, thresholds = (
        [parse_region("all=0,0;1,0;1,1;0,1")],
        [parse_threshold("there=all:road+sky+car+tree>50%@1s")],
    )
    monitor = RegionMonitor(regions, thresholds, LABELS)
    report = run_stamped(lambda index, at_s: at_s + jump_s * (index >= 15), regions={"cam": monitor})
    (raised,) = [event for event in report.events["recent"] if event["kind"] == "region"]
    begun = next(event for event in report.events["recent"] if event["details"].get("state") == "RUNNING")
    assert 0.9 < raised["at_s"] - begun["at_s"] < 1.6
    assert len(told(report)) == 1


def test_a_source_whose_every_stamp_is_wrong_does_not_push_other_events_out() -> None:
    report = run_stamped(lambda index, at_s: at_s * 1_000)
    assert len(told(report)) == report.events["counts"]["discontinuity"] == 5


def test_a_source_without_stamps_goes_by_arrival() -> None:
    kept = FakeSink()
    report = run_stamped(lambda index, at_s: None, kept, count=30)
    assert not told(report)
    assert [record["pts_s"] for record in kept.records] == sorted(
        {record["pts_s"] for record in kept.records}
    )


class Joined(FakeSource):
    """A file of two parts that count from zero each, and a hole in the second."""

    stamps_may_jump = True

    def frames(self) -> Iterator[Frame]:
        for index, frame in enumerate(super().frames()):
            yield Frame(
                frame.image_rgb,
                index,
                index % 30 / 25 + 1_200 * (index > 45),
                frame.arrival_s,
                frame.source_id,
            )


def test_joined_files_are_one_line_of_time_and_the_joint_is_told() -> None:
    kept = FakeSink()
    report = run(session(), [Joined(random_images(60))], [kept])
    assert [record["pts_s"] for record in kept.records] == pytest.approx(
        [index / 25 for index in range(60)], abs=1e-6
    )
    assert [(one["jump_s"], one["pts_s"]) for one in told(report)] == [(-1.2, 1.2), (1_200, 1.84)]


def test_the_log_takes_it_for_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    JsonLog().event(Event(0.0, "cam", "discontinuity", "time stamps jumped"))
    assert '"level": "warning"' in capsys.readouterr().err
