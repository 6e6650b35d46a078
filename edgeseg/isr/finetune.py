"""Fine-tuning at a plan: accuracy that a hard plan lost, won back by training with that plan in force."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeseg.checkpoints.models import load_trained
from edgeseg.contracts import Progress
from edgeseg.data.datasets import open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.errors import RecipeError
from edgeseg.isr.engines import plan_space
from edgeseg.recipe.labels import require_same
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import IsrPlan
from edgeseg.training.float import train

WARMUP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Finetuned:
    """mIoU of the torch model at the plan, on the whole validation split, before and after; the run's folder
    and best weights.
    """

    plan: IsrPlan
    before: float
    after: float
    steps: int
    run_dir: Path
    checkpoint: Path


def finetune(
    recipe: Recipe,
    checkpoint: Path,
    plan: IsrPlan,
    data_root: Path,
    run_dir: Path,
    *,
    progress: Progress | None = None,
) -> Finetuned:
    """Train on from a checkpoint for `isr.finetune_steps` with a plan in force; continues a run that was
    stopped.

    The recipe otherwise holds, except for what the length demands: the learning rate peaks at
    `isr.finetune_lr_factor` of `train.lr` after a warm-up of a tenth of the steps at most, and all weights
    are taken over. `run_dir` becomes a run at this plan: it can be exported.

    Source: EDAFormer (arXiv 2407.17261) fine-tunes for its hardest plan; its schedule is not published beyond
        the length.
    Raises:
        RecipeError: `isr.finetune_steps` is 0, or the plan does not fit export.size_hw or augment.crop_hw.
        DataError, BuildError, KeyboardInterrupt: as training does.
    """
    steps = recipe.isr.finetune_steps
    if not steps:
        raise RecipeError(
            f"{recipe.name}: isr.finetune_steps is 0",
            hint="write isr.finetune_steps into the recipe, or --set isr.finetune_steps=2000",
        )
    trained = load_trained(recipe, checkpoint)
    plan_space(trained.model, recipe.export.size_hw).check(plan)
    trained = load_trained(recipe, checkpoint, plan)
    trained.check_crop(recipe.augment.crop_hw)
    dataset, mend = (
        open_dataset(recipe.data, "val", data_root),
        "fine-tune on data of the checkpoint's classes",
    )
    require_same(dataset.labels.names, trained.labels.names, "the data", str(checkpoint), hint=mend)
    reference = trained.reference(recipe.export.mask_stride)
    before = evaluate(reference.segment, dataset, progress=progress).miou()
    if progress is not None:
        progress.message(f"mIoU at {plan} before fine-tuning: {before:.4f}")
    result = train(
        tuned_recipe(recipe, plan), data_root, run_dir, init=checkpoint, plan=plan, progress=progress
    )
    return Finetuned(plan, before, result.miou, result.step, run_dir, result.best)


def tuned_recipe(recipe: Recipe, plan: IsrPlan) -> Recipe:
    """The recipe of a fine-tuning run at a plan."""
    data = recipe.model_dump()
    steps = recipe.isr.finetune_steps
    data["isr"] |= {"encoder": plan.encoder, "decoder": plan.decoder}
    data["train"] |= {
        "steps": steps,
        "lr": recipe.train.lr * recipe.isr.finetune_lr_factor,
        "warmup_steps": min(recipe.train.warmup_steps, int(WARMUP_SHARE * steps)),
        "init_skip": (),
    }
    return Recipe.model_validate(data)
