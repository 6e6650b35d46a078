"""`edgeseg run` on a real bundle: what it leaves, prints and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from PIL import Image

from edgeseg.cli.main import run
from edgeseg.engines.build import build_engine
from streams import random_images, time_limit, write_video
from tiny import tiny_bundle

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgeseg")
    build_engine(made)
    return made.path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", random_images(20), 29.97)


def test_a_clip_into_every_sink(bundle: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = ["run", str(bundle), "--source", str(clip), "--report", f"{out}/report.json", "--contact-sheet", f"{out}/sheet.png"]
    for sink in (f"{out}/o.mp4", f"{out}/masks/", f"{out}/r.ndjson", "null:"):
        line += ["--sink", sink]
    assert run(line) == 0
    shown = capfd.readouterr().out
    assert "20 frames of 64x48" in shown
    assert "bottleneck: " in shown
    assert "bright" in shown
    report = json.loads((out / "report.json").read_text())
    assert (report["frames"], report["frames_dropped"], report["level"]) == (20, 0, 0)
    assert len((out / "r.ndjson").read_text().splitlines()) == len(os.listdir(out / "masks")) == 20
    capture = cv2.VideoCapture(f"{out}/o.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == 29.97
    capture.release()
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width == 4 * 324 - 4


def test_json_is_one_document(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(bundle), "--source", "synthetic://64x48?frames=9", "--limit", "4", "--threads", "1", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["frames"], document["frames_expected"], document["threads"]) == (4, 4, 1)
    assert document["program"]["arch"] == "tiny"


def test_results_on_stdout_stand_alone(bundle: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(bundle), "--source", str(clip), "--sink", "-"]) == 0
    assert [json.loads(line)["index"] for line in capfd.readouterr().out.splitlines()] == list(range(20))
    assert run(["run", str(bundle), "--source", str(clip), "--sink", "-", "--json"]) == 2


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--source", "no.mp4"], 7, "No such file"),
        (["--source", "rtsp://user:secret@camera/1"], 4, "not read yet"),
        (["--source", "clip.mp4", "--sink", "clip.mp4"], 7, "would write over"),
        (["--source", "clip.mp4", "--sink", "out.avi"], 7, "not a sink"),
        (["--source", "clip.mp4", "--report", "clip.mp4/report.json"], 7, "cannot be written"),
        (["--source", "clip.mp4", "--level", "3"], 6, "no level 3"),
        (["--source", "clip.mp4", "--limit", "0"], 2, "--limit"),
        ([], 2, "--source"),
    ],
)
def test_mistakes(
    bundle: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(clip.parent)
    before = clip.read_bytes()
    assert run(["run", str(bundle), *options]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "hint: " in printed.err
    assert "secret" not in printed.err
    assert clip.read_bytes() == before


def test_ctrl_c_keeps_everything(bundle: Path, tmp_path: Path) -> None:
    uri = "synthetic://64x48?frames=1000000"
    line = ["run", str(bundle), "--source", uri, "--sink", "o.mp4", "--sink", "r.ndjson", "--report", "report.json"]
    process = subprocess.Popen([sys.executable, "-m", "edgeseg", *line], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    results = tmp_path / "r.ndjson"
    deadline_s = time.monotonic() + 40
    while not (results.exists() and results.stat().st_size > 2000):
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    sent_s = time.monotonic()
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - sent_s < 5
    assert process.returncode == 130
    assert "Traceback" not in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] is True
    assert len(results.read_text().splitlines()) == report["frames"] > 5
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == report["frames"]
    capture.release()


def test_a_reader_of_stdout_that_leaves_ends_the_run_quietly(bundle: Path) -> None:
    line = [sys.executable, "-m", "edgeseg", "run", str(bundle), "--source", "synthetic://64x48?frames=1000000", "--sink", "-"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.wait(30) == 1
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
