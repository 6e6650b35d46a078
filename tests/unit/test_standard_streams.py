"""A command whose stdout or stderr is closed, full, ASCII, or read by nobody: a message at most, never a
traceback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeseg.engines.choose.build import build_engine
from sinking import read_video
from streams import random_images, time_limit, write_video
from tiny import tiny_bundle

pytestmark = pytest.mark.usefixtures(time_limit.__name__)
EDGESEG = [sys.executable, "-m", "edgeseg"]
SCENE = ["--source", "synthetic://64x48?frames=40"]
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgeseg")
    build_engine(made)
    return made.path


def edgeseg(
    line: Sequence[str | Path], folder: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*EDGESEG, *map(os.fspath, line)], cwd=folder, capture_output=True, env=os.environ | environment
    )


def read_a_line(line: Sequence[str | Path], folder: Path) -> tuple[bytes, int, str]:
    """The first line of stdout, which is then closed; exit code; stderr."""
    command = [*EDGESEG, *map(os.fspath, line)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read().decode()
    return first, process.returncode, told


def test_a_reader_that_leaves_ends_its_sink_and_no_recording(bundle: Path, tmp_path: Path) -> None:
    sinks = ["--sink", "-", "--sink", "keep.mp4", "--sink", "keep.ndjson", "--report", "r.json"]
    first, code, told = read_a_line(["run", bundle, *SCENE, *sinks], tmp_path)
    assert json.loads(first)["index"] == 0
    assert code == 0, told
    assert "Traceback" not in told and "-: its reader is gone" in told
    assert len(read_video(tmp_path / "keep.mp4")[1]) == 40
    assert len((tmp_path / "keep.ndjson").read_text().splitlines()) == 40
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["failures"] == [] and not report["interrupted"]
    assert {one["sink"]: one["state"] for one in report["sinks"]}["-"] == "CLOSED"


def test_a_run_for_a_reader_alone_ends_with_him(bundle: Path, tmp_path: Path) -> None:
    endless = ["--source", "synthetic://64x48?frames=1000000"]
    first, code, told = read_a_line(["run", bundle, *endless, "--sink", "-", "--report", "r.json"], tmp_path)
    assert json.loads(first)["index"] == 0
    assert code == 141
    assert "Traceback" not in told and "error" not in told
    assert json.loads((tmp_path / "r.json").read_text())["interrupted"] is True


def test_so_does_one_for_the_reader_of_a_fifo(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.ndjson")
    line = ["run", bundle, "--source", "synthetic://64x48?frames=1000000", "--sink", "r.ndjson"]
    with subprocess.Popen([*EDGESEG, *map(os.fspath, line)], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        with open(tmp_path / "r.ndjson", "rb") as reader:
            assert json.loads(reader.readline())["index"] == 0
        assert process.wait(30) == 141
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    "line",
    [
        ["recipe", "list"],
        ["recipe", "list", "--json"],
        ["--help"],
        ["run", "--help"],
        ["recipe", "schema"],
        ["recipe", "show", "x", "--json"],
    ],
)
def test_a_pipe_that_nobody_reads(line: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run([*EDGESEG, *line], stdout=pipe, stderr=subprocess.PIPE, cwd=tmp_path)
        everything = subprocess.run([*EDGESEG, *line], stdout=pipe, stderr=pipe, cwd=tmp_path)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr
    assert done.returncode == everything.returncode == 141


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams(closed: tuple[int, ...], bundle: Path, tmp_path: Path) -> None:
    """What is not there is not written to, and above all not the files that would be opened in its place."""
    redirections = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    line = (
        f"exec {sys.executable} -m edgeseg run {bundle} {' '.join(SCENE[:1])} '{SCENE[1]}' --sink r.ndjson"
        " --report r.json"
    )
    done = subprocess.run(["sh", "-c", f"{line} {redirections}"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(text)["index"] for text in (tmp_path / "r.ndjson").read_text().splitlines()] == list(
        range(40)
    )
    json.loads((tmp_path / "r.json").read_text())
    assert b"segment: " not in done.stdout, "messages for stderr are not printed among results"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*EDGESEG, "recipe", "list"], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: No space left on device") and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "environment", [{}, ASCII, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}]
)
def test_names_that_a_terminal_cannot_show(environment: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "straße 東京"
    folder.mkdir()
    write_video(tmp_path / "a.mp4", random_images(3), 25)
    os.rename(tmp_path / "a.mp4", folder / "kä.mp4")
    os.symlink(folder, tmp_path / "in")
    for line in (
        ["run", bundle, "--source", "in/nö.mp4"],
        ["bundle", "verify", "ö.edgeseg"],
        ["recipe", "check", "ö.yaml"],
    ):
        for json_flag in ([], ["--json"]):
            done = edgeseg([*line, *json_flag], tmp_path, **environment)
            assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
            assert done.returncode in (2, 6, 7) and b"error: " in done.stderr
            if json_flag and done.stdout:
                json.loads(done.stdout)


def test_pictures_whose_names_are_not_text(bundle: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "in"
    pictures.mkdir()
    from PIL import Image

    Image.new("RGB", (64, 48)).save(tmp_path / "one.png")
    os.rename(tmp_path / "one.png", os.fsencode(pictures) + b"/a\xff.png")
    line = [
        "run",
        bundle,
        "--source",
        "in/",
        "--sink",
        "-",
        "--sink",
        "masks/",
        "--sink",
        "r.ndjson",
        "--report",
        "r.json",
    ]
    done = edgeseg(line, tmp_path)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    for text in (done.stdout, (tmp_path / "r.ndjson").read_bytes()):
        assert json.loads(text.decode())["name"] == "a\\xff.png"
    assert os.listdir(os.fsencode(tmp_path / "masks")) == [b"a\xff.png"]
    json.loads((tmp_path / "r.json").read_text())


def test_a_folder_whose_name_is_not_text(bundle: Path, tmp_path: Path) -> None:
    here = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
    here.mkdir()
    (here / "b.edgeseg").symlink_to(bundle)
    (here / "c.edgeseg").mkdir()
    os.rename(write_video(tmp_path / "a.mp4", random_images(3), 25), here / "a.mp4")
    for line in (
        ["run", "b.edgeseg", *SCENE, "--report", "r.json", "--sink", "r.ndjson"],
        ["run", "b.edgeseg", *SCENE, "--sink", "o.mp4"],
        ["run", "b.edgeseg", "--source", "a.mp4", "--sink", "null:"],
        ["bundle", "show", "b.edgeseg", "--json"],
        ["run", "c.edgeseg", *SCENE],
        ["demo", "-o", "."],
    ):
        done = edgeseg(line, here)
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        assert done.returncode == 0 or b"error: " in done.stderr


def test_an_argument_that_is_not_text_is_refused_in_words(bundle: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.mp4")
    for line in (
        ["run", bundle, "--source", name],
        ["run", bundle, *SCENE, "--report", name],
        ["train", name],
    ):
        done = edgeseg(line, tmp_path)
        assert done.returncode == 2
        assert rb"a\xff.mp4: the name is not text in UTF-8" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["--source", "{long}.mp4"], 7),
        (["--source", "{long}/"], 7),
        (["--source", "{long}=a.mp4"], 7),
        ([*SCENE, "--sink", "{long}.mp4"], 7),
        ([*SCENE, "--sink", "{long}/"], 7),
        ([*SCENE, "--report", "{long}"], 7),
        (["--source", "synthetic://64x48@{zeros}25?frames=3", "--sink", "{{source}}.ndjson"], 7),
    ],
)
def test_names_that_are_too_long(line: list[str], code: int, bundle: Path, tmp_path: Path) -> None:
    words = [word.format(long="x" * 300, zeros="0" * 250) for word in line]
    done = edgeseg(["run", bundle, *words], tmp_path)
    told = done.stderr.decode()
    assert "Traceback" not in told and "hint: " in told
    assert done.returncode == code, told
