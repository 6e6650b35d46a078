"""edgeseg isr on a small model: a search that is stopped and continued, levels, fine-tuning at a plan, what
is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg.checkpoints.file import save_checkpoint
from edgeseg.checkpoints.models import load_quantized, load_trained
from edgeseg.cli.main import run
from edgeseg.data.datasets import open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.data.subset import Subset
from edgeseg.isr import measure
from edgeseg.isr.plans import load_levels
from edgeseg.models import build_model
from edgeseg.recipe.load import dump_recipe, load_recipe
from edgeseg.recipe.schema import Calibration, Quant
from edgeseg.specs import IsrPlan
from edgeseg.synthetic.scene import LABELS, Scene

SETS = ("export.size_hw=[64, 64]", "export.mask_stride=4", "augment.crop_hw=[64, 64]", "train.batch_size=2")
SETTINGS = Quant(
    calibration=Calibration(images="none", method="max"), min_coverage=0.5, max_miou_drop=0.01, qat=None
)
PAPER = ["1,1,1,1-2,2,2", "2,1,1,1-1,1,1", "2,1,1,1-2,2,2", "2,2,1,1-2,2,2", "2,2,2,1-2,2,2", "2,2,2,2-2,2,2"]


def run_folder(folder: Path, arch: str = "edaformer_nano", *changes: str) -> Path:
    """What training leaves, with fresh weights."""
    folder.mkdir()
    recipe = load_recipe(
        "edaformer_nano_synthetic", (*SETS, f"model.arch={arch}", "model.options={}", *changes)
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    torch.manual_seed(0)
    weights = build_model(arch, LABELS.num_classes).state_dict()
    facts = {"kind": "weights", "arch": arch, "num_classes": LABELS.num_classes, "labels": asdict(LABELS)}
    facts["recipe"] = recipe.model_dump(mode="json")
    save_checkpoint(folder / "best.safetensors", weights, facts)
    return folder


def isr(folder: Path, *args: object) -> int:
    return run(["isr", str(folder), "--data-root", ".", "--limit", "2", "--rounds", "2", *map(str, args)])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    shown = capsys.readouterr()
    found: dict[str, Any] = json.loads(shown.out)
    return found


def test_a_search_is_stopped_and_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(tmp_path / "run")
    whole, left = measure.evaluate, iter(range(3))

    def stopped(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*args, **options)

    search = ("--search", "presets", "--levels", 2, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(measure, "evaluate", stopped)
        assert isr(folder, *search) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert len((folder / "isr" / "search.jsonl").read_text().splitlines()) == 3
    assert not (folder / "isr" / "table.json").exists()

    assert isr(folder, *search) == 0
    found = document(capsys)
    assert sorted(row["plan"] for row in found["candidates"] if row["origin"] == "preset") == PAPER
    assert len(found["candidates"]) == 7
    assert all(row["ms"] > 0 and 0 <= row["miou"] <= 1 for row in found["candidates"])
    macs = {row["plan"]: row["macs"] for row in found["candidates"]}
    assert macs["1,1,1,1-1,1,1"] > macs["2,2,1,1-2,2,2"] > macs["2,2,2,2-2,2,2"]
    levels = load_levels(
        folder / "isr" / "plan.json", checkpoint_sha256=found["checkpoint_sha256"], size_hw=(64, 64)
    )
    assert [str(level.plan) for level in levels] == [
        row["plan"] for number in range(2) for row in found["candidates"] if row["level"] == number
    ]

    assert isr(folder, "--search", "presets", "--levels", 2) == 0
    shown = capsys.readouterr().out
    assert "7 of 128 legal plans, 7 of them measured before" in shown
    assert "2,2,1,1-2,2,2" in shown and "level 0" in shown


@pytest.mark.slow
def test_a_checkpoint_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "recipe.yaml").unlink()
    assert (
        isr(folder / "best.safetensors", "--search", "presets", "--set", "export.size_hw=[32, 32]", "--json")
        == 0
    )
    found = document(capsys)
    assert (found["recipe"], found["size_hw"], Path(found["out"])) == (
        "edaformer_nano_synthetic",
        [32, 32],
        folder / "isr",
    )
    facts = {
        "kind": "weights",
        "arch": "edaformer_nano",
        "num_classes": LABELS.num_classes,
        "labels": asdict(LABELS),
    }
    save_checkpoint(
        tmp_path / "bare.safetensors", build_model("edaformer_nano", LABELS.num_classes).state_dict(), facts
    )
    assert isr(tmp_path / "bare.safetensors") == 3
    assert "holds no recipe" in capsys.readouterr().err


def test_the_greedy_search_goes_beyond_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", "edaformer_nano", "isr.decoder=[1, 1, 2]")
    assert (
        isr(
            folder, "--max-plans", 14, "--plan", "1,1,2,2-1,1,1", "--json", "--set", "isr.choose={knee: true}"
        )
        == 0
    )
    found = document(capsys)
    origins = {row["plan"]: row["origin"] for row in found["candidates"]}
    assert len(origins) <= 14
    assert (
        origins["1,1,2,2-1,1,1"] == "given"
        and origins["1,1,1,1-1,1,2"] == "recipe"
        and "walk" in origins.values()
    )
    assert found["rule"] == {"knee": True}
    assert (folder / "isr" / "pareto.png").exists() and (folder / "isr" / "report.html").exists()


def quantized(folder: Path) -> Path:
    """What quantization leaves in a run folder, calibrated at one plan on two scenes."""
    from edgeseg.checkpoints.int8_file import prepare, save_quantized
    from edgeseg.checkpoints.models import calibration_tensors, load_trained
    from edgeseg.int8.calibrate import calibrate

    recipe, path = load_recipe(folder / "recipe.yaml"), folder / "quantized.safetensors"
    trained = load_trained(recipe, folder / "best.safetensors")
    prepared = prepare(trained.model, trained.image, SETTINGS)
    images = [Scene(seed, recipe.export.size_hw).frame(0)[0] for seed in (1, 2)]
    report = calibrate(prepared.model, calibration_tensors(images, prepared.image), SETTINGS)
    save_quantized(
        path,
        prepared.model,
        arch=trained.arch,
        options={},
        labels=trained.labels,
        plan=trained.model.isr_plan,
        size_hw=recipe.export.size_hw,
        settings=SETTINGS,
        float_sha256=trained.sha256,
        calibration=report.to_json(),
        coverage={},
    )
    return path


@pytest.mark.slow
def test_a_search_through_int8_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("modelopt", reason="the quant extra is not installed")
    folder = run_folder(tmp_path / "run")
    file = quantized(folder)
    search = ("--search", "presets", "--levels", 2, "--precision", "int8", "--json")
    assert isr(folder, *search) == 0
    found = document(capsys)
    assert (
        found["out"].endswith("isr-int8") and found["precision"] == "int8" and len(found["candidates"]) == 7
    )
    assert found["quantized_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    recipe = load_recipe(folder / "recipe.yaml")
    subset = Subset(open_dataset(recipe.data, "val", Path()), 2)
    for row in found[
        "candidates"
    ]:  # the engine's accuracy is that of the model with this plan and the one set of scales
        reference = load_quantized(recipe, file, IsrPlan.parse(row["plan"])).reference(
            recipe.export.mask_stride
        )
        assert evaluate(reference.segment, subset).miou() == pytest.approx(row["miou"], abs=0.01)
    base = load_trained(recipe, folder / "best.safetensors").reference(recipe.export.mask_stride)
    assert evaluate(base.segment, subset).miou() == pytest.approx(found["float_base_miou"], abs=0.001)
    levels = load_levels(
        folder / "isr-int8" / "plan.json", checkpoint_sha256=found["checkpoint_sha256"], size_hw=(64, 64)
    )
    assert {level.precision for level in levels} == {"int8"}
    assert isr(folder, *search[:-1]) == 0
    assert "7 of them measured before" in capsys.readouterr().out
    with file.open("ab") as other:  # another file, by its hash; here one that is damaged
        other.write(b"\0")
    assert isr(folder, *search) == 3


def test_fine_tuning_at_a_plan_leaves_a_run_at_that_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", "edaformer_nano", "isr.finetune_steps=3")
    command = ["isr", str(folder), "--data-root", ".", "--finetune", "2,2,2,2-2,2,2", "--json"]
    assert run(command) == 0
    tuned = document(capsys)
    assert tuned["run_dir"].endswith("isr/finetune-2,2,2,2-2,2,2") and tuned["steps"] == 3
    assert tuned["miou_after"] != tuned["miou_before"]
    recipe = load_recipe(Path(tuned["run_dir"]) / "recipe.yaml")
    assert recipe.isr.plan() == IsrPlan((2, 2, 2, 2), (2, 2, 2))
    assert recipe.train.lr == pytest.approx(8e-4) and recipe.train.warmup_steps == 0
    assert run(command) == 0
    again = document(capsys)
    assert (again["miou_after"], again["steps"]) == (tuned["miou_after"], 3)


@pytest.mark.parametrize(
    "args,code,told,hint",
    [
        (["--plan", "3,1,1,1-1,1,1"], 2, "encoder stage 1 takes 1, 2, not 3", "without a remainder"),
        (["--plan", "4,4,4,4-4,4,4"], 2, "does not fit this model at 64x64 px", "export.size_hw"),
        (["--plan", "two"], 2, "'two' is no ISR plan", "e.g. 2,2,1,1-2,2,2"),
        (["--search", "grid"], 2, "the grid has 128 plans, more than --max-plans 64", "--max-plans 128"),
        (["--search", "random"], 2, "'random' is not one of", "--help"),
        (["--runtime", "onnxruntim"], 4, "no runtime named", "did you mean 'onnxruntime'?"),
        (["--finetune", "2,2,2,2-2,2,2"], 2, "limit, rounds cannot go with it", "--help"),
        (
            ["--precision", "int8"],
            3,
            "no such quantized checkpoint",
            "edgeseg quantize edaformer_nano_synthetic",
        ),
        (["--quantized", "some.safetensors"], 2, "--quantized names the weights of INT8 engines", "--help"),
        (["--checkpoint", "none.safetensors"], 3, "no such checkpoint", "edgeseg train"),
        (
            ["--set", "isr.choose={}"],
            2,
            "give exactly one of max_miou_drop, latency_ms, knee",
            "recipe schema",
        ),
        (["--set", "isr.choose={knee: true, latency_ms: 4}"], 2, "give exactly one of", "recipe schema"),
        (["--set", "model.arch=edaformer_t"], 3, "holds edaformer_nano, the recipe", "--checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, told: str, hint: str
) -> None:
    assert isr(run_folder(tmp_path / "run"), *args) == code
    shown = capsys.readouterr().err
    assert told in shown.partition("hint: ")[0]
    assert hint in shown.partition("hint: ")[2]


def test_a_model_without_isr_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", "segformer_mobile_nano", "isr={encoder: [], decoder: []}")
    assert isr(folder) == 4
    assert "no inference spatial reduction" in capsys.readouterr().err


def test_fine_tuning_needs_steps_and_a_plan_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run")
    command = ["isr", str(folder), "--data-root", ".", "--finetune"]
    assert run([*command, "2,2,2,2-2,2,2"]) == 2
    assert "isr.finetune_steps is 0" in capsys.readouterr().err
    assert run([*command, "4,1,1,1-1,1,1", "--set", "isr.finetune_steps=2"]) == 2
    assert "encoder stage 1 takes 1, 2, not 4" in capsys.readouterr().err
    crop = ("--set", "isr.finetune_steps=2", "--set", "augment.crop_hw=[96, 96]")
    assert run([*command, "2,2,2,2-2,2,2", *crop]) == 2
    assert (
        "96x96 px is not a multiple of 64 px on both sides, at the ISR plan in force"
        in capsys.readouterr().err
    )
