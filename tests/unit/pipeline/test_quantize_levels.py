"""Whose scales a level gets: engines whose accuracy is known by heart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseg.contracts import NoProgress
from edgeseg.errors import GateFailed
from edgeseg.pipeline.quantize_engines import check_levels
from edgeseg.pipeline.quantize_levels import Settled, settle
from edgeseg.specs import IsrPlan

PLANS = [IsrPlan(), IsrPlan((2, 1, 1, 1), (2, 2, 2)), IsrPlan((2, 2, 1, 1), (2, 2, 2))]
GATE, ALLOWED = "quant.max_miou_drop", 0.01
SHARED = Path("ptq.safetensors")


def candidate(precision: str, median_ms: float) -> Any:
    figures = {"median_ms": median_ms}
    return SimpleNamespace(
        runtime="fake", kind=precision, precision=precision, verdict="passed", measurements=figures
    )


class FakeBench:
    """A bundle is the files that it was made of; INT8 loses what `lost` says, by level and by whether the
    scales are its own.
    """

    progress = NoProgress()

    def __init__(self, lost: list[tuple[float, float]]) -> None:
        self.lost, self.made, self.measured = lost, list[list[Path]](), list[tuple[int, str]]()

    def bundle(self, files: list[Path]) -> Any:
        self.made.append(list(files))
        times = [
            candidate("float", 40.0),
            candidate("float", 30.0),
            candidate("int8", 15.0),
            candidate("int8", 60.0),
        ]
        return list(files), [SimpleNamespace(choice=SimpleNamespace(candidates=times)) for _ in self.lost]

    def accuracy(self, bundle: list[Path], precision: str, level: int) -> dict[str, Any]:
        self.measured.append((level, precision))
        shared, own = self.lost[level]
        has_own = any(str(PLANS[level]) in file.name for file in bundle)
        return {"miou": 0.6 - (0.0 if precision == "float" else own if has_own else shared)}


def settled(bench: FakeBench) -> Settled:
    def own(plan: IsrPlan, why: str) -> Path:
        assert GATE in why
        return Path(f"ptq-{plan}.safetensors")

    return settle(bench, PLANS[: len(bench.lost)], SHARED, own, GATE, ALLOWED)  # type: ignore[arg-type]


def test_one_set_where_every_level_passes_with_it() -> None:
    bench = FakeBench([(0.0, 0.0), (0.009, 0.0), (-0.002, 0.0)])
    made = settled(bench)
    assert bench.made == [[SHARED]] and made.files == [SHARED]
    assert [(row["scales"], row["why"]) for row in made.rows()] == [("shared", None)] * 3
    assert [row["isr"] for row in made.rows()] == [str(plan) for plan in PLANS]
    assert made.rows()[0]["median_ms"] == {"float": 30.0, "int8": 15.0} and made.rows()[0]["speedup"] == 2.0
    check_levels(made.rows(), GATE, ALLOWED, {})


def test_a_level_that_fails_gets_its_own_and_no_other_does() -> None:
    bench = FakeBench([(0.001, 9.0), (0.05, 0.004), (0.002, 9.0)])
    made = settled(bench)
    own = Path(f"ptq-{PLANS[1]}.safetensors")
    assert bench.made == [[SHARED], [SHARED, own]] and made.files == [SHARED, own]
    assert bench.measured[6:] == [(1, "int8")]
    rows = made.rows()
    assert [row["scales"] for row in rows] == ["shared", "own", "shared"]
    assert rows[1]["miou_drop"] == pytest.approx(0.004) and rows[1]["miou_shared"] == pytest.approx(0.55)
    assert (
        rows[1]["why"]
        == "with one set of scales for all levels it lost 0.0500 mIoU; quant.max_miou_drop is 0.01"
    )
    check_levels(rows, GATE, ALLOWED, {})


def test_a_level_that_fails_with_its_own_scales_too_is_named() -> None:
    rows = settled(FakeBench([(0.0, 0.0), (0.0, 0.0), (0.05, 0.03)])).rows()
    report = {"levels": rows}
    with pytest.raises(
        GateFailed, match=r"level 2 \(ISR 2,2,1,1-2,2,2\) lost 0\.0300 mIoU in INT8, with own scales"
    ) as caught:
        check_levels(rows, GATE, ALLOWED, report)
    assert caught.value.report is report


def test_one_level_has_nothing_to_gain() -> None:
    bench = FakeBench([(0.05, 0.0)])
    assert settled(bench).levels[0].drop == pytest.approx(0.05)
    assert bench.made == [[SHARED]]
