"""The runner with several levels: each mask comes from the level that its record names, and no frame is lost
by a switch.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import BundleError
from edgeseg.results import Result
from edgeseg.specs import ImageSpec, ImageU8, LabelSpace, MaskU8
from edgeseg.stream.run.governor import Governor, Target
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.testing.fakes import FakeSession, FakeSink, FakeSource
from streams import PROGRAM, random_images, session, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

GOVERNED_MS = (10.0, 7.0, 2.0)
GOVERNED_LIMIT_MS = 30.0


def levels(load: Callable[[], float] = lambda: 1.0) -> dict[int, FakeSession]:
    """Sessions that take GOVERNED_MS times the load, and answer the number of their level everywhere."""

    def answer(level: int) -> Callable[[ImageU8], MaskU8]:
        def slowly(image_rgb: ImageU8) -> MaskU8:
            time.sleep(GOVERNED_MS[level] * load() / 1e3)
            return np.full(PROGRAM.mask_shape, level, np.uint8)

        return slowly

    return {level: FakeSession(PROGRAM, answer(level)) for level in range(len(GOVERNED_MS))}


def quick_governor(limit_ms: float = GOVERNED_LIMIT_MS, first: int = 0) -> Governor:
    return Governor(
        GOVERNED_MS, Target("deadline", limit_ms), first=first, min_stay_s=0.05, return_stay_s=0.2
    )


def test_a_phase_of_load_moves_the_levels_and_loses_no_frame() -> None:
    loaded = threading.Event()
    images = random_images(6)
    sink, source = FakeSink(), FakeSource(images[index % 6] for index in range(400))

    def phases(result: Result) -> None:
        {30: loaded.set, 120: loaded.clear}.get(result.index, lambda: None)()

    sessions = levels(lambda: 4.5 if loaded.is_set() else 1.0)
    report = run(sessions, source, [sink], Options(governor=quick_governor(), on_result=phases))
    assert [frame.index for frame in sink.frames] == list(range(400))
    assert all(np.array_equal(frame.image_rgb, images[frame.index % 6]) for frame in sink.frames)
    assert (report.frames, report.frames_dropped, report.level) == (400, 0, 0)
    # Each mask comes from the level that its record names, and each level has its reason.
    used = [record["level"] for record in sink.records]
    assert [int(mask.max()) for mask in sink.masks] == [int(mask.min()) for mask in sink.masks] == used
    assert (used[0], used[100], used[-1]) == (0, 2, 0)
    reasons = [record["level_reason"] for record in sink.records]
    assert (reasons[0], reasons[100], reasons[-1]) == ("start", "late", "headroom")
    # The report counts what the records say.
    governor = json.loads(json.dumps(report.to_json(), allow_nan=False))["governor"]
    assert (governor["target"], governor["limit_ms"]) == ("deadline", GOVERNED_LIMIT_MS)
    assert [row["share"] for row in governor["levels"]] == [
        pytest.approx(used.count(level) / 400) for level in range(3)
    ]
    assert governor["over_limit"] == np.mean(
        [record["latency_ms"] > GOVERNED_LIMIT_MS for record in sink.records]
    )
    seen = [(a, b) for a, b in pairwise(used) if a != b]
    assert [(switch["from_level"], switch["to_level"]) for switch in governor["switches"]] == seen
    assert governor["switch_count"] == len(seen) >= 2
    first = governor["switches"][0]
    assert first["reason"] == "late"
    assert 30 <= first["frame"] < used.index(2) <= first["frame"] + 7
    assert first["expected_ms"] < GOVERNED_LIMIT_MS < first["p90_ms"]
    assert all(later["at_s"] - earlier["at_s"] >= 0.05 for earlier, later in pairwise(governor["switches"]))


def test_a_level_that_may_not_be_used_needs_no_session() -> None:
    sink = FakeSink()
    sessions = {level: session for level, session in levels().items() if level >= 1}
    report = run(
        sessions, FakeSource(random_images(3)), [sink], Options(governor=quick_governor(first=1), warmup=2)
    )
    assert [record["level"] for record in sink.records] == [1, 1, 1]
    assert [row["level"] for row in report.to_json()["governor"]["levels"]] == [1, 2]
    assert [session.calls for session in sessions.values()] == [5, 2]  # all are warm


def test_without_a_governor_the_level_is_fixed() -> None:
    sink = FakeSink()
    report = run(session(), FakeSource(random_images(2)), [sink], Options(level=3))
    assert [(record["level"], record["level_reason"]) for record in sink.records] == [(3, "fixed")] * 2
    assert report.governor is None
    assert all(record["infer_ms"] < record["latency_ms"] < record["age_ms"] for record in sink.records)


def test_sessions_and_governor_are_about_the_same_levels() -> None:
    for given_sessions, given_governor in ((levels(), None), ({0: session()}, quick_governor()), ({}, None)):
        with pytest.raises(ValueError, match="sessions for levels"):
            run(given_sessions, FakeSource(random_images(1)), [], Options(governor=given_governor))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": ImageSpec((32, 96))}, r"images of \(64, 96\), level 2 \(32, 96\)"),
        ({"labels": LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)))}, "the classes"),
    ],
)
def test_levels_that_differ_are_refused_before_the_source_is_opened(
    change: dict[str, Any], said: str
) -> None:
    sessions = levels()
    sessions[2] = FakeSession(replace(PROGRAM, **change))
    source = FakeSource(random_images(1))
    with pytest.raises(BundleError, match=said):
        run(sessions, source, [], Options(governor=quick_governor()))
    assert source.opened == 0
