"""A running stream moves between the levels of a bundle: through the command line, and under a real load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from burners import Burners
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.cli.main import run
from edgeseg.devices.cores import usable_cores
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.open import open_session
from edgeseg.pipeline.export import export_bundle
from edgeseg.pipeline.run import open_governed
from edgeseg.recipe.load import find_recipe, load_recipe
from edgeseg.results import Result
from edgeseg.specs import ImageSpec, ImageU8, IsrPlan
from edgeseg.stream.run.governor import Target
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run as run_stream
from edgeseg.testing.fakes import FakeSink, FakeSource
from streams import random_images, time_limit
from tiny import tiny_bundle, tiny_image, tiny_mask, tiny_program

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
PLANS = ("1,1,1,1-1,1,1", "2,2,1,1-2,2,2")
CLIP = "synthetic://640x480?frames=100"


def leveled(path: Path, count: int, built: int | None = None, last_image: ImageSpec | None = None) -> Bundle:
    """A tiny bundle of `count` levels, the first `built` of them with an engine, the last perhaps for another
    image.
    """
    path.parent.mkdir(parents=True)
    plans = [IsrPlan((1 + level, 1, 1, 1), (1, 1, 1)) for level in range(count)]
    programs = [tiny_program(path.parent / f"{level}.onnx", isr=plan) for level, plan in enumerate(plans)]
    if last_image:
        programs[-1] = replace(programs[-1], image=last_image)
    golden = [("frame", tiny_image(0), tiny_mask(tiny_image(0)))]
    bundle = tiny_bundle(path, programs=programs, golden=[(*golden[0], level) for level in range(count)])
    for level in range(count if built is None else built):
        build_engine(bundle, level=level, threads=1)
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leveled(tmp_path_factory.mktemp("levels") / "made" / "three.edgeseg", 3).path


@pytest.mark.usefixtures(time_limit.__name__)
def test_a_deadline_that_nothing_holds_ends_at_the_fastest_level(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["run", str(bundle), "--source", CLIP, "--deadline-ms", "0.001", "--sink", f"{tmp_path}/r.ndjson"]
    assert run([*line, "--report", f"{tmp_path}/report.json"]) == 0
    shown = capfd.readouterr().out
    assert "latency over 0.001 ms: 100.0 % of the frames; 1 switches of level" in shown
    assert "0 -> 2" in shown
    assert "3,1,1,1-1,1,1" in shown
    records = [json.loads(text) for text in (tmp_path / "r.ndjson").read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(100))
    used = [(record["level"], record["level_reason"]) for record in records]
    assert [a for a, b in pairwise([*used, None]) if a != b] == [(0, "start"), (2, "late")]
    governor = json.loads((tmp_path / "report.json").read_text())["governor"]
    assert [row["share"] for row in governor["levels"]] == [
        pytest.approx(sum(level == row["level"] for level, _ in used) / 100) for row in governor["levels"]
    ]


def test_a_rate_that_all_hold_stays_at_the_most_exact_level_allowed(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = [
        "run",
        str(bundle),
        "--source",
        "synthetic://64x48?frames=40",
        "--target-fps",
        "0.1",
        "--level",
        "1",
        "--json",
    ]
    assert run(line) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["level"], report["governor"]["target"], report["governor"]["limit_ms"]) == (
        1,
        "fps",
        10_000,
    )
    assert (report["governor"]["over_limit"], report["governor"]["switches"]) == (0, [])
    assert [(row["level"], row["share"]) for row in report["governor"]["levels"]] == [(1, 1), (2, 0)]


def test_without_a_target_there_is_no_governor(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(bundle), "--source", "synthetic://64x48?frames=4", "--level", "2", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["governor"], report["level"]) == (None, 2)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--deadline-ms", "0"], 2, "--deadline-ms"),
        (["--deadline-ms", "-4"], 2, "--deadline-ms"),
        (["--deadline-ms", "nan"], 2, "finite"),
        (["--target-fps", "inf"], 2, "finite"),
        (["--target-fps", "0"], 2, "--target-fps"),
        (["--deadline-ms", "40", "--target-fps", "25"], 2, "one of them"),
        (["--deadline-ms", "40", "--level", "2"], 6, "level 2 is the last of 3"),
        (["--deadline-ms", "40", "--level", "3"], 6, "no level 3"),
    ],
)
def test_mistakes(
    bundle: Path, capfd: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    assert run(["run", str(bundle), "--source", CLIP, *options]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "hint: " in printed.err


def test_bundles_that_cannot_hold_a_target(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = {
        "one": (leveled(tmp_path / "one" / "b.edgeseg", 1), "only one", "edgeseg export RECIPE --levels"),
        "unbuilt": (
            leveled(tmp_path / "unbuilt" / "b.edgeseg", 3, built=2),
            "no engine for level 2",
            "edgeseg build",
        ),
    }
    for bundle, said, hint in cases.values():
        assert run(["run", str(bundle.path), "--source", CLIP, "--deadline-ms", "40"]) == 6
        printed = capfd.readouterr().err
        assert said in printed
        assert hint in printed


@pytest.mark.slow
def test_under_a_real_load_it_falls_and_comes_back(tmp_path: Path) -> None:
    """Eight busy processes for each core while frames 100 to 200 are written; the stream ends once it is back
    at level 0.
    """
    recipe = load_recipe(find_recipe("edaformer_t_camvid"), ["export.size_hw=[192, 256]"])
    made, _ = export_bundle(
        recipe, CHECKPOINT, tmp_path / "b.edgeseg", levels=[IsrPlan.parse(plan) for plan in PLANS]
    )
    for level in range(len(PLANS)):
        build_engine(made, level=level, threads=2)
    bundle, images, sink = open_bundle(made.path), random_images(10, (192, 256)), FakeSink()

    def endless() -> Iterator[ImageU8]:
        for index in range(5000):
            if index > 250 and sink.records[-1]["level"] == 0:
                return
            yield images[index % 10]

    with open_session(bundle) as session:
        alone = run_stream(session, FakeSource(images * 6), [])
    target = Target("deadline", 3 * alone.latency["p50_ms"])
    with Burners(8 * usable_cores()) as burners, open_governed(bundle, target) as (sessions, governor):

        def phases(result: Result) -> None:
            {100: burners.start, 200: burners.stop}.get(result.index, lambda: None)()

        report = run_stream(
            sessions, FakeSource(endless()), [sink], Options(governor=governor, on_result=phases)
        )
        for frame, mask, record in list(zip(sink.frames, sink.masks, sink.records, strict=True))[::40]:
            assert np.array_equal(mask, sessions[record["level"]].segment(frame.image_rgb))
    assert [frame.index for frame in sink.frames] == list(range(report.frames))
    used = [record["level"] for record in sink.records]
    assert max(used[100:250]) == 1, report.governor
    assert used[-1] == 0, report.governor
