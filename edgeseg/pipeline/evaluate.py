"""Bundle -> mIoU, through its engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.bundle import Bundle
from edgeseg.contracts import Progress, SegDataset
from edgeseg.data.datasets import open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.engines.open import open_session
from edgeseg.errors import GateFailed
from edgeseg.metrics import ConfusionMatrix
from edgeseg.recipe.labels import require_same
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import LabelSpace, Precision
from edgeseg.text import quoted


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of an engine, and of the float torch model on the same images where a checkpoint was given.

    Attributes:
        precision: of the engine's program.
    """

    images: int
    precision: Precision
    engine: ConfusionMatrix
    torch: ConfusionMatrix | None
    labels: LabelSpace

    @property
    def miou(self) -> float:
        """Mean IoU of the engine over the classes, a fraction."""
        return self.engine.miou()

    @property
    def drop(self) -> float | None:
        """mIoU that the engine lost against the torch model, a fraction; negative where it gained."""
        return None if self.torch is None else self.torch.miou() - self.engine.miou()

    def to_json(self) -> dict[str, Any]:
        names = self.labels.names
        return {
            "images": self.images,
            "precision": self.precision,
            "engine": self.engine.report(names),
            "torch": None if self.torch is None else self.torch.report(names),
            "miou_drop": self.drop,
        }


def evaluate_bundle(
    bundle: Bundle,
    recipe: Recipe,
    data_root: Path,
    *,
    level: int = 0,
    precision: Precision | None = None,
    checkpoint: Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    gated: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """mIoU of this device's engine on the recipe's validation split, and of the checkpoint it came from at
    the same ISR plan.

    Args:
        recipe: the bundle's own, or with overrides of its data section.
        level: which of the bundle's ISR levels.
        precision: of the program; None: this device's default engine of the level.
        checkpoint: of the float model.
        limit: use this many images, evenly spread.
        gated: False: measure only, whatever is lost.
    Raises:
        DataError: data or checkpoint do not fit.
        GateFailed: the engine lost more mIoU than the recipe's gate for its precision; the report holds the
            figures.
    """
    program = bundle.any_program(level)
    dataset, indices = validation_split(recipe, data_root, program.labels, limit)
    with open_session(bundle, level, threads=threads, precision=precision) as session:
        used = session.program.precision
        engine = evaluate(session.segment, dataset, indices, progress)
    torch_confusion = None
    if checkpoint is not None:
        from edgeseg.checkpoints.models import load_trained  # which needs torch; an engine alone does not

        reference = load_trained(recipe, checkpoint, program.isr).reference(program.mask_stride)
        torch_confusion = evaluate(reference.segment, dataset, indices, progress)
    evaluation = Evaluation(len(indices), used, engine, torch_confusion, program.labels)
    gate, allowed = recipe.miou_gate(used)
    if gated and evaluation.drop is not None and evaluation.drop > allowed:
        raise GateFailed(
            f"the {used} engine lost {evaluation.drop:.4f} mIoU against the float torch model; {gate} is"
            f" {allowed}",
            hint=(
                f"edgeseg bundle verify {quoted(bundle.path)} --run, then"
                f" {'quantize' if used == 'int8' else 'export'} again"
            ),
            report=evaluation.to_json(),
        )
    return evaluation


def validation_split(
    recipe: Recipe, data_root: Path, labels: LabelSpace, limit: int | None
) -> tuple[SegDataset, list[int]]:
    """The validation split, and `limit` samples of it, evenly spread. Raises DataError where its classes are
    not `labels`.
    """
    dataset: SegDataset = open_dataset(recipe.data, "val", data_root)
    require_same(
        dataset.labels.names,
        labels.names,
        "the data",
        "the bundle",
        hint="evaluate on data of the bundle's classes",
    )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    return dataset, [int(i) for i in np.linspace(0, len(dataset) - 1, count)]
