"""edgeseg.training.qat: distillation, the schedule, and a quantized model that learns, resumes bit-equal, and
loses nothing.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.checkpoints.int8_file import prepare
from edgeseg.contracts import NoProgress
from edgeseg.errors import DataError, RecipeError
from edgeseg.int8.calibrate import calibrate
from edgeseg.int8.scales import float_state, scales
from edgeseg.models import build_model
from edgeseg.recipe.load import load_recipe
from edgeseg.recipe.schema import Qat, Recipe, Train
from edgeseg.rewrite.form import deploy
from edgeseg.specs import Form, ImageSpec
from edgeseg.training.loop import TrainResult
from edgeseg.training.losses import distillation
from edgeseg.training.qat import finetune_int8, schedule
from locations import RECIPES

RECIPE = RECIPES / "edaformer_nano_synthetic_int8.yaml"
SMALL = ("augment.crop_hw=[64, 64]", "export.size_hw=[64, 64]")
QAT = {"steps": 6, "batch_size": 2, "lr": 1e-3, "warmup_steps": 1, "scales": "learned", "val_every": 6}


def recipe(**qat: Any) -> Recipe:
    loaded = load_recipe(RECIPE, SMALL)
    assert loaded.quant is not None
    section = Qat.model_validate({**QAT, **qat})
    return loaded.model_copy(update={"quant": loaded.quant.model_copy(update={"qat": section})})


@given(st.integers(0, 10_000), st.floats(0.5, 8.0))
@settings(max_examples=25, deadline=None)
def test_distillation_is_a_divergence_with_the_gradient_of_hinton(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.randn(2, 5, 3, 4, generator=generator) * 3 for _ in range(2))
    ours.requires_grad_()
    loss = distillation(ours, theirs, temperature)
    assert loss.item() >= 0.0
    assert distillation(theirs, theirs, temperature).item() == pytest.approx(0.0, abs=1e-6)
    assert distillation(ours + 7.0, theirs, temperature).item() == pytest.approx(
        loss.item(), rel=1e-3, abs=1e-5
    )
    (gradient,) = torch.autograd.grad(loss, ours)
    p, q = (F.softmax(x / temperature, dim=1) for x in (ours.detach(), theirs))
    assert torch.allclose(gradient, temperature * (p - q) / (2 * 3 * 4), atol=1e-6)


def test_the_schedule_is_float_trainings_but_for_what_qat_says() -> None:
    train = Train(
        steps=2000,
        batch_size=16,
        accumulate=4,
        ema_decay=0.99,
        patience=3,
        clip_norm=5.0,
        init_skip=("a",),
        amp="bf16",
    )
    made = schedule(train, Qat(steps=40, batch_size=6, lr=3e-4, warmup_steps=5, val_every=20))
    assert (made.steps, made.batch_size, made.accumulate, made.warmup_steps, made.val_every) == (
        40,
        6,
        1,
        5,
        20,
    )
    assert (
        made.checkpoint_every <= 20 and made.ema_decay is None and made.patience is None and made.amp == "off"
    )
    assert made.clip_norm == 5.0 and made.weight_decay == train.weight_decay


def test_a_recipe_without_qat_is_told(tmp_path: Path) -> None:
    loaded = load_recipe(RECIPE, ("quant.qat=null",))
    image = ImageSpec((64, 64))
    with pytest.raises(RecipeError, match=r"quant\.qat is null"):
        finetune_int8(
            loaded,
            nn.Identity(),
            nn.Identity(),
            image,
            Path(),
            tmp_path,
            start="x",
            save=lambda path, facts: None,
            device="cpu",
        )


class Pair:
    """A calibrated model and its teacher, with random weights; `run` trains a copy."""

    def __init__(self) -> None:
        loaded = recipe()
        assert loaded.quant is not None
        torch.manual_seed(0)
        model = build_model("edaformer_nano", 10).eval()
        image = model.image_spec((64, 64))
        prepared = prepare(model, image, loaded.quant)
        generator = torch.Generator().manual_seed(1)
        pictures = [60 * torch.randn(1, 3, 64, 64, generator=generator) for _ in range(2)]
        calibrate(prepared.model, pictures, loaded.quant)
        self.model, self.image, self.teacher = (
            prepared.model,
            prepared.image,
            deploy(model, image, Form.QDQ).model,
        )

    def run(
        self,
        folder: Path,
        loaded: Recipe,
        *,
        change: Callable[[nn.Module], None] = lambda model: None,
        start: str = "start",
        **options: Any,
    ) -> TrainResult:
        model = copy.deepcopy(self.model)
        change(model)

        def save(path: Path, facts: dict[str, Any]) -> None:
            save_checkpoint(path, {**float_state(model), **scales(model)}, {"kind": "test", **facts})

        return finetune_int8(
            loaded,
            model,
            copy.deepcopy(self.teacher),
            self.image,
            Path(),
            folder,
            start=start,
            save=save,
            device="cpu",
            workers=0,
            **options,
        )


@pytest.fixture(scope="module")
def pair() -> Pair:
    pytest.importorskip("modelopt", reason="the quant extra is not installed")
    return Pair()


class StopAt(NoProgress):
    """Presses Ctrl-C during a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        if task == "train" and steps == 1:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def final_state(run_dir: Path) -> dict[str, Tensor]:
    return load_checkpoint(sorted((run_dir / "state").iterdir())[-1]).tensors


@pytest.mark.slow
def test_a_stopped_training_continues_bit_equal_and_moves_weights_and_ranges(
    tmp_path: Path, pair: Pair
) -> None:
    pair.run(tmp_path / "whole", recipe())
    with pytest.raises(KeyboardInterrupt):
        pair.run(tmp_path / "parts", recipe(), progress=StopAt(3))
    assert pair.run(tmp_path / "parts", recipe()).step == 6
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    before = pair.model.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, whole[f"model.{name}"])}
    assert "encoder.stages.0.0.conv.weight" in moved
    ranges = {name for name in before if name.endswith("input_quantizer._amax")}
    assert len(ranges & moved) > len(ranges) // 2
    assert not any(name.endswith("weight_quantizer._amax") for name in moved)


@pytest.mark.slow
def test_frozen_ranges_stay_and_no_better_step_leaves_the_calibrated_model(
    tmp_path: Path, pair: Pair
) -> None:
    result = pair.run(tmp_path, recipe(scales="frozen", lr=1e-9))
    assert result.best_step == 0 and result.step == 6
    best, before = load_checkpoint(result.best), {**float_state(pair.model), **scales(pair.model)}
    assert best.meta["step"] == 0
    assert [name for name, value in before.items() if not torch.equal(value, best.tensors[name])] == []
    with pytest.raises(DataError, match="another recipe"):
        pair.run(tmp_path, recipe(scales="frozen", lr=1e-9), start="another")
