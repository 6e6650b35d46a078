"""What every sweep starts from: a model in its deployed form, with quantizers, and images to calibrate on and
to judge by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg import __version__
from edgeseg.checkpoints.int8_file import prepare
from edgeseg.checkpoints.models import Trained, calibration_tensors, load_trained
from edgeseg.contracts import Progress
from edgeseg.data.calib import load_calib
from edgeseg.data.calib_images import CalibImages, open_calib
from edgeseg.data.datasets import open_dataset
from edgeseg.data.subset import Subset
from edgeseg.errors import RecipeError
from edgeseg.images import resize_image
from edgeseg.int8.calibrate import Seen, observe, set_ranges
from edgeseg.int8.scales import scales
from edgeseg.models.reference import TorchReference, normalise
from edgeseg.recipe.labels import require_same
from edgeseg.recipe.schema import Quant, Recipe
from edgeseg.specs import ImageSpec, MaskU8, QuantHints

_TASK = "calibrate"


@dataclass(frozen=True, eq=False)
class Setting:
    """A model to be quantized, and what to measure it on.

    Attributes:
        trained: the checkpoint.
        model: its deployed form, with quantizers where the recipe puts them; they have ranges after
            `calibrate`.
        hints: of the deployed form.
        image: what the deployed form takes.
        mask_stride: of the masks that are judged.
        calib: the calibration images.
        subset: the validation images.
    """

    recipe: Recipe
    quant: Quant
    trained: Trained
    model: nn.Module
    hints: QuantHints
    image: ImageSpec
    mask_stride: int
    calib: CalibImages
    subset: Subset

    def observed(self, progress: Progress) -> Seen:
        """What the calibration images look like to each quantizer. Raises DataError."""
        tensors = calibration_tensors(self.calib, self.image)
        progress.start(_TASK, len(self.calib))
        seen = observe(self.model, tensors, lambda done: progress.advance(_TASK))
        progress.finish(_TASK)
        return seen

    def calibrate(self, progress: Progress) -> None:
        """Give the quantizers their ranges, by the recipe's method. Raises DataError."""
        set_ranges(self.model, self.observed(progress), self.quant)

    def sample(self, index: int) -> tuple[Tensor, MaskU8]:
        """A validation image as the model takes it, (1, 3, h, w), and its labels, (H, W)."""
        image, mask = self.subset.load(index)
        return normalise(torch.from_numpy(resize_image(image, self.image.size_hw))[None], self.image), mask

    def at_mask(self, logits: Tensor) -> Tensor:
        """Logits of the model's own size as a program compares them: (1, K, h / mask_stride, w /
        mask_stride).
        """
        return TorchReference.at_stride(logits, self.image.size_hw, self.mask_stride)

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that a figure depends on, as JSON values; of a calibrated setting. Scales tell placement and
        ranges alike.
        """
        digest = hashlib.sha256()
        for name, scale in sorted(scales(self.model).items()):
            digest.update(name.encode() + scale.numpy().tobytes())
        return {
            "edgeseg": __version__,
            "checkpoint": self.trained.sha256,
            "scales": digest.hexdigest(),
            "quant": self.quant.model_dump(mode="json", exclude={"qat", "min_coverage", "max_miou_drop"}),
            "calibration": self.calib.calib_set.sha256,
            "export": self.recipe.export.model_dump(mode="json"),
            "isr": str(self.recipe.isr.plan()),
            "subset": self.subset.sha256,
        }

    def facts(self) -> dict[str, Any]:
        """What a report says of the setting."""
        return {
            "recipe": self.recipe.name,
            "arch": self.trained.arch,
            "checkpoint_sha256": self.trained.sha256,
            "size_hw": list(self.image.size_hw),
            "mask_stride": self.mask_stride,
            "isr": str(self.recipe.isr.plan()),
            "calibration": {
                "set": self.calib.calib_set.name,
                "sha256": self.calib.calib_set.sha256,
                "images": len(self.calib),
            },
            "method": self.quant.calibration.method,
            "attention": self.quant.attention,
            "images": len(self.subset),
            "image_names": self.subset.names,
            "subset_sha256": self.subset.sha256,
        }


def set_up(
    recipe: Recipe, checkpoint: Path, data_root: Path, limit: int | None, progress: Progress
) -> Setting:
    """Load, deploy, put quantizers in, check the calibration images, read the validation images.

    Args:
        limit: so many validation images, evenly spread; None: all.
    Raises:
        RecipeError: the recipe has no `quant` section, or one that does not fit the model.
        DataError: checkpoint, calibration set or data do not fit.
        BuildError: a layer that cannot be quantized.
        MissingDependency: modelopt is not installed.
    """
    if recipe.quant is None:
        raise RecipeError(
            f"{recipe.name} has quant: null, so there is nothing to quantize",
            hint="write a quant section into the recipe; edgeseg recipe schema describes it",
        )
    calib = open_calib(load_calib(recipe.quant.calibration.images), recipe.data, data_root)
    trained = load_trained(recipe, checkpoint)
    prepared = prepare(trained.model, trained.image, recipe.quant)
    for text in calib.warnings:
        progress.message(f"warning: {text}")
    dataset = open_dataset(recipe.data, "val", data_root)
    mend = "give the checkpoint of this data with --checkpoint"
    require_same(dataset.labels.names, trained.labels.names, "the data", str(checkpoint), hint=mend)
    return Setting(
        recipe=recipe,
        quant=recipe.quant,
        trained=trained,
        model=prepared.model,
        hints=prepared.hints,
        image=prepared.image,
        mask_stride=recipe.export.mask_stride,
        calib=calib,
        subset=Subset(dataset, limit),
    )
