"""Regions measure what lies inside of them; alarms neither flicker nor sleep."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError, StreamError
from edgeseg.stream.watch.alarms import Alarm, RegionMonitor, rasterise
from edgeseg.stream.watch.regions import Region, Threshold, parse_region, parse_threshold
from streams import LABELS

corners = st.lists(st.tuples(st.floats(-10, 60), st.floats(-10, 60)), min_size=3, max_size=8)
sizes = st.tuples(st.integers(1, 50), st.integers(1, 50))
SQUARE = ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))


def contains(points: list[tuple[float, float]], x: float, y: float) -> bool:
    """The even-odd rule as textbooks have it, one point at a time."""
    odd = False
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@given(corners, sizes)
def test_pixels_whose_centres_lie_inside(points: list[tuple[float, float]], size_hw: tuple[int, int]) -> None:
    inside = rasterise(points, size_hw)
    assert inside.shape == size_hw
    for y, x in np.random.default_rng(0).integers(0, size_hw, (40, 2)):
        # A centre on a side may fall on either side of it.
        near = {
            contains(points, x + 0.5 + dx, y + 0.5 + dy) for dx in (-1e-6, 0, 1e-6) for dy in (-1e-6, 0, 1e-6)
        }
        assert inside[y, x] in near


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), sizes)
def test_polygons_that_share_sides_cover_the_frame_once(
    seed: int, count: int, size_hw: tuple[int, int]
) -> None:
    """A fan of triangles around a point inside a rectangle that holds the frame."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    centre = tuple(rng.uniform(0, 1, 2) * (width, height))
    rim = [(-1.0, -1.0), (width + 1.0, -1.0), (width + 1.0, height + 1.0), (-1.0, height + 1.0)]
    for _ in range(count):
        place = int(rng.integers(0, len(rim)))
        (x0, y0), (x1, y1) = rim[place], rim[(place + 1) % len(rim)]
        share = rng.uniform()
        rim.insert(place + 1, (x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
    parts = [
        rasterise([centre, first, second], size_hw)
        for first, second in zip(rim, [*rim[1:], rim[0]], strict=True)
    ]
    assert np.array_equal(np.sum(parts, axis=0), np.ones(size_hw, int))


@given(corners, sizes, st.integers(0, 2**32 - 1))
def test_shares_are_the_shares_of_the_pixels_inside(
    points: list[tuple[float, float]], size_hw: tuple[int, int], seed: int
) -> None:
    points = [(abs(x) + 2, abs(y)) for x, y in points]
    assume(np.linalg.matrix_rank(np.subtract(points, points[0])) == 2)
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 3, 255], np.uint8), size_hw)
    inside = rasterise(points, size_hw)
    monitor = RegionMonitor([Region("r", tuple(points), "px")], [], LABELS)
    if not inside.any():
        with pytest.raises(StreamError, match="no pixel"):
            monitor.update(mask, 0.0)
        return
    shares, crossings = monitor.update(mask, 0.0)
    expected = {name: np.mean(mask[inside] == index) for index, name in enumerate(LABELS.names)}
    assert shares == {
        "r": pytest.approx({name: share for name, share in expected.items() if share}, abs=1e-6)
    }
    assert not [one for one in crossings if one.kind == "region"]


def test_shares_of_the_frame_follow_its_size_and_pixels_follow_the_first_frame() -> None:
    regions = [Region("half", SQUARE), parse_region("pixels=0,24;64,24;64,48;0,48")]
    monitor = RegionMonitor(regions, [], LABELS)
    for height, width in ((48, 64), (96, 128), (31, 17)):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 2 :] = 2
        shares, _ = monitor.update(mask, 0.0)
        assert shares["half"] == shares["pixels"] == pytest.approx({"car": 1.0})


def test_a_region_is_cut_to_the_frame() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:, 5:] = 1
    shares, told = RegionMonitor([parse_region("r=4,0;4000,0;4000,4000;4,4000")], [], LABELS).update(mask, 0)
    assert [(one.kind, one.reason) for one in told] == [
        ("resized", "region r: is cut where it reaches beyond 10x10")
    ]
    assert shares["r"] == {"road": round(1 / 6, 6), "sky": round(5 / 6, 6)}


def test_a_region_of_a_large_frame_is_counted_exactly() -> None:
    mask = np.zeros((4320, 7680), np.uint8)
    mask[0, 0] = 3
    monitor = RegionMonitor(
        [Region("all", ((0, 0), (1, 0), (1, 1), (0, 1)))], [parse_threshold("t=all:tree>0/0")], LABELS
    )
    shares, (crossing,) = monitor.update(mask, 0.0)
    assert shares["all"]["road"] == 1.0 - round(1 / mask.size, 6)
    assert crossing.details["raised"]


limits = st.floats(0, 1)
walks = st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 2)), max_size=60)


@given(limits, limits, st.sampled_from([0.0, 0.5, 3.0]), st.booleans(), walks)
def test_alarms_are_raised_and_cleared_in_turn_and_only_when_due(
    first: float, second: float, for_s: float, above: bool, walk: list[tuple[float, float]]
) -> None:
    low, high = sorted((first, second))
    raise_at, clear_at = (high, low) if above else (low, high)
    alarm = Alarm(Threshold("t", "r", ("road",), above, raise_at, clear_at, for_s))
    at_s, history = 0.0, []
    for share, step_s in walk:
        at_s += step_s
        history.append((at_s, share))
        before = alarm.raised
        changed = alarm.update(share, at_s)
        assert changed == (alarm.raised != before)
        past = [(time_s, share > raise_at if above else share < raise_at) for time_s, share in history]
        back = [(time_s, share <= clear_at if above else share >= clear_at) for time_s, share in history]
        due = back if before else past
        if changed:
            # It was due in every frame of the last `for_s`, and in an earlier one that lies that far back.
            assert all(good for time_s, good in due if time_s >= at_s - for_s + 1e-9)
            assert max([0.0, *(time_s for time_s, good in due if not good)]) < at_s - for_s + 1e-9
        elif for_s == 0:
            assert not due[-1][1]


def test_an_alarm_between_its_limits_keeps_its_state() -> None:
    alarm = Alarm(parse_threshold("t=r:road>35%/30%"))
    seen = [
        alarm.update(share, at_s) and alarm.raised
        for at_s, share in enumerate((0.32, 0.35, 0.36, 0.34, 0.31, 0.36, 0.30, 0.33))
    ]
    assert [place for place, changed in enumerate(seen) if changed] == [2]
    assert not alarm.raised


def test_time_that_runs_back_begins_the_waiting_again() -> None:
    alarm = Alarm(parse_threshold("t=r:road>35%@2s"))
    assert [alarm.update(0.9, at_s) for at_s in (10.0, 11.0, 0.0, 1.0, 2.0)] == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_road_blocked() -> None:
    monitor = RegionMonitor(
        [Region("lane", SQUARE)],
        [parse_threshold("road blocked=lane:!road>35%/30%@2s"), parse_threshold("no sky=lane:sky<1%")],
        LABELS,
    )
    mask = np.zeros((100, 100), np.uint8)
    told = [monitor.update(mask, 0.0)[1]]
    mask[80:, :] = 2
    for at_s in (1.0, 2.0, 3.0):
        told.append(monitor.update(mask, at_s)[1])
    assert [[crossing.reason for crossing in crossings] for crossings in told] == [
        ["lane: no sky 0 %"],
        [],
        [],
        ["lane: road blocked 40 %"],
    ]
    assert told[3][0].details == {
        "threshold": "road blocked",
        "region": "lane",
        "classes": ["!road"],
        "raised": True,
        "share": 0.4,
        "limit": 0.35,
    }
    assert monitor.raised() == ["road blocked", "no sky"]
    mask[:] = 1
    mask[70:] = 0
    monitor.update(mask, 4.0)
    (_, later) = monitor.update(mask, 5.0)
    assert not later
    mask[:] = 0
    monitor.update(mask, 6.0)
    assert [crossing.reason for crossing in monitor.update(mask, 8.0)[1]] == [
        "lane: road blocked 0 %, no longer"
    ]


def test_thresholds_as_users_write_them() -> None:
    assert parse_threshold("busy = lane left: car + bus >0.2/15%") == Threshold(
        "busy", "lane left", ("car", "bus"), True, 0.2, 0.15
    )
    assert parse_threshold("no road=lane:road<50%@1.5s") == Threshold(
        "no road", "lane", ("road",), False, 0.5, 0.55, 1.5
    )
    assert parse_region("lane=0,0;640,0;640,480").in_pixels
    assert not parse_region("lane=0,0;1,0;1,1;").in_pixels


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r",
        "r=",
        "=0,0;1,0;1,1",
        "r=0,0;1,1",
        "r=0,0;1,0;1",
        "r=0,0;1,x;1,1",
        "r=0,0;1,0;nan,1",
        "r=0,0;1,0;-1,1",
        "a:b=0,0;1,0;1,1",
    ],
)
def test_bad_regions(text: str) -> None:
    with pytest.raises(StreamError) as caught:
        parse_region(text)
    assert "--region" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t=r:road",
        "t=r:>5%",
        "t=:road>5%",
        "=r:road>5%",
        "t=r:road>105%",
        "t=r:road>10%/20%",
        "t=r:road<20%/10%",
        "t=r:road=5%",
    ],
)
def test_bad_thresholds(text: str) -> None:
    with pytest.raises(StreamError) as caught:
        parse_threshold(text)
    assert "--threshold" in caught.value.hint


def test_names_that_do_not_exist() -> None:
    region = Region("lane", SQUARE)
    for thresholds, match in (
        (["t=x:road>5%"], "no region is called x"),
        (["t=lane:rod>5%"], "no class is called rod"),
    ):
        with pytest.raises(StreamError, match=match) as caught:
            RegionMonitor([region], [parse_threshold(text) for text in thresholds], LABELS)
        assert "there are: " in caught.value.hint
    with pytest.raises(StreamError, match="two regions are called lane"):
        RegionMonitor([region, region], [], LABELS)


@given(st.text(max_size=40))
def test_any_text_is_a_region_a_threshold_or_a_clear_error(text: str) -> None:
    for parse in (parse_region, parse_threshold):
        try:
            parse(text)
        except EdgesegError as error:
            assert error.hint


def test_outlines_are_pixels() -> None:
    outlines = RegionMonitor([Region("half", SQUARE)], [], LABELS).outlines((100, 200))
    assert outlines == {"half": [(0, 50), (200, 50), (200, 100), (0, 100)]}
    drawn = cv2.fillPoly(np.zeros((100, 200), np.uint8), [np.array(outlines["half"], np.int32)], 1)
    assert drawn[60:].all() and not drawn[:49].any()
