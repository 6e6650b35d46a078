"""edgeseg calib sweep and edgeseg sensitivity on a small model with real quantizers and engines, and what is
refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg.checkpoints.file import save_checkpoint
from edgeseg.cli.main import run
from edgeseg.models import build_model
from edgeseg.recipe.load import dump_recipe, load_recipe
from edgeseg.synthetic.scene import LABELS

QUANT = (
    "{calibration: {images: CALIB, method: max}, attention: float, min_coverage: 0.0, max_miou_drop: 0.0,"
    " qat: null}"
)


def run_folder(folder: Path, quant: str | None = QUANT) -> Path:
    """What training leaves, with fresh weights, and a calibration set of four images."""
    folder.mkdir()
    calib = folder / "four.yaml"
    assert (
        run(
            [
                "calib",
                "make",
                "edaformer_nano_synthetic",
                "--data-root",
                ".",
                "--n",
                "4",
                "--candidates",
                "8",
                "-o",
                str(calib),
            ]
        )
        == 0
    )
    sets = ("export.size_hw=[64, 64]", "export.mask_stride=4", "augment.crop_hw=[64, 64]", "model.options={}")
    section = "null" if quant is None else quant.replace("CALIB", str(calib))
    (folder / "recipe.yaml").write_text(
        dump_recipe(load_recipe("edaformer_nano_synthetic", (*sets, f"quant={section}")))
    )
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


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_methods_layers_and_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run")
    capsys.readouterr()
    data = ["--data-root", "."]
    assert (
        run(["calib", "sweep", str(folder), *data, "--limit", "1", "--methods", "entropy,max", "--json"]) == 0
    )
    swept = document(capsys)
    assert {row["method"] for row in swept["methods"]} == {"max", "entropy"} and swept["images"] == 1
    by_method = {row["method"]: row for row in swept["methods"]}
    assert by_method["max"]["clipped_share"] == 0.0 < by_method["entropy"]["clipped_share"]
    assert all(10 < row["sqnr_db"] < 60 for row in swept["methods"])

    sensitivity = ["sensitivity", str(folder), *data, "--limit", "1", "--json"]
    assert run([*sensitivity, "--budget", "--budget-limit", "1", "--rounds", "2"]) == 0
    first = document(capsys)
    assert first["measured_before"] == 0 and first["layers"][0]["noise"] >= first["layers"][-1]["noise"]
    assert first["int8_sqnr_db"] == pytest.approx(by_method["max"]["sqnr_db"])
    assert not any(row["kind"] == "Product" for row in first["layers"])
    budget = first["budget"]
    assert budget["drop"] <= 0.0 and set(budget["keep_float"]) <= {row["layer"] for row in first["layers"]}
    assert {"float", "int8"} <= set(budget["times"]["engines"])
    assert ("budget" in budget["times"]["engines"]) == bool(budget["reverted"])
    assert {path.name for path in (folder / "sensitivity").iterdir()} >= {
        "report.html",
        "sensitivity.png",
        "sensitivity.json",
    }

    kept = json.dumps(budget["keep_float"])
    line = [*sensitivity, "--set", f"quant.keep_float={kept}", "--rounds", "0"]
    assert run(line) == 0
    second = document(capsys)
    assert second["measured_before"] == 0
    assert not {row["layer"] for row in second["layers"]} & set(budget["keep_float"])
    assert run(line) == 0 and document(capsys)["measured_before"] == 1


@pytest.mark.parametrize(
    "line,code,said",
    [
        (["sensitivity"], 2, "has quant: null"),
        (["calib", "sweep"], 2, "has quant: null"),
        (["calib", "sweep", "--methods", "max,median"], 2, "no calibration method is named 'median'"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str], code: int, said: str
) -> None:
    folder = run_folder(tmp_path / "run", quant=None)
    capsys.readouterr()
    assert run([*line, str(folder), "--data-root", "."]) == code
    shown = capsys.readouterr().err
    assert said in shown and "hint:" in shown
    assert not (folder / "sensitivity").exists()
