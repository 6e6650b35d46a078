"""Quantization-aware training: a quantized model learns, in the loop of float training, to say what its float
model says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.contracts import Progress
from edgeseg.errors import RecipeError
from edgeseg.int8.rules import quantizers
from edgeseg.recipe.schema import Qat, Recipe, Train
from edgeseg.specs import ImageSpec, LabelSpace
from edgeseg.training.distributed import Processes
from edgeseg.training.loop import TrainResult, run_task
from edgeseg.training.losses import CrossEntropy, distillation
from edgeseg.training.state import Counters

_LEAST_RANGE = 1e-2
"""A learned range stays above this share of what calibration found."""
_LEAST_SIZE = 1e-3
"""A tensor counts as at least this large, so that one of zeros can move."""

Save = Callable[[Path, dict[str, Any]], None]
"""Writes the quantized model as it is now, with facts about the training that made it."""


def finetune_int8(
    recipe: Recipe,
    model: nn.Module,
    teacher: nn.Module,
    image: ImageSpec,
    data_root: Path,
    run_dir: Path,
    *,
    start: str,
    save: Save,
    device: str = "auto",
    workers: int = 2,
    fresh: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a calibrated model, or continue the run that lies in `run_dir`.

    The model is the deployed one, so it trains in evaluation mode: no dropout, no stochastic depth, the ISR
    plan in force. The calibrated model is validated first and kept as best.safetensors (`best_step` 0) until
    a step is better.

    Args:
        model: with quantizers and their ranges; trained in place, and left as the last step left it.
        teacher: the float model, deployed at the same plan; not changed.
        image: what both take.
        start: digest of the calibrated model; a run from another one is refused.
        save: writes best.safetensors.
        device, workers, fresh: as in float training.
    Raises:
        RecipeError: the recipe has no quant.qat section, or the training crop does not fit the ISR plan.
        DataError, BuildError, KeyboardInterrupt: as in float training.
    """
    qat = recipe.quant.qat if recipe.quant is not None else None
    if qat is None:
        raise RecipeError(
            f"{recipe.name}: quant.qat is null", hint="write a quant.qat section, or use --ptq-only"
        )

    def make(labels: LabelSpace, here: Processes) -> _QatTask:
        return _QatTask(
            qat,
            schedule(recipe.train, qat),
            model.to(here.device),
            teacher.to(here.device),
            image,
            start,
            save,
        )

    try:
        return run_task(
            make, recipe, data_root, run_dir, device=device, workers=workers, fresh=fresh, progress=progress
        )
    finally:
        model.cpu()
        teacher.cpu()


def schedule(train: Train, qat: Qat) -> Train:
    """Float training's settings with the length, batch and learning rate of QAT; no weight averaging.

    No bf16 either: what is learned is how to live with the engine's rounding, and bf16 rounds as coarsely
    again.
    """
    data = train.model_dump() | {
        "steps": qat.steps,
        "batch_size": qat.batch_size,
        "accumulate": 1,
        "lr": qat.lr,
        "decoder_lr_factor": 1.0,
        "warmup_steps": qat.warmup_steps,
        "val_every": qat.val_every,
        "checkpoint_every": min(train.checkpoint_every, qat.val_every),
        "ema_decay": None,
        "amp": "off",
        "patience": None,
        "init_skip": (),
    }
    return Train.model_validate(data)


class _QatTask:
    """A quantized model between its labels and its teacher."""

    validate_first = True

    def __init__(
        self,
        qat: Qat,
        schedule: Train,
        model: nn.Module,
        teacher: nn.Module,
        image: ImageSpec,
        digest: str,
        save: Save,
    ) -> None:
        self.qat, self.schedule, self.model, self.image, self.digest, self.save = (
            qat,
            schedule,
            model,
            image,
            digest,
            save,
        )
        self.teacher = teacher.eval().requires_grad_(False)
        model.requires_grad_(True)
        self.ranges = learned_ranges(model) if qat.scales == "learned" else {}
        self.least = {name: amax.detach().clone() * _LEAST_RANGE for name, amax in self.ranges.items()}

    def parameter_groups(self) -> list[dict[str, object]]:
        """A group for each tensor, as its learning rate goes by its size; biases, norms and ranges are not
        decayed.

        A step of Adam moves every weight by about the learning rate, whatever its size. In the deployed form
        sizes differ by orders of magnitude: what was folded into a convolution, such as the division of an
        image by its deviation, is in them. Source: relative step sizes, Adafactor (arXiv 1804.04235), section
        8.
        """
        groups: list[dict[str, object]] = []
        for name, parameter in self.model.named_parameters():
            size = max(float(parameter.detach().square().mean().sqrt()), _LEAST_SIZE)
            decay = self.schedule.weight_decay if parameter.ndim > 1 else 0.0
            lr = self.qat.lr * size
            groups.append(
                {
                    "label": name,
                    "lr": lr,
                    "peak_lr": lr,
                    "weight_decay": decay,
                    "names": [name],
                    "params": [parameter],
                }
            )
        return groups

    def losses(
        self, network: nn.Module, images: Tensor, labels: Tensor, cross_entropy: CrossEntropy
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight = self.qat.distill_weight
        logits = network(images)
        with torch.no_grad():
            taught = self.teacher(images)
        distilled = distillation(logits, taught, self.qat.temperature)
        return (1.0 - weight) * cross_entropy.total(logits, labels), {"distill": weight * distilled}

    def set_mode(self) -> None:
        self.model.eval()

    @torch.no_grad()
    def stepped(self) -> None:
        for name, amax in self.ranges.items():
            amax.clamp_(min=self.least[name])

    def save_best(self, path: Path, counters: Counters) -> None:
        self.save(path, {"step": counters.step, "miou": counters.best_miou, "scales": self.qat.scales})


def learned_ranges(model: nn.Module) -> dict[str, nn.Parameter]:
    """Make the range of every activation that is rounded a parameter, in place; by name. Those of weights
    stay as they are.

    Source: Esser et al., Learned Step Size Quantization (arXiv 1902.08153).
    """
    ranges = {}
    for layer, role, quantizer in quantizers(model):
        if role == "weight" or not quantizer.is_enabled:
            continue
        amax = nn.Parameter(quantizer._amax.detach().clone())
        del quantizer._amax
        quantizer.register_parameter("_amax", amax)
        ranges[f"{layer}.{role}_quantizer._amax"] = amax
    return ranges
