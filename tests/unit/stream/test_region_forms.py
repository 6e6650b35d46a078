"""How users write regions: the form says the unit, a region may be of one source, and what does not fit is
told with its mend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.cli.main import run as cli
from edgeseg.cli.run import run as command
from edgeseg.cli.run_settings import read_settings
from edgeseg.engines.choose.build import build_engine
from edgeseg.errors import EdgesegError, StreamError
from edgeseg.stream.config import RegionSection as Section
from edgeseg.stream.config import Streams
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.regions import Region, of_source, parse_region, parse_threshold, read_region
from streams import LABELS, random_images, time_limit, write_video
from tiny import tiny_bundle

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

HALF = ((0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0))
IN_PIXELS = ((320.0, 240.0), (640.0, 240.0), (640.0, 480.0), (320.0, 480.0))


@pytest.mark.parametrize(
    ("text", "points", "unit"),
    [
        ("r=0.5,0.5;1,0.5;1,1;0.5,1", HALF, "share"),
        ("r=50%,50%;100%,50%;100%,100%;50%,100%", HALF, "share"),
        ("r = 50%, 0.5; 1 , 50%; 100%,1;0.5,100% ;", HALF, "share"),
        ("r@640x480=320,240;640,240;640,480;320,480", HALF, "share"),
        ("r@640x480=320px,50%;640,240px;100%,480;320,480", HALF, "share"),
        ("r@64x48=32.0,24.0;64,24;64,48;32,48", HALF, "share"),
        ("r=320px,240px;640px,240px;640px,480px;320px,480px", IN_PIXELS, "px"),
        ("r=320px,240;640,240;640,480;320,480", IN_PIXELS, "px"),
        ("r=320,240;640,240;640,480;320,480", IN_PIXELS, "px"),
        ("r=0,0;1,0;1,1;0,1", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)), "share"),
        ("r=0px,0px;1px,0px;1px,1px", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)), "px"),
        ("r=0,0;102%,0;102%,1", ((0.0, 0.0), (1.02, 0.0), (1.02, 1.0)), "share"),
        ("r=0,0;640.5px,0;640.5px,480px", ((0.0, 0.0), (640.5, 0.0), (640.5, 480.0)), "px"),
    ],
)
def test_the_form_says_the_unit(text: str, points: Any, unit: str) -> None:
    region = parse_region(text)
    assert (region.name, region.unit) == ("r", unit)
    assert np.array(region.points) == pytest.approx(np.array(points))


@pytest.mark.parametrize(
    ("text", "said", "mend"),
    [
        ("r=0,0;1.02,0;1,1", "1.02 is neither a share", "write 1.02px for pixels or 102% for a share"),
        ("r=0,0;640.5,0;640,480", "640.5 is neither a share", "write 640.5px"),
        ("r=0.5,0;640,0;640,480", "640 is neither a share", "--region 'r@1920x1080=...'"),
        ("r=50%,0;640,0;1,1", "640 is neither a share", "64000% for a share"),
        ("r=50%,0;640px,0;1,1", "mixes shares and pixels", "--region 'r@1920x1080=...'"),
        ("r=64000%,0;1,1;0,1", "640 is no share of a picture; for pixels write 640px", "--region"),
        ("r=0,0;1em,0;1,1", "'1em' is not a number", "--region"),
        ("r=0,0;1,0;infpx,1", "finite numbers", "--region"),
        ("r=0,0;nan%,0;1,1", "finite numbers", "--region"),
        ("r@0x480=0,0;1,0;1,1", "no side of 0 pixels", "--region"),
        ("r=0.1,0.1;0.5,0.5;0.9,0.9", "on one line", "--region"),
        ("r=0,0;0,0;0,0", "on one line", "--region"),
        ("r=1,0;110%,0;1,1", "outside of the picture", "--region"),
        ("r@64x48=64,0;80,0;80,40", "outside of the picture", "--region"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_mend(text: str, said: str, mend: str) -> None:
    with pytest.raises(StreamError) as caught:
        parse_region(text)
    assert said in str(caught.value) and mend in caught.value.hint


numbers = st.one_of(
    st.floats(0, 1, width=16),
    st.integers(0, 4000),
    st.integers(0, 200).map("{}%".format),
    st.integers(0, 4000).map("{}px".format),
)


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=6), st.none() | st.just((48, 64)))
def test_what_is_read_can_be_written_and_read_again(corners: Any, size_hw: tuple[int, int] | None) -> None:
    try:
        region = read_region("r", corners, size_hw)
    except StreamError as error:
        assert error.hint
        return
    again = read_region("r", region.corners)
    assert again.unit == region.unit and np.array(again.points) == pytest.approx(np.array(region.points))


def test_a_region_with_a_size_follows_every_frame() -> None:
    monitor = RegionMonitor([parse_region("half@640x480=0,240;640,240;640,480;0,480")], [], LABELS)
    for height, width in ((48, 64), (1080, 1920), (10, 10)):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 2 :] = 2
        assert monitor.update(mask, 0.0)[0] == {"half": {"car": 1.0}}


def test_a_camera_that_comes_back_with_another_size() -> None:
    """What is in pixels is scaled, and told; what holds nothing is not measured, and told; both are as they
    were afterwards.
    """
    regions = [
        parse_region("gate=30,20;60,20;60,45;30,45"),
        parse_region("spot=0.01,0.01;0.04,0.01;0.04,0.04"),
    ]
    monitor = RegionMonitor(regions, [parse_threshold("dark=spot:road>50%@1s")], LABELS)
    first, small = np.zeros((48, 64), np.uint8), np.zeros((6, 8), np.uint8)
    assert set(monitor.update(first, 0.0, 1)[0]) == {"gate", "spot"}
    shares, told = monitor.update(small, 0.9, 2)
    assert set(shares) == {"gate"}
    assert [(one.kind, one.reason) for one in told] == [
        ("resized", "region gate: drawn on 64x48, scaled to 8x6"),
        ("resized", "region spot: holds no pixel of a frame of 8x6, and is not measured"),
    ]
    assert monitor.update(small, 2.0, 2) == (shares, [])
    assert [one.kind for one in monitor.update(first, 2.1, 3)[1]] == ["resized"]
    assert monitor.update(first, 2.9, 3)[1] == []
    assert [one.details["raised"] for one in monitor.update(first, 3.2, 3)[1]] == [True]


def test_pictures_of_a_folder_differ_without_a_word() -> None:
    monitor = RegionMonitor([parse_region("gate=30,20;60,20;60,45;30,45")], [], LABELS)
    assert [
        monitor.update(np.zeros(size_hw, np.uint8), 0.0)[1] for size_hw in ((48, 64), (96, 128), (48, 64))
    ] == [[]] * 3


def test_an_alarm_does_not_wait_while_nobody_looks() -> None:
    """A camera that was away for a minute: what was so before and is so again was not seen in between."""
    monitor = RegionMonitor([Region("all", HALF)], [parse_threshold("t=all:road>50%@2s")], LABELS)
    mask = np.zeros((48, 64), np.uint8)
    seen = [(0.0, 1), (1.0, 1), (61.0, 2), (62.0, 2), (63.0, 2)]
    assert [len(monitor.update(mask, at_s, connection)[1]) for at_s, connection in seen] == [0, 0, 0, 0, 1]


def settings(*words: str) -> Streams:
    context = command.make_context("run", ["b.edgeseg", *words])
    with context:
        return read_settings(context)


TWO = ("--source", "gate=a.mp4", "--source", "yard=b.mp4")


def test_a_region_may_be_of_one_source() -> None:
    words = (
        "--region",
        "lane=0,0;1,0;1,1",
        "--region",
        "gate:door=10px,10px;20px,10px;20px,20px",
        "--region",
        "yard:lane=0,0;50%,0;50%,1",
    )
    words += (
        "--threshold",
        "jam=lane:car>20%",
        "--threshold",
        "open=door:sky>1%",
        "--threshold",
        "yard:jam=lane:car>50%@9s",
    )
    gate, yard = settings(*TWO, *words).sources
    assert {region.name: region.build().points[1] for region in gate.regions} == {
        "lane": (1.0, 0.0),
        "door": (20.0, 10.0),
    }
    assert {region.name: region.build().points[1] for region in yard.regions} == {"lane": (0.5, 0.0)}
    assert [(one.name, one.above) for region in gate.regions for one in region.thresholds] == [
        ("jam", 0.2),
        ("open", 0.01),
    ]
    assert [(one.name, one.above, one.for_s) for region in yard.regions for one in region.thresholds] == [
        ("jam", 0.5, 9.0)
    ]


@pytest.mark.parametrize(
    ("words", "said", "mend"),
    [
        (
            ("--region", "gat:lane=0,0;1,0;1,1"),
            "region lane: there is no source gat",
            "sources are: gate, yard",
        ),
        (
            ("--region", "lane=0,0;1,0;1,1", "--threshold", "gat:jam=lane:car>1%"),
            "there is no source gat",
            "gate, yard",
        ),
        (
            ("--region", "gate:lane=0,0;1,0;1,1", "--threshold", "yard:jam=lane:car>1%"),
            "no --region lane of source yard",
            "--threshold",
        ),
        (("--threshold", "jam=lane:car>1%"), "there is no --region lane", "--threshold"),
        (
            ("--region", "lane=0,0;1,0;1,1", "--region", "lane=0,0;1,0;0,1"),
            "two regions are called lane",
            "name of its own",
        ),
        (("--region", "lane=0,0;1.02,0;1,1"), "1.02 is neither", "1.02px"),
    ],
)
def test_mistakes_on_the_line(words: tuple[str, ...], said: str, mend: str) -> None:
    with pytest.raises(EdgesegError) as caught:
        settings(*TWO, *words)
    assert said in str(caught.value) and mend in caught.value.hint


def test_a_source_without_a_name_is_its_uri() -> None:
    assert of_source("rtsp://camera:554/1:lane=0,0;1,0;1,1") == ("rtsp://camera:554/1", "lane=0,0;1,0;1,1")
    (source,) = settings(
        "--source", "rtsp://u:secret@camera:554/1", "--region", "rtsp://***@camera:554/1:r=0,0;1,0;1,1"
    ).sources
    assert [region.name for region in source.regions] == ["r"]


def test_regions_of_a_file(tmp_path: Path) -> None:
    assert Section(name="r", polygon=(("50%", 0.5), (1, "50%"), (1, 1))).build() == Region(
        "r", ((0.5, 0.5), (1, 0.5), (1, 1))
    )
    assert Section(name="r", polygon=((320, 240), (640, 240), (640, 480)), size="640x480").build().points[
        0
    ] == (0.5, 0.5)
    text = (
        "bundle: b\nsources:\n  - uri: a.mp4\n    regions:\n      - {name: r, polygon: [[0, 0], [1.02, 0],"
        " [1, 1]]}\n"
    )
    path = tmp_path / "streams.yaml"
    path.write_text(text)
    assert cli(["run", "--config", str(path)]) == 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgeseg")
    build_engine(made)
    return made.path


def test_a_region_that_does_not_fit_one_source_stops_no_other(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    big, small = (
        write_video(tmp_path / f"{name}.mp4", random_images(12, size), 25)
        for name, size in (("big", (96, 128)), ("small", (32, 48)))
    )
    line = [
        "run",
        str(bundle),
        "--source",
        f"big={big}",
        "--source",
        f"small={small}",
        "--sink",
        f"{tmp_path}/{{source}}.ndjson",
    ]
    assert cli([*line, "--region", "corner=100px,60px;120px,60px;120px,90px;100px,90px", "--json"]) == 7
    printed = capfd.readouterr()
    assert (
        "small: region corner: holds no pixel of a frame of 48x32" in printed.err
        and "hint: say what picture" in printed.err
    )
    document = json.loads(printed.out)
    assert {one["source"]: (one["state"], one["delivered"]) for one in document["sources"]} == {
        "big": ("ENDED", 12),
        "small": ("FAILED", 0),
    }
    assert len((tmp_path / "big.ndjson").read_text().splitlines()) == 12
    for fits in (
        "corner@128x96=100,60;120,60;120,90;100,90",
        "big:corner=100px,60px;120px,60px;120px,90px;100px,90px",
    ):
        assert cli([*line, "--region", fits]) == 0
        capfd.readouterr()
    assert cli(["run", str(bundle), "--source", str(small), "--region", "corner=100,60;120,60;120,90"]) == 7
    assert "region corner: holds no pixel" in capfd.readouterr().err
