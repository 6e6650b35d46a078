"""From a recipe to a segmented video, through the command line, on data the project makes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edgeseg.bundle import open_bundle
from edgeseg.cli.main import run
from edgeseg.engines.onnxruntime.backend import OnnxRuntime
from edgeseg.engines.open import open_session

SETS = (
    "train.steps=12",
    "train.val_every=12",
    "train.checkpoint_every=12",
    "train.warmup_steps=2",
    "train.batch_size=4",
)
CLIP = "synthetic://160x120@29.97?frames=15&seed=3"


def command(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    """Run a command with --json; its exit code must be 0, its stdout one JSON document."""
    code = run([*map(str, args), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    document = json.loads(captured.out)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    out = tmp_path_factory.mktemp("runs") / "nano"
    sets = [part for change in SETS for part in ("--set", change)]
    assert (
        run(
            ["train", "edaformer_nano_synthetic", "--data-root", ".", "-o", str(out), "--workers", "0", *sets]
        )
        == 0
    )
    return out


def test_recipe_to_video(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "nano.edgeseg"
    made = command(capsys, "export", trained, "-o", bundle)
    assert made["made"] is True
    assert command(capsys, "export", trained, "-o", bundle)["made"] is False
    parity = json.loads((bundle / "report" / "parity.json").read_text())
    assert all(rung["passed"] for rung in parity["levels"][0]["rungs"].values())

    exact = ("--runtime", "onnxruntime")  # in float32, so that what follows can be held to torch closely
    built = command(capsys, "build", bundle, *exact)["engines"][0]
    assert built["built"] is True
    assert min(built["measurements"]["mask_agreement"].values()) >= 0.999
    assert command(capsys, "build", bundle, *exact)["engines"][0]["built"] is False
    command(capsys, "bundle", "verify", bundle, "--run")

    checkpoint = trained / "best.safetensors"
    measured = command(capsys, "eval", bundle, "--data-root", ".", "--limit", 8, "--checkpoint", checkpoint)
    assert measured["images"] == 8
    assert abs(measured["miou_drop"]) < 0.001
    assert measured["engine"]["classes"].keys() == measured["torch"]["classes"].keys()

    sinks = [
        part
        for sink in (tmp_path / "o.mp4", f"{tmp_path}/masks/", tmp_path / "r.ndjson")
        for part in ("--sink", sink)
    ]
    report = command(
        capsys, "run", bundle, "--source", CLIP, *sinks, "--contact-sheet", tmp_path / "sheet.png"
    )
    assert report["frames"] == 15
    assert report["frames_dropped"] == 0
    assert {"read", "infer", "write"} <= report["stages"].keys()
    clip = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert clip.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=1e-4)
    assert int(clip.get(cv2.CAP_PROP_FRAME_COUNT)) == 15
    assert len(list((tmp_path / "masks").iterdir())) == 15
    assert [json.loads(line)["index"] for line in (tmp_path / "r.ndjson").read_text().splitlines()] == list(
        range(15)
    )
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_run_answers_what_the_session_answers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "nano.edgeseg"
    frames = tmp_path / "frames"
    frames.mkdir()
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (96, 72)) for _ in range(3)]
    for i, image in enumerate(images):
        cv2.imwrite(str(frames / f"{i}.png"), image)
    command(capsys, "export", trained, "-o", bundle)
    command(capsys, "build", bundle)
    command(capsys, "run", bundle, "--source", frames, "--sink", f"png:{tmp_path / 'masks'}")
    with open_session(open_bundle(bundle)) as session:
        for i, image in enumerate(images):
            expected = session.segment(np.ascontiguousarray(image[:, :, ::-1]))
            assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{i}.png")), expected)


def test_a_smaller_file_with_half_weights(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = command(capsys, "export", trained, "-o", tmp_path / "full.edgeseg")
    half = command(capsys, "export", trained, "-o", tmp_path / "half.edgeseg", "--weights", "fp16")
    assert half["bytes"] < full["bytes"]
    command(capsys, "build", half["bundle"])
    command(capsys, "bundle", "verify", half["bundle"], "--run")


def test_half_precision_for_targets_that_compute_in_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = "targets=[{runtime: onnxruntime}, {runtime: tensorrt}]"  # it need not be installed
    made = command(capsys, "export", trained, "-o", tmp_path / "half.edgeseg", "--set", targets)
    assert made["precisions"] == ["float", "fp16"]
    bundle = open_bundle(made["bundle"])
    assert [bundle.program(0, precision, "tensorrt").form for precision in ("float", "fp16")] == [
        "tensorrt",
        "tensorrt",
    ]
    (level,) = bundle.report("parity")["levels"]
    assert all(
        rung["passed"]
        for found in (level["fp16"], level["forms"]["tensorrt"])
        for rung in found["rungs"].values()
    )
    assert (
        command(capsys, "export", trained, "-o", tmp_path / "half.edgeseg", "--set", targets)["made"] is False
    )

    (built,) = command(capsys, "build", made["bundle"], "--runtime", "onnxruntime")["engines"]
    assert [row["precision"] for row in built["candidates"]] == ["float"], (
        "a processor would compute it by casting"
    )
    assert built["candidates"][0]["hint"] == ""
    (ladder,) = command(capsys, "parity", made["bundle"], "--precision", "fp16")["ladders"]
    assert {rung["rung"]: rung["passed"] for rung in ladder["rungs"]}["P2"]
    asked = command(capsys, "export", trained, "-o", tmp_path / "asked.edgeseg", "--precision", "fp16")
    assert asked["precisions"] == ["float", "fp16"]
    assert list(open_bundle(asked["bundle"]).manifest.levels[0].programs["float"].forms) == ["tensorrt"]


def test_a_form_for_each_runtime_that_the_targets_name(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    targets = "targets=[{runtime: onnxruntime}, {runtime: openvino}]"
    with (
        monkeypatch.context() as on_a_gpu
    ):  # what an export writes does not depend on the machine that exports
        on_a_gpu.setattr(OnnxRuntime, "_gpu_providers", lambda self: ["cuda"])
        made = command(capsys, "export", trained, "-o", tmp_path / "both.edgeseg", "--set", targets)
        assert made["precisions"] == ["float"]
    bundle = open_bundle(made["bundle"])
    assert list(bundle.manifest.levels[0].programs["float"].forms) == ["openvino"]
    (level,) = bundle.report("parity")["levels"]
    assert all(
        rung["passed"]
        for rungs in (level["rungs"], level["forms"]["openvino"]["rungs"])
        for rung in rungs.values()
    )

    (built,) = command(capsys, "build", bundle.path, "--data-root", ".", "--limit", 4)["engines"]
    by_name = {
        (row["runtime"], row["options"].get("precision_hint", "f32")): row for row in built["candidates"]
    }
    for name in (("onnxruntime", "f32"), ("openvino", "f32")):
        assert by_name[name]["verdict"] in ("default", "passed")
        assert 0 <= by_name[name]["measurements"]["miou"] <= 1
        assert by_name[name]["hint"] == ""
    assert (
        run(["export", str(trained), "-o", str(tmp_path / "x"), "--set", "targets=[{runtime: openvin}]"]) == 2
    )
    assert "did you mean openvino?" in capsys.readouterr().err


def test_isr_plan_and_mask_stride_reach_the_program(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "thin.edgeseg"
    isr = "isr={encoder: [2, 2, 1, 1], decoder: [2, 2, 2]}"
    command(capsys, "export", trained, "-o", bundle, "--set", isr, "--set", "export.mask_stride=4")
    program = open_bundle(bundle).program()
    assert str(program.isr) == "2,2,1,1-2,2,2"
    assert program.mask_shape == (32, 32)


def test_evaluating_on_foreign_classes_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "nano.edgeseg"
    command(capsys, "export", trained, "-o", bundle)
    command(capsys, "build", bundle)
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "d" / "images" / "a.png"), np.zeros((32, 32, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "d" / "labels" / "a.png"), np.zeros((32, 32), np.uint8))
    split = "{images: images, labels: labels}"
    data = (
        f"data={{format: folders, classes: {{names: [a], palette_rgb: [[0, 0, 0]]}}, train: {split}, val:"
        f" {split}}}"
    )
    assert run(["eval", str(bundle), "--data-root", str(tmp_path / "d"), "--set", data]) == 3
    assert "classes" in capsys.readouterr().err


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    report = command(capsys, "demo", "-o", out, "--limit", 6)
    assert report["run"]["frames"] == 6
    assert {"overlay.mp4", "contact_sheet.png", "report.json"} <= {p.name for p in out.iterdir()}
    assert all(share >= 0.99 for frames in report["golden_agreement"].values() for share in frames.values())
    again = command(capsys, "demo", "-o", out, "--limit", 2)
    assert again["engine"]["built"] is False
