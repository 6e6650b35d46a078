"""edgeseg quantize on a small model with fresh weights: every stage, what is kept, what is stopped, what is
refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.cli.main import run
from edgeseg.contracts import NoProgress
from edgeseg.devices.integers import integers_here
from edgeseg.errors import GateFailed
from edgeseg.models import build_model
from edgeseg.pipeline import quantize as stage
from edgeseg.pipeline.quantize_engines import Bench
from edgeseg.recipe.load import dump_recipe, load_recipe
from edgeseg.synthetic.scene import LABELS

SETS = (
    "export.size_hw=[64, 64]",
    "export.mask_stride=4",
    "augment.crop_hw=[64, 64]",
    "quant.max_miou_drop=1.0",
    "quant.qat.steps=4",
    "quant.qat.warmup_steps=1",
    "quant.qat.batch_size=2",
    "quant.qat.val_every=4",
)


def run_folder(folder: Path, *changes: str) -> Path:
    """What training leaves, with fresh weights."""
    folder.mkdir()
    recipe = load_recipe("edaformer_nano_synthetic_int8", (*SETS, *changes))
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    torch.manual_seed(0)
    weights = build_model("edaformer_nano", LABELS.num_classes).state_dict()
    facts = {
        "kind": "weights",
        "arch": "edaformer_nano",
        "num_classes": LABELS.num_classes,
        "labels": asdict(LABELS),
    }
    save_checkpoint(folder / "best.safetensors", weights, facts)
    return folder


def quantize(folder: Path, *args: object) -> int:
    return run(["quantize", str(folder), "--data-root", ".", "--workers", "0", *map(str, args)])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_one_command_from_checkpoint_to_measured_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelopt", reason="the quant extra is not installed")
    folder = run_folder(tmp_path / "run")
    assert quantize(folder, "--json") == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert made["kept"] == []
    assert set(made["accuracy"]) >= {"float", "ptq"} and made["best"] in made["accuracy"]
    assert all(
        set(one["classes"]) == set(LABELS.names) and one["images"] == 64 for one in made["accuracy"].values()
    )
    assert {row["precision"] for row in made["engines"]} == {"float", "int8"}
    assert made["coverage"]["share"] >= 0.7 and made["speedup"] > 0
    assert [
        row for row in made["coverage"]["layers"] if row["precision"] == "float" and not row["reason"]
    ] == []
    delivered = load_checkpoint(folder / "quantized.safetensors")
    assert delivered.meta["kind"] == "quantized" and (delivered.meta["qat"] is None) == (
        made["best"] == "ptq"
    )
    assert {"quant.json", "quant.png", "ptq.safetensors"} <= {
        path.name for path in (folder / "quant").iterdir()
    }
    assert run(["bundle", "verify", made["bundle"], "--run"]) == 0
    capsys.readouterr()

    assert quantize(folder, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["kept"] == ["calibration", "training", "engines"]
    assert {**again, "kept": []} == made

    before = contents(folder)

    def failed(*args: Any) -> None:
        raise GateFailed("lost too much", hint="another method", report={})

    with monkeypatch.context() as patch:
        patch.setattr(stage, "check_drop", failed)
        assert quantize(folder, "--ptq-only", "--set", "quant.calibration.method=mse") == 5
    assert "lost too much" in capsys.readouterr().err
    after = contents(folder)
    outside = {name for name in before if not name.startswith("quant/")}
    assert {name: after[name] for name in outside} == {name: before[name] for name in outside}
    assert {name for name in after if not name.startswith("quant/")} == outside


@pytest.mark.slow
def test_a_stopped_training_continues_and_a_gate_on_coverage_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelopt", reason="the quant extra is not installed")
    folder = run_folder(tmp_path / "run")
    assert quantize(folder, "--set", "quant.min_coverage=1.0") == 5
    told = capsys.readouterr().err
    assert told.index(integers_here().outlook) < told.index("quant.min_coverage asks for 100.0%"), (
        "before the work"
    )
    assert not (folder / "quant" / "ptq.safetensors").exists()
    assert quantize(folder, "--set", "quant.calibration.images=camvid_train_64") == 3
    assert "camvid" in capsys.readouterr().err
    assert not (folder / "quant" / "ptq.safetensors").exists()

    class Stop(NoProgress):
        """Presses Ctrl-C during the first step."""

        def __enter__(self) -> Stop:
            return self

        def __exit__(self, *error: object) -> None: ...

        def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
            if task == "train" and "loss" in figures:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("edgeseg.cli.render.RichProgress", Stop)
        assert quantize(folder) == 130
    assert not (folder / "quantized.safetensors").exists()
    assert [path.name for path in (folder / "quant" / "qat" / "state").iterdir()][-1].startswith(
        "step_0000000"
    )
    capsys.readouterr()

    class Reached(Exception):
        pass

    def engines(*args: Any, **options: Any) -> Any:
        raise Reached

    monkeypatch.setattr(stage, "Bench", engines)
    with pytest.raises(Reached):
        quantize(folder)
    told = capsys.readouterr().err
    assert "step 4: mIoU" in told and "step 0: mIoU" not in told
    with pytest.raises(Reached):
        quantize(folder, "--set", "quant.qat.lr=5e-5")
    assert "the earlier training is kept aside" in capsys.readouterr().err
    assert (folder / "quant" / "qat.1" / "best.safetensors").is_file()


@pytest.mark.slow
def test_levels_share_their_scales_but_one_that_loses_too_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelopt", reason="the quant extra is not installed")
    folder = run_folder(tmp_path / "run", "quant.max_miou_drop=0.1")
    base, fast = "1,1,1,1-1,1,1", "2,2,1,1-2,2,2"
    real = Bench.accuracy

    def scripted(bench: Bench, bundle: Any, precision: Any, level: int = 0) -> dict[str, Any]:
        """Level 1 loses 0.3 with the scales of all levels."""
        told = bundle.report("quantization")["levels"][level]
        lost = 0.3 if (level, precision, told["calibrated_at"]) == (1, "int8", base) else 0.0
        return {**real(bench, bundle, precision, level), "miou": 0.5 - lost}

    monkeypatch.setattr(Bench, "accuracy", scripted)
    assert quantize(folder, "--ptq-only", "--level", base, "--level", fast, "--json") == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert made["isr"] == base and [row["scales"] for row in made["levels"]] == ["shared", "own"]
    assert made["checkpoints"] == ["quantized.safetensors", f"quantized-{fast}.safetensors"]
    assert quantize(folder, "--ptq-only", "--level", base, "--level", fast) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "calibration, engines" in shown
        and "with one set of scales for all levels it lost 0.3000 mIoU" in shown
    )

    shared, own = (load_checkpoint(folder / name) for name in made["checkpoints"])
    assert shared.meta["calibration"]["isr"] == [base, fast] and own.meta["calibration"]["isr"] == [fast]
    assert shared.tensors.keys() == own.tensors.keys()
    differing = {name for name in own.tensors if not torch.equal(own.tensors[name], shared.tensors[name])}
    activations = {
        name for name in own.tensors if name.endswith("_scale") and not name.endswith(".weight_scale")
    }
    assert differing and differing <= activations, "weights and their scales are the same"
    assert all(own.tensors[name] <= shared.tensors[name] for name in differing), (
        "the largest value of one plan, and of both"
    )

    out = tmp_path / "again.edgeseg"
    assert run(["export", str(folder), "-o", str(out), "--level", base, "--level", fast]) == 0
    assert run(["bundle", "show", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "level 0, INT8 activation scales: one set, calibrated at 2 plans" in shown
    assert (
        "level 1, INT8 activation scales: its own: with one set of scales for all levels it lost 0.3000 mIoU"
        in shown
    )
    assert quantize(folder, "--ptq-only", "--set", "quant.max_miou_drop=0.5") == 0
    assert sorted(path.name for path in folder.glob("quantized*")) == ["quantized.safetensors"]


def test_without_modelopt_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "modelopt", None)
    before = contents(folder)
    assert quantize(folder) == 4
    assert "edgeseg[quant]" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run")
    assert quantize(folder, "--checkpoint", tmp_path / "none.safetensors") == 3
    assert "no such checkpoint" in capsys.readouterr().err
