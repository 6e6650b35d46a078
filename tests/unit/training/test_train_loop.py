"""edgeseg.training.loop on generated scenes: it learns, resumes bit-equal, splits over processes, and loses
nothing when stopped.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgeseg.checkpoints.file import load_checkpoint
from edgeseg.contracts import NoProgress
from edgeseg.errors import BuildError, DataError, RecipeError
from trainings import RECIPE, SMALL, recipe, run


def curve(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def final_state(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(sorted((run_dir / "state").iterdir())[-1]).tensors


class StopAt(NoProgress):
    """Presses Ctrl-C during a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        if task == "train" and steps == 1:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_run_continues_bit_equal(tmp_path: Path) -> None:
    loaded = recipe("train.ema_decay=0.9", "model.options={drop_path: 0.3}")
    run(loaded, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(loaded, tmp_path / "parts", progress=StopAt(3))
    assert len(list((tmp_path / "parts" / "state").iterdir())) == 1
    result = run(loaded, tmp_path / "parts", workers=1)
    assert result.step == 8
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_training_lowers_the_loss_and_leaves_what_it_promises(tmp_path: Path) -> None:
    result = run(recipe("train.steps=60", "train.val_every=30", "train.checkpoint_every=30"), tmp_path)
    rows = curve(tmp_path)
    losses = [r["loss"] for r in rows if "loss" in r]
    assert losses[-1] < 0.95 * losses[0]  # means over steps 1-50 and 51-60
    mious = [r["miou"] for r in rows if "miou" in r]
    assert len(mious) == 2
    assert result.miou == max(mious) > 0.05
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step_00000030.png",
        "step_00000060.png",
    ]
    best = load_checkpoint(result.best)
    assert best.meta["arch"] == "edaformer_nano"
    assert best.meta["recipe"]["name"] == "edaformer_nano_synthetic"
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_accumulation_is_the_same_step(tmp_path: Path) -> None:
    """BatchNorm aside, whose statistics are those of a micro-batch: it is switched to its running values
    here.
    """
    plain = run(recipe("train.steps=1", "train.warmup_steps=0"), tmp_path / "plain")
    split = run(recipe("train.steps=1", "train.warmup_steps=0", "train.accumulate=2"), tmp_path / "split")
    assert plain.step == split.step == 1
    a, b = (curve(tmp_path / name)[0]["loss"] for name in ("plain", "split"))
    assert a == pytest.approx(b, rel=0.05)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(recipe(), tmp_path)
    again = run(recipe(), tmp_path)
    assert (again.step, again.miou, again.best_step) == (first.step, first.miou, first.best_step)


def test_another_recipe_in_the_folder_is_refused_and_fresh_keeps_the_old_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(recipe("train.steps=3"), folder)
    with pytest.raises(DataError, match="another recipe") as caught:
        run(recipe("train.steps=4"), folder)
    assert "--fresh" in caught.value.hint
    run(recipe("train.steps=4"), folder, fresh=True)
    assert (tmp_path / "run.1" / "best.safetensors").exists()


def test_a_diverging_loss_stops_with_advice(tmp_path: Path) -> None:
    chosen = recipe("train.clip_norm=null", "train.warmup_steps=0")  # the rate itself would be refused
    with pytest.raises(BuildError, match="the loss is") as caught:
        run(chosen.model_copy(update={"train": chosen.train.model_copy(update={"lr": 1e30})}), tmp_path)
    assert "train.lr" in caught.value.hint


def test_batch_that_does_not_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="class_weights"):
        run(recipe("train.class_weights=[1.0, 2.0]"), tmp_path)


@pytest.mark.slow
def test_early_stop(tmp_path: Path) -> None:
    result = run(recipe("train.steps=40", "train.lr=1e-9", "train.val_every=2", "train.patience=3"), tmp_path)
    assert result.step < 40


def test_init_loads_all_but_what_is_skipped(tmp_path: Path) -> None:
    source = run(recipe(), tmp_path / "source").best
    tensors = load_checkpoint(source).tensors
    loaded = recipe(
        "train.steps=1", "train.lr=1e-9", "train.warmup_steps=0", "train.init_skip=['decoder.classifier.*']"
    )
    start = load_checkpoint(run(loaded, tmp_path / "started", init=source).best).tensors
    assert torch.allclose(
        start["encoder.stages.0.0.conv.weight"], tensors["encoder.stages.0.0.conv.weight"], atol=1e-7
    )
    assert not torch.allclose(
        start["decoder.classifier.weight"], tensors["decoder.classifier.weight"], atol=1e-3
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def torchrun(count: int, run_dir: Path, changes: tuple[str, ...]) -> None:
    sets = [part for change in (*SMALL, *changes) for part in ("--set", change)]
    command = [
        "-m",
        "edgeseg",
        "train",
        str(RECIPE),
        "--data-root",
        ".",
        "-o",
        str(run_dir),
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    children = [
        subprocess.Popen(
            [sys.executable, *command, *sets],
            env={**environment, "WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(count)
    ]
    assert [child.wait(timeout=120) for child in children] == [0] * count


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    plain = "model.options={drop_path: 0.0, decoder_drop_path: 0.0, dropout: 0.0}"
    changes = ("train.steps=50", "train.val_every=50", "train.ema_decay=0.9", plain)
    run(recipe(*changes), tmp_path / "one")
    torchrun(2, tmp_path / "two", changes)
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [r["step"] for r in one] == [r["step"] for r in two]
    assert [r["loss"] for r in two if "loss" in r] == pytest.approx(
        [r["loss"] for r in one if "loss" in r], rel=1e-3
    )
    assert two[-1]["miou"] == pytest.approx(one[-1]["miou"], abs=0.01)
    norm = [final_state(tmp_path / name)["model.decoder.fuse_norm.running_var"] for name in ("one", "two")]
    assert torch.allclose(norm[0], norm[1], rtol=0.02)


def test_ctrl_c_at_the_shell_exits_130_and_continues(tmp_path: Path) -> None:
    sets = [part for change in (*SMALL, "train.steps=100000") for part in ("--set", change)]
    command = [
        sys.executable,
        "-m",
        "edgeseg",
        "train",
        str(RECIPE),
        "--data-root",
        ".",
        "-o",
        str(tmp_path),
        "--workers",
        "1",
    ]
    child = subprocess.Popen(
        [*command, *sets], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "state").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)
    _, messages = child.communicate(timeout=60)
    assert child.returncode == 130, messages
    assert "Traceback" not in messages
    assert "continues from here" in messages
    assert list((tmp_path / "state").glob("*.safetensors"))


def test_tensorboard_gets_the_curve_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(recipe("train.steps=3"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "images_per_s", "miou"} <= set(events.Tags()["scalars"])
    assert events.Scalars("loss")[-1].step == 3
