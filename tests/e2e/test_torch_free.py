"""The device side in an environment that never had torch: installed as a wheel, from a virtual environment of
its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
BUNDLES = sorted((ROOT / "edgeseg" / "_demo").glob("*.edgeseg"))
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")

pytestmark = pytest.mark.slow


def sh(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    return subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the built package, its core dependencies and extra
    `video`.
    """
    folder = tmp_path_factory.mktemp("torch-free")
    # Only an index that cannot be reached is a reason to skip; whatever fails after this is our failure.
    reached = sh(
        sys.executable, *PIP, "download", "--no-deps", "--dest", folder / "probe", "hatchling", cwd=folder
    )
    if reached.returncode:
        pytest.skip(f"no package index can be reached: {reached.stderr.strip().splitlines()[-1]}")
    made = sh(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    assert made.returncode == 0, made.stderr
    interpreter = folder / "venv" / "bin" / "python"
    installed = sh(interpreter, *PIP, "install", f"{ROOT}[video]", cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return interpreter


def test_no_torch_comes_along(python: Path, tmp_path: Path) -> None:
    done = sh(python, "-c", "import torch", cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named 'torch'" in done.stderr


def test_the_wheel_ships_recipes(python: Path, tmp_path: Path) -> None:
    done = sh(python.parent / "edgeseg", "recipe", "list", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_recipe_check_finds_names_options_and_plans(python: Path, tmp_path: Path) -> None:
    wrong = (
        "model.arch=edaformr_t",
        "targets=[{runtime: onnxruntme}]",
        "quant.calibration.images=nowhere",
        "train.ema_decay=1",
    )
    sets = [word for override in wrong for word in ("--set", override)]
    done = sh(python.parent / "edgeseg", "recipe", "check", "edaformer_t_camvid_int8", *sets, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "4 mistakes in" in done.stderr and "did you mean edaformer_t?" in done.stderr
    done = sh(python.parent / "edgeseg", "recipe", "check", "edaformer_t_camvid_int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_doctor_names_the_extra_that_is_missing(python: Path, tmp_path: Path) -> None:
    done = sh(python.parent / "edgeseg", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'edgeseg[train]'" in done.stdout


@pytest.mark.skipif(not BUNDLES, reason="edgeseg/_demo holds no bundle yet")
def test_run_segments_frames(python: Path, tmp_path: Path) -> None:
    edgeseg, bundle = python.parent / "edgeseg", tmp_path / BUNDLES[0].name
    shutil.copytree(BUNDLES[0], bundle)
    for line in (["build", bundle], ["bundle", "verify", bundle]):
        done = sh(edgeseg, *line, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    source = "synthetic://320x256@30?frames=6"
    done = sh(edgeseg, "run", bundle, "--source", source, "--sink", "masks/", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 6
    assert len(list((tmp_path / "masks").glob("*.png"))) == 6


@pytest.mark.skipif(not BUNDLES, reason="edgeseg/_demo holds no bundle yet")
def test_eval_measures_an_engine_on_label_files(python: Path, tmp_path: Path) -> None:
    edgeseg, bundle = python.parent / "edgeseg", tmp_path / BUNDLES[0].name
    shutil.copytree(BUNDLES[0], bundle)
    for kind in ("images", "labels"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for index in range(2):
        colours = np.random.default_rng(index).integers(0, 256, (96, 128, 3), np.uint8)
        Image.fromarray(colours).save(tmp_path / "images" / "val" / f"{index}.png")
        labels = Image.fromarray(np.full((96, 128), 3 + index, np.uint8), "P")
        labels.putpalette([value for value in range(256) for _ in range(3)])
        labels.save(tmp_path / "labels" / "val" / f"{index}.png")
    for line in (["build", bundle], ["eval", bundle, "--data-root", tmp_path, "--json"]):
        done = sh(edgeseg, *line, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["images"] == 2
    shares = {name: row["pixel_share"] for name, row in measured["engine"]["classes"].items()}
    assert (shares["Road"], shares["Pavement"]) == (0.5, 0.5)


def test_training_says_which_extra_it_needs(python: Path, tmp_path: Path) -> None:
    recipe = next(iter(sorted((ROOT / "recipes").glob("*.yaml"))))
    done = sh(python.parent / "edgeseg", "train", recipe, "--data-root", tmp_path, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "hint: pip install 'edgeseg[train]'" in done.stderr
