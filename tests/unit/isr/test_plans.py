"""edgeseg.isr.plans: what is legal, which plans have names, the file of chosen levels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import DataError, RecipeError
from edgeseg.isr.engines import plan_space
from edgeseg.isr.plans import Level, PlanSpace, load_levels, parse_plan
from edgeseg.models import build_model
from edgeseg.specs import IsrPlan

FULL = PlanSpace(((1, 2, 4),) * 4, ((1, 2, 4),) * 3, (384, 512))
ENCODER_ONLY = PlanSpace(((1, 2, 4, 8),) * 4, (), (256, 256))
NARROW = PlanSpace(((1, 2), (1, 2), (1,), (1,)), ((1, 2),) * 3, (64, 64))

stage = st.lists(st.sampled_from([2, 3, 4, 8]), unique=True).map(lambda rest: (1, *sorted(rest)))
choices = st.lists(stage, max_size=4).map(tuple)
spaces = st.builds(PlanSpace, choices, choices, st.just((64, 64))).filter(lambda space: bool(space.choices))


def test_the_paper_s_plans_are_presets_where_they_are_legal() -> None:
    assert [str(plan) for plan in FULL.presets()] == [
        "1,1,1,1-2,2,2",
        "1,1,1,1-4,4,4",
        "2,1,1,1-1,1,1",
        "2,1,1,1-2,2,2",
        "2,2,1,1-2,2,2",
        "2,2,2,1-2,2,2",
        "2,2,2,2-2,2,2",
        "4,4,4,4-4,4,4",
    ]
    assert [str(plan) for plan in ENCODER_ONLY.presets()] == [
        "2,1,1,1",
        "2,2,1,1",
        "2,2,2,1",
        "2,2,2,2",
        "4,4,4,4",
    ]
    assert [str(plan) for plan in NARROW.presets()] == [
        "1,1,1,1-2,2,2",
        "2,1,1,1-1,1,1",
        "2,1,1,1-2,2,2",
        "2,2,1,1-2,2,2",
    ]


@given(spaces)
def test_the_grid_is_every_legal_plan_once(space: PlanSpace) -> None:
    plans = list(space)
    assert len(plans) == len(set(plans)) == len(space)
    assert all(plan in space for plan in plans)
    assert plans[0] == space.base and space.base.is_base


@given(spaces, st.data())
def test_neighbours_are_legal_and_mutual(space: PlanSpace, data: st.DataObject) -> None:
    plan = data.draw(st.sampled_from(list(space)[:200]))
    lighter = space.lighter(plan)
    assert set(lighter) <= set(space.neighbours(plan))
    for beside in space.neighbours(plan):
        pairs = zip((*plan.encoder, *plan.decoder), (*beside.encoder, *beside.decoder), strict=True)
        assert beside in space and sum(a != b for a, b in pairs) == 1
        assert plan in space.neighbours(beside)
    assert (not lighter) == (plan == list(space)[-1])


@pytest.mark.parametrize(
    "plan,told",
    [
        (IsrPlan((3, 1, 1, 1), (1, 1, 1)), "encoder stage 1 takes 1, 2, 4, not 3"),
        (IsrPlan((1, 1, 1, 1), (1, 1, 8)), "decoder stage 3 takes 1, 2, 4, not 8"),
        (IsrPlan((1, 1, 1), (1, 1, 1)), "3 encoder multipliers, the model 4"),
        (IsrPlan((1, 1, 1, 1), ()), "0 decoder multipliers, the model 3"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_stage(plan: IsrPlan, told: str) -> None:
    assert plan not in FULL
    with pytest.raises(RecipeError, match=told) as caught:
        FULL.check(plan)
    assert "384x512" in str(caught.value)
    assert "without a remainder" in caught.value.hint


def test_every_legal_plan_runs_and_no_other() -> None:
    model = build_model("edaformer_nano", 3)
    space = plan_space(model, (64, 128))
    assert space.choices == ((1, 2),) * 7
    decoder_only = plan_space(build_model("edaformer_mobilenet_v2", 3), (64, 128))
    assert (decoder_only.encoder, decoder_only.decoder) == ((), ((1, 2),) * 3)
    for plan in decoder_only:
        assert IsrPlan.parse(str(plan)) == plan
    model.set_isr(IsrPlan((4, 1, 1, 1), (1, 1, 1)))
    with pytest.raises(ValueError, match="multiple"):
        model.check_size((64, 128))


@pytest.mark.parametrize("text", ["", "2", "2,x,1,1", "2,2,1,1-0,1,1", "1.5,1,1,1", "2;2;1;1"])
def test_text_that_is_no_plan(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        FULL.check(parse_plan(text))
    assert "multipliers" in caught.value.hint


def written(path: Path, **changes: object) -> Path:
    level = Level(IsrPlan((2, 2, 1, 1), (2, 2, 2)), 0.63, 41.2, 4_670_000_000)
    data = {
        "levels": [level.to_json()],
        "rule": {"knee": True},
        "checkpoint_sha256": "ab" * 32,
        "size_hw": [384, 512],
        **changes,
    }
    path.write_text(json.dumps(data))
    return path


def test_levels_come_back_as_they_were_written(tmp_path: Path) -> None:
    (level,) = load_levels(written(tmp_path / "plan.json"), checkpoint_sha256="ab" * 32, size_hw=(384, 512))
    assert level == Level(IsrPlan((2, 2, 1, 1), (2, 2, 2)), 0.63, 41.2, 4_670_000_000)
    (level,) = load_levels(
        written(tmp_path / "plan.json", levels=[replace(level, precision="int8").to_json()])
    )
    assert level.precision == "int8"


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"levels": []}, "no levels"),
        ({"levels": [{"plan": "2,2"}]}, "not the plan.json of a search: KeyError"),
        ({"levels": [{"plan": "x", "miou": 0, "ms": 0, "macs": 0}]}, "not the plan.json of a search"),
        ({"levels": 3}, "not the plan.json of a search"),
        ({"size_hw": None}, "not the plan.json of a search"),
        ({"checkpoint_sha256": "cd" * 32}, "measured with the checkpoint cdcdcdcdcdcd, this is abab"),
        ({"size_hw": [256, 256]}, "measured at 256x256 px, export.size_hw is 384x512"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_levels(
            written(tmp_path / "plan.json", **changes), checkpoint_sha256="ab" * 32, size_hw=(384, 512)
        )


def test_a_missing_or_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file") as caught:
        load_levels(tmp_path / "none.json")
    assert "edgeseg isr" in caught.value.hint
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(DataError, match=r"not the plan\.json"):
        load_levels(tmp_path / "text.json")
