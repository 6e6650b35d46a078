"""examples/plugin, installed as a package and used through the command line."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from locations import REPOSITORY

pytestmark = pytest.mark.slow

EXAMPLE = REPOSITORY / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that see the package."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")  # a build leaves files beside it
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--target", str(folder / "site"), str(folder / "source")], check=True)
    return {**os.environ, "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{REPOSITORY}"}


def edgeseg(installed: dict[str, str], *line: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg", *map(str, line), "--json"],
        env=installed,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def test_its_own_tests_pass(installed: dict[str, str]) -> None:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    line += ["--rootdir", str(EXAMPLE), str(EXAMPLE / "tests")]
    done = subprocess.run(line, env=installed, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "5 passed" in done.stdout


def test_from_its_data_to_its_sink(installed: dict[str, str], tmp_path: Path) -> None:
    data, run, bundle = tmp_path / "data", tmp_path / "run", tmp_path / "yard.edgeseg"
    subprocess.run([sys.executable, str(EXAMPLE / "make_yard.py"), str(data)], env=installed, check=True)
    told = {row["name"]: row for row in edgeseg(installed, "doctor")["findings"] if row["area"] == "plug-ins"}
    assert told.keys() == {"model sketch", "sink csv", "data format yard"}
    assert all(row["ok"] and "edgeseg-yard" in row["found"] for row in told.values())
    edgeseg(installed, "recipe", "check", EXAMPLE / "yard.yaml")
    edgeseg(installed, "data", "check", EXAMPLE / "yard.yaml", "--data-root", data)
    options = ("--data-root", data, "-o", run, "--workers", 0)
    edgeseg(installed, "train", EXAMPLE / "yard.yaml", *options)
    edgeseg(installed, "export", run, "-o", bundle)
    (engine,) = edgeseg(installed, "build", bundle, "--runtime", "onnxruntime")["engines"]
    assert engine["built"] is True
    measured = edgeseg(installed, "eval", bundle, "--data-root", data)
    assert measured["engine"]["miou"] > 0.5, "three plain colours are learned in 60 steps"
    sink = f"{tmp_path}/shares.csv#every=2"
    report = edgeseg(installed, "run", bundle, "--source", f"{data}/photos/val/", "--sink", sink)
    assert report["frames"] == 8
    with (tmp_path / "shares.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["0", "2", "4", "6"]
    shares = [[float(row[name]) for name in ("ground", "path", "machine")] for row in rows]
    assert [sum(row) for row in shares] == pytest.approx([1.0] * 4, abs=0.01)
