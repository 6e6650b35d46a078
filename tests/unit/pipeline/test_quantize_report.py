"""What a quantization says of itself: the gate, the speed-up, the table, the picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg.cli import render
from edgeseg.cli.quantize import _shown
from edgeseg.errors import GateFailed
from edgeseg.pipeline.quantize import Quantization
from edgeseg.pipeline.quantize_engines import check_drop, speedup
from edgeseg.recipe.load import load_recipe
from edgeseg.report.quant import draw_quantization
from locations import RECIPES

RECIPE = RECIPES / "edaformer_nano_synthetic_int8.yaml"


def measured(road: float, car: float | None, engine: str) -> dict[str, Any]:
    classes = {"road": {"iou": road, "pixel_share": 0.7}, "car": {"iou": car, "pixel_share": 0.3}}
    return {
        "engine": engine,
        "images": 5,
        "miou": float(np.nanmean([road, np.nan if car is None else car])),
        "classes": classes,
    }


def engine(precision: str, median_ms: float | None, *, default: bool = False) -> dict[str, Any]:
    figures = {
        "median_ms": median_ms,
        "p10_ms": median_ms,
        "p90_ms": median_ms,
        "speedup": 1.0,
        "bytes": 2_000_000,
    }
    return {
        "runtime": "onnxruntime",
        "kind": precision,
        "precision": precision,
        "default": default,
        **figures,
    }


def report(**changes: Any) -> dict[str, Any]:
    layers = [
        {"name": "encoder.fc1", "kind": "Linear", "macs": 900, "precision": "int8", "reason": ""},
        {
            "name": "encoder.scores",
            "kind": "Product",
            "macs": 100,
            "precision": "float",
            "reason": "quant.attention: float",
        },
    ]
    rows = [engine("int8", 40.0, default=True), engine("float", 80.0)]
    values: dict[str, Any] = {
        "recipe": "small",
        "isr": "1,1,1,1-1,1,1",
        "size_hw": [64, 128],
        "best": "qat",
        "quant": {"max_miou_drop": 0.01},
        "coverage": {"share": 0.9, "macs": 1000, "layers": layers},
        "qat": {"best_step": 4, "miou_trained": 0.69, "miou_ptq": 0.68},
        "accuracy": {
            "float": measured(0.9, 0.5, "onnxruntime float"),
            "ptq": measured(0.88, 0.42, "onnxruntime int8"),
            "qat": measured(0.89, 0.495, "onnxruntime int8"),
        },
        "miou_drop": 0.0075,
        "levels": [{"level": 0}],
        "engines": rows,
        "speedup": speedup(rows),
    }
    return values | changes


@dataclass
class _Bundle:
    path: Path


def shown(document: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    made = Quantization(
        Path("run/quantized.safetensors"), _Bundle(Path("run/small.edgeseg")), document, ("calibration",)
    )  # type: ignore[arg-type]
    render.result({}, False, lambda: _shown(made))
    return capsys.readouterr().out


def test_the_table_says_each_class_what_stays_float_and_what_it_saves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(report(), capsys)
    (car,) = (line for line in text.splitlines() if line.split()[:1] == ["car"])
    assert car.split()[1:] == ["30.0", "%", "50.00", "%", "42.00", "%", "49.50", "%"]
    assert "90.0 % of the multiply-adds are in INT8" in text
    assert "encoder.scores" in text and "quant.attention: float" in text and "encoder.fc1" not in text
    assert "2.00 times as fast" in text
    assert "lost 0.75 points of mIoU; a loss of 1.00 is allowed" in text
    assert "gained 0.40 points" in shown(report(miou_drop=-0.004), capsys)
    assert "kept, as nothing changed: calibration" in text


def test_a_slower_int8_and_a_training_in_vain_are_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [engine("float", 40.0, default=True), engine("int8", 50.0)]
    accuracy = {name: one for name, one in report()["accuracy"].items() if name != "qat"}
    qat = {"best_step": 0, "miou_trained": 0.66, "miou_ptq": 0.68}
    text = shown(report(engines=rows, speedup=speedup(rows), best="ptq", qat=qat, accuracy=accuracy), capsys)
    assert "INT8 IS NOT FASTER HERE: its best engine takes 1.25 times as long" in text
    assert "training was no better than calibration (66.00 % against 68.00 % in torch)" in text


def test_speedup_is_of_the_fastest_of_each_and_unknown_without_both() -> None:
    assert (
        speedup([engine("float", 80.0), engine("float", 60.0), engine("int8", 30.0), engine("int8", 90.0)])
        == 2.0
    )
    assert speedup([engine("float", 80.0)]) is None
    assert speedup([engine("float", 80.0), engine("int8", None)]) is None


def test_the_gate_names_what_lost_most() -> None:
    recipe, document = load_recipe(RECIPE, ("quant.max_miou_drop=0.02",)), report()
    check_drop(recipe, document["accuracy"], "qat", document)
    with pytest.raises(
        GateFailed, match=r"lost 0\.0500 mIoU; quant\.max_miou_drop is 0\.02 \(most: car -8\.0, road -2\.0"
    ) as caught:
        check_drop(recipe, document["accuracy"], "ptq", document)
    assert caught.value.report is document and caught.value.exit_code == 5
    assert "edgeseg sensitivity" in caught.value.hint


@pytest.mark.parametrize("best", ["ptq", "qat"])
def test_the_picture_is_drawn_also_where_a_class_never_appears(best: str) -> None:
    accuracy = {"float": measured(0.9, None, "a"), best: measured(0.8, None, "b")}
    picture = draw_quantization(report(accuracy=accuracy, best=best))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size[0] > 800
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 5


def test_a_float_recipe_and_several_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgeseg.cli.main import run

    command = [
        "quantize",
        "edaformer_nano_synthetic",
        "--data-root",
        str(tmp_path),
        "-o",
        str(tmp_path / "run"),
    ]
    assert run(command) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run([command[0], "edaformer_nano_synthetic_int8", *command[2:]]) == 4
    assert not (tmp_path / "run").exists()
