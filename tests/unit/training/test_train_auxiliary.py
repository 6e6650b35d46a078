"""Losses that a model adds in training: their share is the same however a batch is split, and each is
logged.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeseg.checkpoints.file import load_checkpoint
from edgeseg.contracts import NoProgress
from edgeseg.errors import BuildError
from edgeseg.metrics import ConfusionMatrix
from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import Eft
from edgeseg.models.layers import BatchNorm2d
from edgeseg.models.repsep import RepSepDecoder
from edgeseg.models.segmentor import Segmentor
from edgeseg.recipe.load import load_recipe
from edgeseg.training import float as float_training
from edgeseg.training import loop
from golden_rule import fill
from locations import RECIPES

RECIPE = RECIPES / "edaformer_nano_synthetic.yaml"
SMALL = (
    "model.options={}",
    "augment.crop_hw=[64, 64]",
    "augment.scale_range=[0.3, 1.0]",  # some crops are part unlabelled
    "export.size_hw=[64, 64]",
    "train.batch_size=4",
    "train.warmup_steps=0",
    "train.val_every=1000",
)
TERMS = ("loss_mask", "loss_region", "loss_separation")
CHANNELS = (8, 16, 24, 32)


def build(arch: str, num_classes: int) -> Segmentor:
    """A small model with losses of its own, that differ from image to image and draw no random number."""
    encoder = Eft(CHANNELS, (1, 1, 1, 1), 8, 2.0, drop_path=0.0)
    return fill(Segmentor(encoder, RepSepDecoder(CHANNELS, num_classes, 16, local_width=8, dropout=0.0)))


def build_without_norm(arch: str, num_classes: int) -> Segmentor:
    """BatchNorm's statistics are those of a micro-batch; without it, accumulation is exact."""
    model = build(arch, num_classes)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm2d):
                parent.add_module(name, nn.Identity())
    return model


def sgd(groups: list[dict[str, object]], betas: object) -> torch.optim.Optimizer:
    """In AdamW's place: its steps grow with the gradient, so that a loss of twice the weight does not go
    unseen.
    """
    return torch.optim.SGD(groups)


def no_evaluation(*_: object) -> ConfusionMatrix:
    """Validation's mIoU is no concern here, and takes longer than the steps."""
    return ConfusionMatrix(10)


def run(run_dir: Path, *changes: str, progress: NoProgress | None = None) -> None:
    float_training.train(
        load_recipe(RECIPE, (*SMALL, *changes)), Path(), run_dir, device="cpu", workers=0, progress=progress
    )


def curve(run_dir: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


@pytest.fixture(autouse=True)
def _small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_training, "build_model", build)
    monkeypatch.setattr(loop, "evaluate", no_evaluation)


def final_weights(run_dir: Path) -> dict[str, Tensor]:
    tensors = load_checkpoint(sorted((run_dir / "state").iterdir())[-1]).tensors
    return {name: value for name, value in tensors.items() if name.startswith("model.")}


def one_process_of(count: int, rank: int, port: int, run_dir: Path, changes: tuple[str, ...]) -> None:
    """What torchrun starts, in a spawned process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    float_training.build_model, loop.evaluate, torch.optim.AdamW = build, no_evaluation, sgd
    run(run_dir, *changes)


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = (
        {name: curve(run_dir)[-1][name] for name in ("loss", *TERMS)} for run_dir in (one, other)
    )
    assert found == pytest.approx(expected, rel=1e-4)
    a, b = final_weights(one), final_weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.allclose(a[name], b[name], rtol=1e-3, atol=1e-5)] == []


def test_an_ordinary_decoder_adds_nothing() -> None:
    model = Segmentor(
        Eft(CHANNELS, (1, 1, 1, 1), 8, 2.0, 0.0), EdaDecoder(CHANNELS, 8, 1.0, 16, 3, 0.0, 0.0)
    ).train()
    image, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.uint8)
    logits, losses = model(image, mask)
    assert losses == {}
    assert torch.equal(logits, model(image))
    assert isinstance(model.eval()(image, mask), Tensor)


def test_each_term_is_logged_and_falls_and_the_classifier_is_kept(tmp_path: Path) -> None:
    run(tmp_path, "train.steps=60")
    first, last = curve(tmp_path)
    assert [name for name in ("loss", *TERMS) if not last[name] < first[name]] == []
    assert "model.decoder.region_losses.classifier.weight" in final_weights(tmp_path)


def test_accumulated_micro_batches_are_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_training, "build_model", build_without_norm)
    monkeypatch.setattr(torch.optim, "AdamW", sgd)
    for count in ("1", "2", "4"):
        run(tmp_path / count, "train.steps=4", f"train.accumulate={count}")
    assert_same_run(tmp_path / "1", tmp_path / "2")
    assert_same_run(tmp_path / "1", tmp_path / "4")


def test_two_processes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm included: its statistics cover all processes."""
    monkeypatch.setattr(torch.optim, "AdamW", sgd)
    changes = ("train.steps=4",)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    spawn = multiprocessing.get_context("spawn")
    children = [
        spawn.Process(target=one_process_of, args=(2, rank, port, tmp_path / "two", changes))
        for rank in range(2)
    ]
    for child in children:
        child.start()
    run(tmp_path / "one", *changes)
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0, 0]
    assert_same_run(tmp_path / "one", tmp_path / "two")


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
    run(tmp_path / "whole", "train.steps=5")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", "train.steps=5", progress=StopAt(2))
    run(tmp_path / "parts", "train.steps=5")
    whole, parts = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_loss_of_the_model_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(arch: str, num_classes: int) -> Segmentor:
        model = build(arch, num_classes)
        model.decoder.region_losses.mask_weight = float("inf")
        return model

    monkeypatch.setattr(float_training, "build_model", broken)
    with pytest.raises(BuildError, match="the loss is inf at step 1"):
        run(tmp_path, "train.steps=2")
