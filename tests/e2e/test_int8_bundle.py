"""A float and a quantized checkpoint become one bundle of two levels in both precisions, each held to its own
model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from edgeseg.bundle import open_bundle
from edgeseg.checkpoints.file import save_checkpoint
from edgeseg.checkpoints.int8_file import prepare, save_quantized
from edgeseg.checkpoints.models import calibration_tensors, load_trained
from edgeseg.cli.main import run
from edgeseg.data.datasets import open_dataset
from edgeseg.export import levels
from edgeseg.int8.calibrate import calibrate
from edgeseg.int8.coverage import coverage
from edgeseg.models import build_model
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.specs import DIALECTS, Program
from edgeseg.synthetic.scene import LABELS
from golden_rule import fill

pytestmark = pytest.mark.slow  # importing modelopt alone takes seconds
BASE, FAST = "1,1,1,1-1,1,1", "2,2,1,1-2,2,2"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training and calibration leave it, with weights by rule."""
    pytest.importorskip("modelopt")
    folder = tmp_path_factory.mktemp("runs") / "nano"
    folder.mkdir()
    recipe = load_recipe(
        find_recipe("edaformer_nano_synthetic_int8"), ["export.mask_stride=8", "gate.min_mask_agreement=0.9"]
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    model = fill(build_model(recipe.model.arch, LABELS.num_classes, **recipe.model.options))
    named = {"names": LABELS.names, "palette_rgb": LABELS.palette_rgb, "ignore_index": LABELS.ignore_index}
    facts = {"kind": "weights", "arch": recipe.model.arch, "num_classes": LABELS.num_classes, "labels": named}
    save_checkpoint(folder / "best.safetensors", model.state_dict(), facts)
    trained = load_trained(recipe, folder / "best.safetensors")
    assert recipe.quant is not None
    prepared = prepare(trained.model, trained.image, recipe.quant)
    scenes = [open_dataset(recipe.data, "train", folder).load(index)[0] for index in range(2)]
    found = calibrate(prepared.model, calibration_tensors(scenes, prepared.image), recipe.quant)
    covered = coverage(prepared.model, prepared.hints, recipe.quant, prepared.image.size_hw)
    save_quantized(
        folder / "quantized.safetensors",
        prepared.model,
        arch=trained.arch,
        options=recipe.model.options,
        labels=trained.labels,
        plan=recipe.isr.plan(),
        size_hw=recipe.export.size_hw,
        settings=recipe.quant,
        float_sha256=trained.sha256,
        calibration={**found.to_json(), "set": "two scenes", "set_sha256": "0" * 64},
        coverage=covered.to_json(),
    )
    return folder


@pytest.fixture(scope="module")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "nano.edgeseg"
    assert (
        run(["export", str(run_dir), "-o", str(out), "--level", BASE, "--level", FAST, "--precision", "fp16"])
        == 0
    )
    return out


def scales(program: Program) -> dict[str, float]:
    """Node -> scale of every activation's quantizer."""
    graph = onnx.load(program.onnx_path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    rounding = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return {node.name: float(numpy_helper.to_array(constants[node.input[1]])) for node in rounding}


def test_every_level_has_both_precisions_on_one_file_of_weights(exported: Path) -> None:
    bundle = open_bundle(exported)
    forms = ["qdq", *DIALECTS, "half"]
    programs = [bundle.program(level, "int8", form) for level in (0, 1) for form in forms]
    assert [program.form for program in programs] == forms * 2
    assert {blob.name for program in programs for blob in program.blobs} == {"weights.bin"}
    base, fast = scales(programs[0]), scales(programs[len(forms)])
    assert base == fast, "one set of scales serves both levels"
    assert {(frame.level, frame.precision) for frame in bundle.manifest.golden} == {
        (level, precision) for level in (0, 1) for precision in ("float", "fp16", "int8")
    }
    told = bundle.report("quantization")["levels"]
    assert [(one["isr"], one["calibrated_at"]) for one in told] == [(BASE, BASE), (FAST, BASE)]
    assert all(
        one["calibration"]["set"] == "two scenes" and 0.7 < one["coverage"]["share"] <= 1 for one in told
    )
    assert told[0]["coverage"]["macs"] > told[1]["coverage"]["macs"]
    for level in bundle.report("parity")["levels"]:
        assert [(rung["rung"], rung["passed"]) for rung in level["int8"]["rungs"]] == [
            ("P1", True),
            ("P2", True),
        ]


def test_built_run_and_climbed(exported: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", str(exported), "--threads", "1", "--runtime", "onnxruntime", "--json"]) == 0
    for level in json.loads(capsys.readouterr().out)["engines"]:
        verdicts = {row["precision"]: row["verdict"] for row in level["candidates"]}
        assert set(verdicts.values()) == {"default", "passed"}
    assert (
        run(
            [
                "run",
                str(exported),
                "--source",
                "synthetic://128x128@5?frames=3",
                "--precision",
                "int8",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["precision"] == "int8"
    governed = [
        "--source",
        "synthetic://128x128@5?frames=3",
        "--target-fps",
        "1000",
        "--precision",
        "int8",
        "--json",
    ]
    assert run(["run", str(exported), *governed]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "int8"
    assert [level["isr"] for level in report["governor"]["levels"]] == [BASE, FAST]
    assert run(["bundle", "show", str(exported)]) == 0
    share = open_bundle(exported).report("quantization")["levels"][1]["coverage"]["share"]
    shown = capsys.readouterr().out
    assert f"{100 * share:.1f} %" in shown
    assert all(form in shown for form in ("qdq", *DIALECTS))
    given = [
        "--checkpoint",
        str(run_dir / "best.safetensors"),
        "--quantized",
        str(run_dir / "quantized.safetensors"),
    ]
    assert run(["parity", str(exported), "--level", "0", *given, "--json"]) == 0
    for ladder in json.loads(capsys.readouterr().out)["ladders"]:
        assert [rung["passed"] for rung in ladder["rungs"]][:3] == [True, True, True]


def test_kept_where_nothing_changed(
    exported: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            [
                "export",
                str(run_dir),
                "-o",
                str(exported),
                "--level",
                BASE,
                "--level",
                FAST,
                "--precision",
                "fp16",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["made"] is False


def test_a_broken_rung_leaves_the_earlier_bundle(
    exported: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = levels.write_form

    def spoilt(program: Program, form: str, folder: Path) -> Program:
        made = real(program, form, folder)
        if form == "arm":
            model = onnx.load(made.onnx_path)
            weights = [
                tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8
            ]
            largest = max(weights, key=lambda tensor: len(tensor.raw_data))
            largest.raw_data = largest.raw_data[::-1]
            onnx.save(model, made.onnx_path)
        return made

    monkeypatch.setattr(levels, "write_form", spoilt)
    before = {file: file.read_bytes() for file in exported.rglob("*") if file.is_file()}
    assert run(["export", str(run_dir), "-o", str(exported), "--level", BASE, "--force", "--json"]) == 5
    error: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "ParityError"
    assert [rung["passed"] for rung in error["report"]["rungs"]] == [True, False]
    assert {file: file.read_bytes() for file in exported.rglob("*") if file.is_file()} == before


def test_a_quantized_checkpoint_of_another_model(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(run_dir / "recipe.yaml")
    trained = load_trained(recipe, run_dir / "best.safetensors")
    state = {
        name: value * 1.5 if name.endswith("weight") else value
        for name, value in trained.model.state_dict().items()
    }
    named = {"names": LABELS.names, "palette_rgb": LABELS.palette_rgb, "ignore_index": LABELS.ignore_index}
    facts = {"kind": "weights", "arch": trained.arch, "num_classes": LABELS.num_classes, "labels": named}
    save_checkpoint(tmp_path / "other.safetensors", state, facts)
    line = [
        "export",
        str(run_dir),
        "--checkpoint",
        str(tmp_path / "other.safetensors"),
        "-o",
        str(tmp_path / "b.edgeseg"),
    ]
    assert run(line) == 3
    assert "was quantized from another checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "b.edgeseg").exists()
