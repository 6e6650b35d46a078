"""A training that is ended from outside, as a service manager, `timeout` or a closing terminal does it:
nothing is lost.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeseg.checkpoints.file import load_checkpoint
from edgeseg.errors import BuildError
from edgeseg.journal import read_rows
from edgeseg.training.log import TrainLog
from edgeseg.training.loop import set_aside
from trainings import RECIPE, SMALL, recipe, run


def command(folder: Path, *changes: str) -> list[str]:
    sets = [part for change in (*SMALL, "train.steps=100000", *changes) for part in ("--set", change)]
    return [
        sys.executable,
        "-m",
        "edgeseg",
        "train",
        str(RECIPE),
        "--data-root",
        ".",
        "-o",
        str(folder),
        "--workers",
        "2",
        *sets,
    ]


def started(folder: Path, *before: str, checkpoint_every: int = 1) -> subprocess.Popen[str]:
    """A training in a process group of its own that has done a few steps since its last saved state."""
    line = [*before, *command(folder, f"train.checkpoint_every={checkpoint_every}")]
    child = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline_s = time.monotonic() + 90
    while not list((folder / "state").glob("*.safetensors")):
        assert time.monotonic() < deadline_s and child.poll() is None
        time.sleep(0.05)
    return child


def last_step(folder: Path) -> int:
    return int(max((folder / "state").glob("*.safetensors")).stem.split("_")[1])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_to_the_whole_group_saves_the_state(tmp_path: Path, number: int, code: int) -> None:
    child = started(tmp_path, checkpoint_every=50)
    saved = last_step(tmp_path)
    time.sleep(0.5)
    os.killpg(child.pid, number)
    os.killpg(child.pid, number)  # as those do who send to the process and to its group
    _, told = child.communicate(timeout=60)
    assert child.returncode == code, told
    assert "Traceback" not in told and "continues from here" in told
    step = int(told.partition("stopped at step ")[2].partition(";")[0])
    assert last_step(tmp_path) == step >= saved
    assert load_checkpoint(max((tmp_path / "state").glob("*.safetensors"))).meta["counters"]["step"] == step
    with pytest.raises(ProcessLookupError):  # no worker outlives it
        os.killpg(child.pid, 0)


@pytest.mark.skipif(shutil.which("timeout") is None, reason="no timeout(1)")
def test_under_timeout(tmp_path: Path) -> None:
    line = ["timeout", "-s", "TERM", "20", *command(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=90)
    assert done.returncode == 124, done.stderr
    assert (
        "Traceback" not in done.stderr
        and "continues from here" in done.stderr
        and "terminated" in done.stderr
    )
    assert last_step(tmp_path) > 0


@pytest.mark.skipif(shutil.which("nohup") is None, reason="no nohup(1)")
def test_under_nohup_the_terminal_may_close(tmp_path: Path) -> None:
    child = started(tmp_path, "nohup")
    os.killpg(child.pid, signal.SIGHUP)
    step = last_step(tmp_path)
    deadline_s = time.monotonic() + 60
    while last_step(tmp_path) < step + 2:
        assert time.monotonic() < deadline_s and child.poll() is None
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 143


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_messages_that_nobody_takes_end_nothing(tmp_path: Path) -> None:
    """A terminal that was closed refuses what is written to it; the work goes on."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(tmp_path, "train.steps=3"), stderr=full, stdout=subprocess.PIPE, text=True, timeout=90
        )
    assert done.returncode == 0
    assert "checkpoint" in done.stdout


def test_a_journal_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    run(recipe("train.steps=4", "train.val_every=2"), tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    (tmp_path / "state" / "step_00000004.safetensors").unlink()
    path.write_bytes(whole[:-20])
    run(recipe("train.steps=4", "train.val_every=2"), tmp_path)
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [(row["step"], row.get("miou")) for row in read_rows(path)] == [
        (row["step"], row.get("miou")) for row in rows
    ]


def test_a_journal_that_was_cut_anywhere_loses_the_cut_line_alone(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    log = TrainLog(tmp_path / "whole", 0)
    for step in (1, 2, 3):
        log.write(step, loss=0.5 / step, name="a\u00e9")
    log.close()
    content = log.path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for length in range(ends[0], len(content) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "metrics.jsonl").write_bytes(content[:length])
        resumed = TrainLog(folder, 3)
        whole = [end for end in ends if end <= length]
        assert resumed.path.read_bytes() == content[: whole[-1]]
        resumed.write(len(whole) + 1, loss=0.0)
        resumed.close()
        assert [row["step"] for row in read_rows(resumed.path)] == list(range(1, len(whole) + 2))


def test_a_disk_that_is_full_is_told_in_words(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes((4 << 20) - (64 << 10)))
    with pytest.raises(BuildError, match="cannot be written: No space left on device") as error:
        run(recipe(), small_disk / "run")
    assert "--out" in error.value.hint


def test_a_journal_on_a_full_disk(small_disk: Path) -> None:
    journal = TrainLog(small_disk, 0)
    (small_disk / "ballast").write_bytes(bytes(3 << 20))
    with pytest.raises(BuildError, match="cannot be written: No space left"):
        journal.write(1, text="x" * (2 << 20))
    journal.close()


def test_a_run_behind_a_link_is_set_aside_where_it_lies(tmp_path: Path) -> None:
    real = tmp_path / "big" / "run"
    real.mkdir(parents=True)
    (real / "recipe.yaml").touch()
    link = tmp_path / "run"
    link.symlink_to(real)
    assert set_aside(link) == tmp_path / "big" / "run.1"
    assert (tmp_path / "big" / "run.1" / "recipe.yaml").exists()
    assert link.is_symlink() and list(link.iterdir()) == []
