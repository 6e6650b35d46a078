"""From a checkpoint to a bundle of several ISR levels, and each of them measured and run, through the command
line.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeseg.bundle import open_bundle
from edgeseg.checkpoints.file import save_checkpoint
from edgeseg.checkpoints.models import load_trained
from edgeseg.cli.main import run
from edgeseg.models import build_model
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.synthetic.scene import LABELS
from golden_rule import fill

BASE, FAST = "1,1,1,1-1,1,1", "2,2,1,1-2,2,2"


def command(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    code = run([*map(str, args), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    document = json.loads(captured.out)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, with weights by rule."""
    folder = tmp_path_factory.mktemp("runs") / "nano"
    folder.mkdir()
    recipe = load_recipe(find_recipe("edaformer_nano_synthetic"))
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    model = fill(build_model(recipe.model.arch, LABELS.num_classes, **recipe.model.options))
    facts = {
        "kind": "weights",
        "arch": recipe.model.arch,
        "num_classes": LABELS.num_classes,
        "labels": {
            "names": LABELS.names,
            "palette_rgb": LABELS.palette_rgb,
            "ignore_index": LABELS.ignore_index,
        },
    }
    save_checkpoint(folder / "best.safetensors", model.state_dict(), facts)
    return folder


@pytest.fixture(scope="module")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "nano.edgeseg"
    assert run(["export", str(run_dir), "-o", str(out), "--level", BASE, "--level", FAST]) == 0
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied.edgeseg"))


def plan_file(run_dir: Path, path: Path, **changes: Any) -> Path:
    levels = [
        {"plan": FAST, "miou": 0.51, "ms": 4.5, "macs": 9},
        {"plan": "2,2,2,1-2,2,2", "miou": 0.5, "ms": 4.0, "macs": 8},
    ]
    digest = hashlib.sha256((run_dir / "best.safetensors").read_bytes()).hexdigest()
    document = {"levels": levels, "checkpoint_sha256": digest, "size_hw": [128, 128], **changes}
    path.write_text(json.dumps(document))
    return path


def test_golden_masks_are_torch_s_at_each_plan(bundle: Path, run_dir: Path) -> None:
    opened = open_bundle(bundle)
    recipe = opened.recipe()
    masks = []
    for level, plan in enumerate((BASE, FAST)):
        assert opened.manifest.levels[level].isr == plan
        program = opened.program(level)
        reference = load_trained(recipe, run_dir / "best.safetensors", program.isr).reference(
            program.mask_stride
        )
        frames = list(opened.golden(level))
        assert all((reference.infer(frame.image_rgb) == frame.mask).all() for frame in frames)
        masks.append([frame.mask for frame in frames])
    assert any((a != b).any() for a, b in zip(*masks, strict=True)), "the plans differ"
    parity = opened.report("parity")["levels"]
    assert [row["isr"] for row in parity] == [BASE, FAST]
    assert all(rung["passed"] for row in parity for rung in row["rungs"].values())


def test_build_verify_eval_and_run_at_a_level(
    bundle: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [engine["level"] for engine in command(capsys, "build", bundle)["engines"]] == [0, 1]
    assert len(command(capsys, "bundle", "verify", bundle, "--run")["mask_agreement"]) == 2
    shown = command(capsys, "bundle", "show", bundle)["levels"]
    assert [level["isr"] for level in shown] == [BASE, FAST]
    assert all(level["median_ms"] > 0 for level in shown)
    options = ("--data-root", ".", "--limit", 2, "--checkpoint", run_dir / "best.safetensors")
    measured = [command(capsys, "eval", bundle, "--level", level, *options) for level in (0, 1)]
    assert [(one["level"], one["isr"]) for one in measured] == [(0, BASE), (1, FAST)]
    assert all(abs(one["miou_drop"]) < 0.001 for one in measured)
    assert measured[0]["torch"] != measured[1]["torch"], "the reference is at the level's plan"
    clip = "synthetic://64x64@10?frames=2"
    assert command(capsys, "run", bundle, "--source", clip, "--level", 1)["frames"] == 2
    assert run(["eval", str(bundle), "--level", "2", "--data-root", "."]) == 6
    assert "its levels are 0 to 1" in capsys.readouterr().err


def test_levels_of_a_search(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = plan_file(run_dir, tmp_path / "plan.json"), tmp_path / "searched.edgeseg"
    assert command(capsys, "export", run_dir, "-o", out, "--levels", plan)["levels"] == [
        FAST,
        "2,2,2,1-2,2,2",
    ]
    assert command(capsys, "export", run_dir, "-o", out, "--levels", plan)["made"] is False
    levels = command(capsys, "bundle", "show", out)["levels"]
    assert [(level["miou"], level["macs"]) for level in levels] == [(0.51, 9), (0.5, 8)]


@pytest.mark.parametrize(
    ("levels", "code", "message"),
    [
        (["2,2"], 2, "2 encoder multipliers; this model has 4"),
        (["fast"], 2, "'fast' is no ISR plan"),
        ([BASE, BASE], 2, f"two levels at one ISR plan: {BASE}"),
        ([BASE, "8,1,1,1-1,1,1"], 2, "128x128 px is not a multiple of 256 px"),
    ],
)
def test_levels_that_do_not_fit(
    levels: list[str],
    code: int,
    message: str,
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [part for level in levels for part in ("--level", level)]
    assert run(["export", str(run_dir), "-o", str(tmp_path / "t.edgeseg"), *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_sha256": "0" * 64}, "was measured with the checkpoint"),
        ({"size_hw": [256, 256]}, "was measured at 256x256"),
        ({"levels": []}, "holds no levels"),
        ({"levels": [{"plan": FAST}]}, "is not the plan.json of a search"),
    ],
)
def test_a_search_of_something_else(
    changes: dict[str, Any], message: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_file(run_dir, tmp_path / "plan.json", **changes)
    assert run(["export", str(run_dir), "-o", str(tmp_path / "t.edgeseg"), "--levels", str(plan)]) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.edgeseg").exists()


def test_a_checkpoint_that_is_not_there(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_file(run_dir, tmp_path / "plan.json")
    assert (
        run(
            [
                "export",
                str(run_dir),
                "--levels",
                str(plan),
                "--checkpoint",
                str(tmp_path / "none.safetensors"),
            ]
        )
        == 3
    )
    assert "none.safetensors" in capsys.readouterr().err


def test_one_of_the_two_options(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_file(run_dir, tmp_path / "plan.json")
    assert run(["export", str(run_dir), "--levels", str(plan), "--level", BASE]) == 2
    assert "one of the two" in capsys.readouterr().err
