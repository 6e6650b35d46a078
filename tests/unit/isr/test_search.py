"""The search on engines whose accuracy and time are known by heart, on a scripted clock."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.contracts import NoProgress, Session
from edgeseg.data.subset import Subset
from edgeseg.devices.probe import Fingerprint
from edgeseg.errors import BuildError, DataError, GateFailed, RecipeError, Unsupported
from edgeseg.isr import measure
from edgeseg.isr.measure import SITTING, WARMUP, Built, PlanMeter
from edgeseg.isr.plans import PlanSpace, load_levels
from edgeseg.isr.search import SearchOptions, SearchResult, search_plans, seeds_of
from edgeseg.journal import Journal
from edgeseg.recipe.schema import Choose
from edgeseg.specs import ImageSpec, ImageU8, IsrPlan, MaskU8, Program
from edgeseg.testing.fakes import FakeSession
from halves import LABELS, SIZE_HW, Data

SPACE = PlanSpace(((1, 2, 4), (1, 2)), ((1, 2, 4),), SIZE_HW)
FACTS: dict[str, Any] = {
    "recipe": "fake",
    "arch": "fake",
    "checkpoint_sha256": "ab" * 32,
    "size_hw": list(SIZE_HW),
    "mask_stride": 1,
    "precision": "float",
}
SAVED_MS = (12.0, 3.0, 1.0)
LOST_COLUMNS = (2, 1, 4)
"""By stage, for each raise of its multiplier: time saved of 40 ms, and columns of 64 that are then wrong."""


def raises(plan: IsrPlan) -> list[int]:
    """How often each stage's multiplier was raised."""
    return [
        choices.index(m) for choices, m in zip(SPACE.choices, (*plan.encoder, *plan.decoder), strict=True)
    ]


class FakeEngines:
    """Engines whose time passes on `now_s` and whose answers are wrong in as many columns as the plan costs.

    Args:
        jitter: share by which times vary from call to call.
        drift: share by which the machine slows down with each call.
        fails_after: inferences until the device vanishes.
    """

    def __init__(
        self, space: PlanSpace = SPACE, jitter: float = 0.0, drift: float = 0.0, fails_after: int = 10**9
    ) -> None:
        self.space = space
        self.device = Fingerprint("fake", "1.0", "x86_64", "toaster", (), "Linux")
        self.identity: Mapping[str, Any] = {"checkpoint": "ab"}
        self.options: Mapping[str, Any] = {"threads": 1}
        self.built: list[IsrPlan] = []
        self.calls: list[IsrPlan] = []
        self.open_now = self.open_most = 0
        self.now_s = 0.0
        self._jitter, self._drift, self._left = jitter, drift, fails_after
        self._random = random.Random(3)

    def clock(self) -> float:
        return self.now_s

    def build(self, plan: IsrPlan, folder: Path) -> Built:
        self.built.append(plan)
        return Built(Program(folder / "p.onnx", ImageSpec(SIZE_HW), LABELS, 1, plan, "float", "fake"), [])

    def open(self, built: Built) -> Session:
        engines, plan = self, built.program.isr
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)

        class Opened(FakeSession):
            def close(self) -> None:
                engines.open_now -= not self.closed
                super().close()

        return Opened(built.program, lambda image: self.answer(plan, image))

    def answer(self, plan: IsrPlan, image: ImageU8) -> MaskU8:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("device lost")
        self.calls.append(plan)
        saved_ms = sum(count * ms for count, ms in zip(raises(plan), SAVED_MS, strict=True))
        slower = (1 + self._drift) ** len(self.calls) * (1 + self._jitter * self._random.random())
        self.now_s += (40.0 - saved_ms) / 1000 * slower
        mask: MaskU8 = (image[..., 0] == 200).astype(np.uint8)
        wrong = sum(count * columns for count, columns in zip(raises(plan), LOST_COLUMNS, strict=True))
        mask[:, :wrong] ^= 1
        return mask

    def macs(self, plan: IsrPlan) -> int:
        return 1000 - 10 * sum(raises(plan))


def run(
    out: Path,
    engines: FakeEngines,
    rule: Choose | None = None,
    progress: NoProgress | None = None,
    **options: Any,
) -> SearchResult:
    facts, float_engines = {**FACTS, **options.pop("facts", {})}, options.pop("float_engines", None)
    chosen = SearchOptions(**{"rounds": 6, **options})
    seeds = seeds_of(engines.space, engines.space.base, chosen)
    return search_plans(
        engines,
        Subset(Data()),
        seeds,
        rule or Choose(max_miou_drop=0.07),
        out,
        chosen,
        facts,
        progress or NoProgress(),
        clock=engines.clock,
        float_engines=float_engines,
    )


def rows(result: SearchResult) -> dict[str, dict[str, Any]]:
    return {row["plan"]: row for row in result.table["candidates"]}


@pytest.fixture(autouse=True)
def _no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; one test draws."""
    if request.node.name != "test_files_that_are_left":
        monkeypatch.setattr("edgeseg.isr.results.draw_pareto", lambda table: b"")


def test_the_grid_measures_every_plan_and_the_front_is_right(tmp_path: Path) -> None:
    engines = FakeEngines()
    result = run(tmp_path, engines, strategy="grid", levels=3)
    table = rows(result)
    assert len(table) == len(SPACE) == 18
    for plan in SPACE:
        saved_ms = sum(count * ms for count, ms in zip(raises(plan), SAVED_MS, strict=True))
        assert table[str(plan)]["ms"] == pytest.approx(40 - saved_ms, abs=0.01)
        assert table[str(plan)]["macs"] == engines.macs(plan)
    assert table["1,1-1"]["miou"] == table["1,1-1"]["ratio"] == 1
    assert table["1,1-2"]["miou"] == pytest.approx((28 / 32 + 32 / 36) / 2)
    assert table["1,1-2"]["drop"] == 1 - table["1,1-2"]["miou"]
    front = [row["plan"] for row in result.table["candidates"] if row["on_front"]]
    # A raise of the decoder's stage loses most and saves least: only what is fastest of all needs it.
    assert front == ["1,1-1", "1,2-1", "2,1-1", "2,2-1", "4,1-1", "4,2-1", "4,2-2", "4,2-4"]
    assert [str(level.plan) for level in result.levels] == ["2,1-1", "4,1-1", "4,2-4"]


def test_files_that_are_left(tmp_path: Path) -> None:
    result = run(tmp_path, FakeEngines(), strategy="grid", levels=2)
    assert json.loads((tmp_path / "table.json").read_text()) == result.table
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (
        plan["checkpoint_sha256"] == "ab" * 32
        and plan["size_hw"] == [32, 64]
        and plan["rule"] == {"max_miou_drop": 0.07}
    )
    assert [level["plan"] for level in plan["levels"]] == [str(level.plan) for level in result.levels]
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert all(f"<td>{plan}</td>" in page for plan in SPACE)
    assert "<script" not in page and "http" not in page and "data:image/png;base64," in page
    assert result.table["image_names"] == [f"val/{i}" for i in range(5)]


def test_rounds_are_interleaved_and_hold_the_base_twice(tmp_path: Path) -> None:
    engines = FakeEngines()
    plans = [SPACE.base, *SPACE.lighter(SPACE.base)]
    with PlanMeter(engines, Subset(Data()), Journal(tmp_path / "j"), rounds=6, clock=engines.clock) as meter:
        meter.measure(plans)
    timed = engines.calls[len(plans) * 5 :]
    size = len(plans) + 1
    turns = [timed[start : start + size] for start in range(0, len(timed), size)]
    assert len(turns) == 6 + WARMUP
    assert all(sorted(map(str, turn)) == sorted([*map(str, plans), str(SPACE.base)]) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert engines.open_now == 0 and engines.open_most == size


def test_few_engines_are_open_at_once(tmp_path: Path) -> None:
    engines = FakeEngines()
    run(tmp_path, engines, strategy="grid")
    assert engines.open_most == SITTING + 2
    assert engines.built.count(SPACE.base) == 1


def test_drift_leaves_ratios_alone(tmp_path: Path) -> None:
    """The machine becomes slower by half between the first and the last sitting."""
    still = run(tmp_path / "still", FakeEngines(), strategy="grid")
    drifting = run(tmp_path / "drifting", FakeEngines(drift=0.002), strategy="grid")
    assert rows(drifting)["4,1-4"]["median_ms"] > 1.4 * rows(still)["4,1-4"]["median_ms"]
    for plan, row in rows(still).items():
        assert rows(drifting)[plan]["ratio"] == pytest.approx(row["ratio"], rel=0.03)


def test_the_walk_follows_the_least_loss_per_time_saved(tmp_path: Path) -> None:
    result = run(tmp_path, FakeEngines(), max_plans=12)
    walked = [plan for plan, row in rows(result).items() if row["origin"] == "walk"]
    assert {"2,1-1", "1,2-1", "1,1-2"} <= rows(result).keys()
    assert "4,1-1" in walked
    assert len(rows(result)) <= 12
    grid = run(tmp_path / "grid", FakeEngines(), strategy="grid")
    best = [row["plan"] for row in grid.table["candidates"] if row["on_front"]][:5]
    assert set(best) <= {row["plan"] for row in result.table["candidates"] if row["on_front"]}


def test_a_second_search_measures_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first = run(tmp_path, FakeEngines(jitter=0.1))
    engines = FakeEngines(jitter=0.1)
    second = run(tmp_path, engines)
    assert engines.calls == [] and engines.built == []
    assert second.known == len(rows(first)) and first.known == 0
    assert second.table == first.table
    forced = FakeEngines()
    assert run(tmp_path, forced, force=True).known == 0
    assert forced.calls


def test_another_setting_is_measured_anew(tmp_path: Path) -> None:
    run(tmp_path, FakeEngines(), strategy="presets", plans=(IsrPlan((2, 1), (1,)),))
    for change in ({"identity": {"checkpoint": "cd"}}, {"options": {"threads": 2}}):
        engines = FakeEngines()
        vars(engines).update(change)
        assert run(tmp_path, engines, strategy="presets", plans=(IsrPlan((2, 1), (1,)),)).known == 0


def test_times_of_another_power_mode_are_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = (IsrPlan((2, 1), (1,)),)
    calls = []
    for mode in ("15W (0)", "MAXN (2)", "MAXN (2)"):
        monkeypatch.setattr(measure, "clocks_here", lambda mode=mode: {"power_mode": mode})
        engines = FakeEngines()
        run(tmp_path, engines, strategy="presets", plans=plans)
        calls.append(len(engines.calls))
    assert calls[0] > calls[1] > calls[2] == 0, "the second time, accuracy is known"


def test_int8_is_told_beside_the_float_base_and_measured_apart_from_float(tmp_path: Path) -> None:
    """The two precisions share a journal and nothing of what is in it."""

    class Int8Engines(FakeEngines):
        """Wrong in four columns more than float."""

        def answer(self, plan: IsrPlan, image: ImageU8) -> MaskU8:
            mask = super().answer(plan, image)
            mask[:, 60:] ^= 1
            return mask

    def int8() -> Int8Engines:
        engines = Int8Engines()
        engines.identity = {"checkpoint": "ab", "quantized": "cd", "precision": "int8"}
        return engines

    facts = {"precision": "int8", "quantized_sha256": "cd" * 32, "calibrated_at": "1,1-1"}
    beside = FakeEngines()
    result = run(
        tmp_path,
        int8(),
        strategy="presets",
        facts=facts,
        float_engines=beside,
        plans=tuple(SPACE.lighter(SPACE.base)),
    )
    base = rows(result)["1,1-1"]
    assert result.table["float_base_miou"] == 1.0 > base["miou"] and base["drop"] == 0.0
    assert set(beside.calls) == {SPACE.base} and len(beside.calls) == 5
    assert [level.precision for level in load_levels(tmp_path / "plan.json")] == ["int8"]
    assert "the float base plan has mIoU 100.00 %" in (tmp_path / "report.html").read_text()

    again, beside = int8(), FakeEngines()
    assert (
        run(tmp_path, again, strategy="presets", facts=facts, float_engines=beside).table["float_base_miou"]
        == 1.0
    )
    assert not again.calls and not beside.calls
    floats = FakeEngines()
    assert run(tmp_path, floats, strategy="presets").table["candidates"][0]["miou"] == 1.0
    assert floats.calls.count(SPACE.base) >= 6, "its time was not measured"


def test_two_searches_on_a_noisy_machine_agree_up_to_the_stated_noise(tmp_path: Path) -> None:
    searches = []
    for seed in (1, 2):
        engines = FakeEngines(jitter=0.2)
        engines._random.seed(seed)
        searches.append(run(tmp_path / str(seed), engines, strategy="grid", rounds=20))
    one, two = searches
    noise_ms = max(s.table["noise_ms"] for s in searches)
    assert 0 < noise_ms < 4
    for plan in (row["plan"] for row in one.table["candidates"] if row["on_front"]):
        beside = [
            r for r in two.table["candidates"] if r["on_front"] and r["miou"] >= rows(one)[plan]["miou"]
        ]
        assert min(r["ms"] for r in beside) <= rows(one)[plan]["ms"] + 2 * noise_ms


class Interrupt(NoProgress):
    """Presses Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        self.left, self.said = after, list[str]()

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("after", [60, 300, 600])
def test_a_stopped_search_continues_and_ends_as_if_it_had_not_been_stopped(
    tmp_path: Path, after: int
) -> None:
    stopped, progress = FakeEngines(), Interrupt(after)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stopped, progress=progress)
    assert "continues from there" in progress.said[-1]
    assert stopped.open_now == 0
    again, whole = FakeEngines(), FakeEngines()
    parts = run(tmp_path / "parts", again)
    assert rows(parts).keys() == rows(run(tmp_path / "whole", whole)).keys()
    assert len(again.calls) < len(whole.calls)
    assert [level.plan for level in parts.levels] == [
        level.plan for level in run(tmp_path / "whole", whole).levels
    ]


def test_a_device_that_vanishes_is_a_clear_error_and_the_cache_is_kept(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"the engine of plan \S+ failed: device lost") as caught:
        run(tmp_path, FakeEngines(fails_after=40), strategy="grid")
    assert "continues" in caught.value.hint
    kept = Journal(tmp_path / "search.jsonl").rows
    assert sum("miou" in row for row in kept) == 8
    engines = FakeEngines()
    result = run(tmp_path, engines, strategy="grid")
    assert len(rows(result)) == 18
    evaluated = [plan for plan in SPACE if engines.calls.count(plan) >= 5 + 6 + WARMUP]
    assert len(evaluated) == 18 - 8 + 1  # the base is in every sitting


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    first = run(tmp_path, FakeEngines(), strategy="grid")
    path = tmp_path / "search.jsonl"
    path.write_bytes(path.read_bytes() + b'{"plan": "1,1-1", "mi')
    assert run(tmp_path, FakeEngines(), strategy="grid").table == first.table
    assert path.read_bytes().endswith(b"}\n")
    for foreign in ("no json\n", "5\n", '{"step": 1}\n'):
        path.write_text(foreign)
        with pytest.raises(DataError, match="not what a search or a sweep wrote") as caught:
            run(tmp_path, FakeEngines(), strategy="grid")
        assert "--force" in caught.value.hint


def test_a_rule_that_nothing_satisfies_leaves_the_table_and_no_plan(tmp_path: Path) -> None:
    run(tmp_path, FakeEngines(), strategy="grid")
    assert (tmp_path / "plan.json").exists()
    with pytest.raises(GateFailed, match=r"latency_ms 0.5: the fastest, 4,2-4, takes 11.0 ms"):
        run(tmp_path, FakeEngines(), Choose(latency_ms=0.5), strategy="grid")
    assert not (tmp_path / "plan.json").exists()
    assert json.loads((tmp_path / "table.json").read_text())["rule"] == {"latency_ms": 0.5}


def test_what_cannot_be_searched_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the grid has 18 plans, more than --max-plans 10") as caught:
        seeds_of(SPACE, SPACE.base, SearchOptions(strategy="grid", max_plans=10))
    assert "--max-plans 18" in caught.value.hint
    with pytest.raises(RecipeError, match="encoder stage 2 takes 1, 2, not 3"):
        seeds_of(SPACE, SPACE.base, SearchOptions(plans=(IsrPlan((1, 3), (1,)),)))
    with pytest.raises(RecipeError, match="no search named 'random'"):
        seeds_of(SPACE, SPACE.base, SearchOptions(strategy="random"))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="3 plans are named"):
        seeds_of(SPACE, SPACE.base, SearchOptions(plans=tuple(SPACE.lighter(SPACE.base))[:2], max_plans=2))
    with pytest.raises(Unsupported, match="no inference spatial reduction"):
        seeds_of(PlanSpace((), (), (64, 64)), IsrPlan((), ()), SearchOptions())
