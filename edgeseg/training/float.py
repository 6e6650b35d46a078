"""Float training: from random weights, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeseg import __version__
from edgeseg.checkpoints.file import save_checkpoint
from edgeseg.contracts import Progress
from edgeseg.errors import RecipeError
from edgeseg.models import build_model
from edgeseg.recipe.load import recipe_digest
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import IsrPlan, LabelSpace
from edgeseg.training.distributed import Processes
from edgeseg.training.initial import load_initial
from edgeseg.training.loop import TrainResult, run_task
from edgeseg.training.losses import CrossEntropy
from edgeseg.training.optim import parameter_groups
from edgeseg.training.state import Counters

Tell = Callable[[str], None]


def train(
    recipe: Recipe,
    data_root: Path,
    run_dir: Path,
    *,
    init: Path | None = None,
    plan: IsrPlan | None = None,
    device: str = "auto",
    workers: int = 2,
    fresh: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a recipe, or continue the run that lies in `run_dir`.

    Args:
        data_root: folder that the recipe's data section is relative to.
        run_dir: gets recipe.yaml, metrics.jsonl, best.safetensors, state/ and samples/.
        init: checkpoint to start from; `train.init_skip` names what of it is not loaded.
        plan: ISR plan in force, in training and validation; by default the training ratios, whatever the
            recipe deploys.
        device: "cpu", "cuda" or "auto".
        workers: loader processes of each training process.
        fresh: set an earlier run in `run_dir` aside and start anew.
    Raises:
        RecipeError, DataError: see the message.
        BuildError: the loss became NaN or infinite; the last state is kept.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after the state of the last whole step was saved.
    """

    def make(labels: LabelSpace, here: Processes) -> _FloatTask:
        tell = progress.message if progress is not None and here.is_first else lambda text: None
        return _FloatTask(recipe, labels, here.device, init, plan, tell)

    return run_task(
        make, recipe, data_root, run_dir, device=device, workers=workers, fresh=fresh, progress=progress
    )


class _FloatTask:
    """A recipe's model with its cross-entropy, and with what its decoder adds; `tell` says what a user should
    know of `init`.
    """

    validate_first = False

    def __init__(
        self,
        recipe: Recipe,
        labels: LabelSpace,
        device: torch.device,
        init: Path | None,
        plan: IsrPlan | None,
        tell: Tell,
    ) -> None:
        self.recipe, self.labels, self.schedule = recipe, labels, recipe.train
        self.digest = recipe_digest(recipe)
        torch.manual_seed(recipe.train.seed)
        self.model = build_model(recipe.model.arch, labels.num_classes, **recipe.model.options).to(device)
        try:
            if plan is not None:
                self.model.set_isr(plan)
            self.image = self.model.image_spec(recipe.export.size_hw, recipe.export.layout)
            self.model.check_size(recipe.augment.crop_hw)
        except ValueError as error:
            raise RecipeError(
                f"{recipe.name}: {error}", hint="change export.size_hw and augment.crop_hw in the recipe"
            ) from error
        if init is not None:
            for told in load_initial(self.model, init, recipe, labels):
                tell(told)

    def parameter_groups(self) -> list[dict[str, object]]:
        return parameter_groups(self.model, self.schedule)

    def losses(
        self, network: nn.Module, images: Tensor, labels: Tensor, cross_entropy: CrossEntropy
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, auxiliary = network(images, labels, cross_entropy.ignore_index)
        return cross_entropy.total(logits, labels), auxiliary

    def set_mode(self) -> None:
        self.model.train()

    def stepped(self) -> None: ...

    def save_best(self, path: Path, counters: Counters) -> None:
        """What travels with the weights: enough to rebuild the model and to export it."""
        facts = {
            "kind": "weights",
            "edgeseg": __version__,
            "arch": self.recipe.model.arch,
            "num_classes": self.labels.num_classes,
            "labels": asdict(self.labels),
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_sha256": self.digest,
            "step": counters.step,
            "miou": counters.best_miou,
        }
        save_checkpoint(path, self.model.state_dict(), facts)
