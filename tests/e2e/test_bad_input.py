"""What goes wrong at users' desks, through the command line: a clear error, its exit code, a next step, and
nothing lost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.cli.main import run
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from streams import random_images, write_video
from tiny import tiny_bundle

CLASSES = "{names: [road, sky], palette_rgb: [[128, 64, 128], [70, 130, 180]]}"
FOLDERS = (
    "data={format: folders, classes: "
    + CLASSES
    + ", train: {images: images, labels: labels}, val: {images: images, labels: labels}}"
)
SMALL = (
    "augment.crop_hw=[32, 32]",
    "export.size_hw=[32, 32]",
    "train.steps=3",
    "train.batch_size=2",
    "train.warmup_steps=1",
    FOLDERS,
)


class Failed:
    """One failed command: its exit code and what it told."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *args: object) -> None:
        self.code = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err
        assert "Traceback" not in self.err
        assert "hint: " in self.err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images of two classes with their masks."""
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(root / "images" / f"{i}.jpg")
        Image.fromarray(rng.integers(0, 2, (40, 48), np.uint8)).save(root / "labels" / f"{i}.png")
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny.edgeseg").path


def train(capsys: pytest.CaptureFixture[str], root: Path, out: Path, *more: str) -> Failed:
    sets = [part for change in (*SMALL, *more) for part in ("--set", change)]
    return Failed(
        capsys, "train", "edaformer_nano_synthetic", "--data-root", root, "-o", out, "--workers", "0", *sets
    )


def test_three_mistakes_in_a_recipe_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    text = dump_recipe(load_recipe(find_recipe("edaformer_nano_synthetic")))
    path.write_text(
        text.replace("steps:", "stepz:")
        .replace("batch_size: 8", "batch_size: eight")
        .replace("quant: null\n", "")
    )
    failed = Failed(capsys, "recipe", "check", path)
    assert failed.code == 2
    told = [line for line in failed.err.splitlines() if line.startswith(f"{path}:")]
    assert len(told) >= 3
    assert "did you mean" in failed.err
    assert "quant" in failed.err


def test_unknown_override(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = train(capsys, data, tmp_path / "run", "train.stpes=4")
    assert failed.code == 2
    assert "steps" in failed.err


def test_missing_data_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = train(capsys, tmp_path / "nowhere", tmp_path / "run")
    assert failed.code == 3
    assert "nowhere" in failed.err


def test_label_value_out_of_range(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(data / "labels" / "2.png")
    failed = train(capsys, data, tmp_path / "run")
    assert failed.code == 3
    assert "2.png" in failed.err
    assert "7" in failed.err


def test_image_without_mask(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "labels" / "1.png").unlink()
    failed = train(capsys, data, tmp_path / "run")
    assert failed.code == 3
    assert "1" in failed.err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_unreadable_jpeg(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    (data / "images" / "3.jpg").write_bytes((data / "images" / "3.jpg").read_bytes()[:100])
    sets = [part for change in SMALL for part in ("--set", change)]
    arguments = [
        "train",
        "edaformer_nano_synthetic",
        "--data-root",
        data,
        "-o",
        tmp_path / "run",
        "--workers",
        workers,
    ]
    failed = Failed(capsys, *arguments, *sets)
    assert failed.code == 3
    assert "3.jpg" in failed.err


def test_data_check_lists_every_problem(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images" / "3.jpg").write_bytes(b"")
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(data / "labels" / "2.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "labels" / "1.png")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(dump_recipe(load_recipe(find_recipe("edaformer_nano_synthetic"), SMALL)))
    code = run(["data", "check", str(recipe), "--data-root", str(data)])
    told = capsys.readouterr()
    assert code == 3
    assert all(name in told.out + told.err for name in ("3.jpg", "2.png", "1.png"))


def test_wrong_number_of_classes_and_checkpoint_of_another_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for change in SMALL for part in ("--set", change)]
    out = tmp_path / "run"
    assert (
        run(
            [
                "train",
                "edaformer_nano_synthetic",
                "--data-root",
                str(data),
                "-o",
                str(out),
                "--workers",
                "0",
                *sets,
            ]
        )
        == 0
    )
    capsys.readouterr()
    three = FOLDERS.replace("[road, sky]", "[road, sky, car]").replace(
        "[70, 130, 180]]", "[70, 130, 180], [0, 0, 142]]"
    )
    sets3 = [part for change in (*SMALL, three) for part in ("--set", change)]
    init = ["train", "edaformer_nano_synthetic", "--data-root", data, "-o", tmp_path / "b", "--workers", "0"]
    failed = Failed(capsys, *init, "--init", out / "best.safetensors", *sets3)
    assert failed.code == 3
    assert (
        "is of other classes: the data has 3 classes, the checkpoint 2; only the data has car" in failed.err
    )
    assert 'train.init_skip: ["decoder.classifier.*"]' in failed.err
    failed = Failed(capsys, "export", out, "--set", "model.arch=edaformer_t")
    assert failed.code == 3
    assert "edaformer_nano" in failed.err
    assert not list(out.glob("*.edgeseg"))


def test_pickled_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    path = tmp_path / "trap.pth"
    torch.save({"state_dict": {"a": torch.zeros(1), "b": Trap()}}, path)
    failed = Failed(capsys, "weights", "import", path, "--arch", "edaformer_t")
    assert failed.code == 3
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_bundle(bundle: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    (path,) = (bundle / "programs").glob("*.onnx")
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(bytes(content) if damage == "flip" else bytes(content[:-7]))
    for command in (["bundle", "verify", bundle], ["build", bundle]):
        failed = Failed(capsys, *command)
        assert failed.code == 6
        assert path.name in failed.err


def test_bundle_from_the_future(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["format"] = 99
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert Failed(capsys, "run", bundle, "--source", "synthetic://64x32@30?frames=2").code == 6


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated"])
def test_bad_video(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert run(["build", str(bundle), "--threads", "1"]) == 0
    capsys.readouterr()
    clip = tmp_path / "clip.mp4"
    if kind == "truncated":
        write_video(clip, random_images(40), 25.0)
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    elif kind != "missing":
        clip.write_bytes(b"" if kind == "empty" else b"no video at all\n" * 50)
    failed = Failed(capsys, "run", bundle, "--source", clip, "--sink", tmp_path / "out.mp4")
    assert failed.code == 7
    assert "clip.mp4" in failed.err


def test_unwritable_output_is_told_before_the_work(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", str(bundle), "--threads", "1"]) == 0
    capsys.readouterr()
    (tmp_path / "file").write_text("")
    failed = Failed(
        capsys,
        "run",
        bundle,
        "--source",
        "synthetic://64x32@30?frames=2",
        "--sink",
        tmp_path / "file" / "out.mp4",
    )
    assert failed.code == 7


def test_ctrl_c_while_running_finishes_the_recording(bundle: Path, tmp_path: Path) -> None:
    assert run(["build", str(bundle), "--threads", "1"]) == 0
    results, report = tmp_path / "r.ndjson", tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "edgeseg",
        "run",
        bundle,
        "--source",
        "synthetic://64x32@30?frames=1000000",
    ]
    child = subprocess.Popen(
        [*map(str, command), "--sink", str(results), "--report", str(report)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        p.stat().st_size > 2000 for p in tmp_path.glob("*r.ndjson*")
    ):
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    _, messages = child.communicate(timeout=30)
    assert child.returncode == 130, messages
    assert "Traceback" not in messages
    frames = json.loads(report.read_text())["frames"]
    assert [json.loads(line)["index"] for line in results.read_text().splitlines()] == list(range(frames))
