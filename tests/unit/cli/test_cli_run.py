"""`edgeseg run` on a real bundle: what it leaves, prints and returns."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.request import urlopen

import cv2
import pytest
from PIL import Image

from edgeseg.cli.main import run
from edgeseg.engines.choose.build import build_engine
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


@contextmanager
def systemd_at(path: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """What a service tells systemd, complete after the block, and the environment that makes it do so."""
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        yield said, {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        receiver.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                said.append(receiver.recv(1000).decode())


@contextmanager
def process_of(line: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`edgeseg LINE` in a process of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "edgeseg", *line]
    environment = os.environ | environment
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_clip_into_every_sink(
    bundle: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = [
        "run",
        str(bundle),
        "--source",
        str(clip),
        "--report",
        f"{out}/report.json",
        "--contact-sheet",
        f"{out}/sheet.png",
    ]
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
    assert (
        run(
            [
                "run",
                str(bundle),
                "--source",
                "synthetic://64x48?frames=9",
                "--limit",
                "4",
                "--threads",
                "1",
                "--json",
            ]
        )
        == 0
    )
    document = json.loads(capfd.readouterr().out)
    assert (document["frames"], document["frames_expected"], document["threads"]) == (4, 4, 1)
    assert document["program"]["arch"] == "tiny"


def test_results_on_stdout_stand_alone(bundle: Path, clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", str(bundle), "--source", str(clip), "--sink", "-"]) == 0
    assert [json.loads(line)["index"] for line in capfd.readouterr().out.splitlines()] == list(range(20))
    for sink in ("-", "-#events=1"):
        assert run(["run", str(bundle), "--source", str(clip), "--sink", sink, "--json"]) == 2


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--source", "no.mp4"], 7, "No such file"),
        (["--source", "foo://user:secret@camera/1"], 7, "not a source"),
        (["--source", "a=clip.mp4", "--source", "a=clip.mp4"], 2, "two sources are called a"),
        (["--source", "clip.mp4", "--source", "clip.mp4"], 7, "given twice"),
        (["--source", "clip.mp4", "--region", "lane=0,0;1,1"], 7, "three corners"),
        (["--source", "clip.mp4", "--threshold", "jam=lane:bright>10%"], 7, "no --region lane"),
        (["--source", "clip.mp4", "--web", "everywhere"], 2, "not an address"),
        (["--source", "clip.mp4", "--web", "0.0.0.0:0"], 2, "others can reach"),
        (["--source", "clip.mp4", "--max-age-ms", "nan"], 2, "not a finite number"),
        (
            ["--source", "clip.mp4", "--config", "streams.yaml"],
            2,
            "--config says what runs; write BUNDLE, --source into",
        ),
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


def test_several_sources_by_name(
    bundle: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = [
        "run",
        str(bundle),
        "--source",
        f"front={clip}",
        "--source",
        "back=synthetic://64x48?frames=7",
        "--json",
    ]
    line += ["--sink", f"{tmp_path}/{{source}}.mp4", "--sink", f"{tmp_path}/all.ndjson"]
    line += ["--region", "lower half=0,0.5;1,0.5;1,1;0,1", "--threshold", "glare=lower half:bright+dark>50%"]
    assert run(line) == 0
    document = json.loads(capfd.readouterr().out)
    assert {one["source"]: one["delivered"] for one in document["sources"]} == {"front": 20, "back": 7}
    records = [json.loads(text) for text in (tmp_path / "all.ndjson").read_text().splitlines()]
    assert sorted((one["source"], one["index"]) for one in records) == [
        *(("back", index) for index in range(7)),
        *(("front", index) for index in range(20)),
    ]
    assert all(sum(one["regions"]["lower half"].values()) == pytest.approx(1, abs=1e-5) for one in records)
    assert {event["source"] for event in document["events"]["recent"] if event["kind"] == "region"} == {
        "front",
        "back",
    }
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["back.mp4", "clip.mp4", "front.mp4"]


def test_a_run_as_one_file(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "streams.yaml"
    config.write_text(
        f"bundle: {bundle}\nthreads: 1\nlog: json\nreport: {tmp_path}/report.json\n"
        f"sources: [{{name: a, uri: 'synthetic://64x48?frames=9'}}, {{name: b, uri: 'synthetic://96x64?frames=9'}}]\n"
        f"sinks: ['{tmp_path}/${{KIND}}.ndjson']\nweb: {{listen: '127.0.0.1:0'}}\n"
    )
    assert run(["run", "--config", str(config)]) == 2
    assert "streams.yaml:6: sinks.0: the environment has no variable KIND" in capfd.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIND", "results")
        assert run(["run", "--config", str(config), "--limit", "5"]) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [json.loads(text) for text in printed.err.splitlines()]
    assert lines[-1]["event"] == "report" and lines[-1]["report"]["frames"] == 10
    assert any(line.get("message", "").startswith("live page: http://127.0.0.1:") for line in lines)
    assert len((tmp_path / "results.ndjson").read_text().splitlines()) == 10
    assert json.loads((tmp_path / "report.json").read_text())["threads"] == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_end_from_outside_keeps_everything(bundle: Path, tmp_path: Path, number: int, code: int) -> None:
    uri = "synthetic://64x48?frames=1000000"
    line = [
        "run",
        str(bundle),
        "--source",
        uri,
        "--sink",
        "o.mp4",
        "--sink",
        "r.ndjson",
        "--report",
        "report.json",
    ]
    line += ["--web", "127.0.0.1:0", "--log-json"]
    with (
        systemd_at(tmp_path / "notify") as (said_to_systemd, environment),
        process_of(line, tmp_path, environment) as process,
    ):
        assert process.stderr is not None
        message = ""
        while "live page: " not in message:
            message = json.loads(process.stderr.readline()).get("message", "")
        page = message.removeprefix("live page: ")
        results = tmp_path / "r.ndjson"
        deadline_s = time.monotonic() + 40
        while not (results.exists() and results.stat().st_size > 2000):
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.05)
        with urlopen(page + "healthz", timeout=10) as answer:
            assert json.load(answer) == {"status": "ok"}
        with urlopen(page + "metrics", timeout=10) as answer:
            assert f'edgeseg_source_frames_total{{source="{uri}"}}' in answer.read().decode()
        process.send_signal(number)
        sent = datetime.now(timezone.utc)
        _, said = process.communicate(timeout=5)
        assert process.returncode == code
    assert said_to_systemd[0] == "READY=1" and said_to_systemd[-1] == "STOPPING=1"
    assert any(message.endswith("1 of 1 sources run, level 0\nWATCHDOG=1") for message in said_to_systemd)
    lines = [json.loads(text) for text in said.splitlines()]
    assert [line["event"] for line in lines][-2:] == ["report", "interrupted"]
    # What follows is the interpreter's own end, as long as the machine is busy.
    assert datetime.fromisoformat(lines[-1]["time"].replace("Z", "+00:00")) - sent < timedelta(seconds=2)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] is True
    assert len(results.read_text().splitlines()) == report["frames"] > 5
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    shown = 0
    while capture.read()[0]:
        shown += 1
    capture.release()
    assert shown == report["frames"]


def test_a_reader_of_stdout_that_leaves_ends_the_run_quietly(bundle: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "edgeseg",
        "run",
        str(bundle),
        "--source",
        "synthetic://64x48?frames=1000000",
        "--sink",
        "-",
    ]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.wait(30) == 141
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
