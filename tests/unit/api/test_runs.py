"""A training and what is made of it, call by call, on drawn scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgeseg
from edgeseg.api import Run
from edgeseg.errors import DataError, RecipeError
from edgeseg.specs import IsrPlan
from locations import RECIPES

RECIPE = RECIPES / "edaformer_nano_synthetic_int8.yaml"
SMALL = {"crop_hw": [64, 64]}
PLANS = ("1,1,1,1-1,1,1", "2,2,1,1-2,2,2")


def test_sections_change_a_recipe_and_nothing_else() -> None:
    plain, steps = edgeseg.load_recipe(RECIPE), {"steps": 7, "warmup_steps": 2}
    changed = edgeseg.load_recipe(RECIPE, train=steps, export={"size_hw": [64, 96]}, quant={"qat": None})
    assert (changed.train.steps, changed.train.warmup_steps, changed.export.size_hw) == (7, 2, (64, 96))
    assert changed.quant is not None and changed.quant.qat is None
    kept = {name: getattr(plain, name) for name in ("train", "export", "quant")}
    assert changed.model_copy(update=kept) == plain
    assert edgeseg.load_recipe(changed) is changed
    assert edgeseg.load_recipe(changed, train={"steps": 9}).train.steps == 9
    with pytest.raises(RecipeError, match="stepps"):
        edgeseg.load_recipe(RECIPE, train={"stepps": 7})


def test_what_a_run_is(tmp_path: Path) -> None:
    named = edgeseg.open_run("edaformer_nano_synthetic")
    assert (named.folder, named.checkpoint.name) == (
        Path("runs/edaformer_nano_synthetic"),
        "best.safetensors",
    )
    assert (named.miou, named.curve(), named.quantized) == (None, [], ())
    (tmp_path / "recipe.yaml").write_text(RECIPE.read_text())
    rows = [{"step": 4, "loss": 2.0}, {"step": 4, "miou": 0.25}, {"step": 8, "miou": 0.2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1')
    for name in ("quantized-2,2,1,1-2,2,2", "quantized"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    run = edgeseg.open_run(tmp_path, data="~/data")
    assert (run.folder, run.miou, run.curve()) == (tmp_path, 0.25, rows)
    assert [path.name for path in run.quantized] == [
        "quantized.safetensors",
        "quantized-2,2,1,1-2,2,2.safetensors",
    ]
    assert run.data == Path.home() / "data"


def test_data_that_nobody_named() -> None:
    run = edgeseg.open_run("edaformer_nano_synthetic")
    for call in (run.search_isr, run.quantize, run.sensitivity):
        with pytest.raises(RecipeError, match="where its data lie") as caught:
            call()
        assert "data=" in caught.value.hint


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_text("no weights")
    with pytest.raises(DataError):
        edgeseg.open_run(tmp_path / "best.safetensors")


@pytest.mark.slow
def test_from_a_recipe_to_masks(tmp_path: Path) -> None:
    run = edgeseg.train(
        RECIPE,
        data=tmp_path,
        out=tmp_path / "run",
        device="cpu",
        workers=0,
        augment=SMALL,
        train={"steps": 8, "batch_size": 4, "warmup_steps": 1, "val_every": 8, "checkpoint_every": 8},
        export={"size_hw": [64, 64], "mask_stride": 4},
        quant={"qat": None, "max_miou_drop": 1.0},
    )
    assert isinstance(run, Run) and run.miou == pytest.approx(run.result.miou) and run.result.step == 8
    found = run.search_isr(levels=2, limit=2, rounds=2, strategy="presets", plans=(IsrPlan.parse(PLANS[1]),))
    assert found.levels and (tmp_path / "run" / "isr" / "plan.json").is_file()
    int8 = run.quantize(levels=PLANS, workers=0, threads=1)
    assert int8.checkpoint in run.quantized
    model = run.export(tmp_path / "street.edgeseg", levels=PLANS)
    assert model.engines == () and "level 0 of 2" in repr(model)
    model.build(threads=1)
    assert {row.level for row in model.engines} == {0, 1}
    measured = model.evaluate(data=tmp_path, limit=4)
    assert 0 <= measured.miou <= 1 and measured.to_json()["engine"]["miou"] == pytest.approx(measured.miou)
    assert [one.to_json()["precision"] for one in model.parity()][:2] == ["float", "int8"]
    results = list(model.stream("synthetic://64x64?frames=60", deadline_ms=0.001))
    assert len(results) == 60 and {one.level for one in results} <= {0, 1}
    reopened = edgeseg.open_run(tmp_path / "run", data=tmp_path)
    assert reopened.recipe == run.recipe and reopened.miou == run.miou
