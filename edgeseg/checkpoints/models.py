"""A checkpoint as a model that can run, be measured and be exported. torch is imported where it is used, not
here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import DataError, RecipeError
from edgeseg.files import file_sha256
from edgeseg.recipe.architectures import entry_of
from edgeseg.recipe.labels import Held, held_in, settled
from edgeseg.recipe.schema import Quant, Recipe
from edgeseg.specs import ImageSpec, ImageU8, IsrPlan, LabelSpace, Layout, QuantHints
from edgeseg.text import quoted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgeseg.models.reference import TorchReference
    from edgeseg.models.segmentor import Segmentor


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to run or to export.

    Attributes:
        labels: the recipe's classes and colours, which are the checkpoint's classes too.
        told: what the user should know of the checkpoint beside the recipe.
    """

    model: Segmentor
    arch: str
    labels: LabelSpace
    image: ImageSpec
    sha256: str
    told: tuple[str, ...] = ()

    def reference(self, mask_stride: int) -> TorchReference:
        """The model as a session-like reference."""
        from edgeseg.models.reference import TorchReference

        return TorchReference(self.model, self.image, mask_stride)

    def check_crop(self, crop_hw: tuple[int, int]) -> None:
        """Raise RecipeError where training at the plan in force would not take such a crop."""
        try:
            self.model.check_size(crop_hw)
        except ValueError as error:
            hint = "change augment.crop_hw in the recipe, or the ISR plan"
            raise RecipeError(f"augment.crop_hw, ISR {self.model.isr_plan}: {error}", hint=hint) from error

    def at(self, plan: IsrPlan) -> Trained:
        """The same weights, shared and not copied, at another ISR plan. Raises RecipeError where the size
        does not fit it.
        """
        model = copy.deepcopy(self.model, {id(parameter): parameter for parameter in self.model.parameters()})
        return replace(self, model=model, image=_at_plan(model, plan, self.image.size_hw, self.image.layout))


def _at_plan(model: Segmentor, plan: IsrPlan, size_hw: tuple[int, int], layout: Layout) -> ImageSpec:
    """Put an ISR plan in force; the image that the model then takes. Raises RecipeError where the size does
    not fit.
    """
    try:
        model.set_isr(plan)
        return model.image_spec(size_hw, layout)
    except ValueError as error:
        raise RecipeError(
            f"ISR {plan}: {error}", hint="change export.size_hw in the recipe, or the ISR plan"
        ) from error


def load_trained(recipe: Recipe, checkpoint: Path, plan: IsrPlan | None = None) -> Trained:
    """Build the recipe's model and fill it from a checkpoint; an ISR plan and the recipe's image size are put
    in force.

    Args:
        plan: by default, the recipe's.
    Raises:
        DataError: damaged checkpoint, another architecture; another number of classes, other names, or
            another order.
        RecipeError: the image size does not fit the model at this ISR plan.
    """
    from edgeseg.checkpoints.file import load_checkpoint
    from edgeseg.models import build_model
    from edgeseg.models.threads import take_usable_cores
    from edgeseg.models.weights import load_strict

    take_usable_cores()
    loaded = load_checkpoint(checkpoint, recipe.model.arch)
    arch, facts = recipe.model.arch, loaded.meta
    if facts.get("arch") != arch:
        raise DataError(
            f"{checkpoint} holds {facts.get('arch')}, the recipe {recipe.name} names {arch}",
            hint="give the checkpoint of this recipe with --checkpoint, or the recipe of this checkpoint",
        )
    if facts["num_classes"] is None:
        raise DataError(
            f"{checkpoint} holds {arch}'s encoder alone, which cannot segment",
            hint=(
                f"train from it: edgeseg train {quoted(recipe.name)} --init {quoted(checkpoint)}, "
                'with train.init_skip: ["decoder.*"]'
            ),
        )
    labels, told = settled(recipe.data, held_in(facts), facts["num_classes"], str(checkpoint))
    _check_options(recipe, facts, checkpoint)
    model = build_model(arch, labels.num_classes, **recipe.model.options)
    load_strict(model, loaded.tensors)
    image = _at_plan(model, plan or recipe.isr.plan(), recipe.export.size_hw, recipe.export.layout)
    digest = file_sha256(checkpoint)
    return Trained(model.eval(), arch, labels, image, digest, tuple(told))


def _check_options(recipe: Recipe, facts: Mapping[str, Any], checkpoint: Path) -> None:
    """Raise DataError where a checkpoint was trained with other options, of those that change what the model
    computes.

    Some change no shape, such as `heads`: strict loading does not see them.
    """
    kept = (
        facts.get("recipe", {}).get("model", {}).get("options")
        if "recipe" in facts
        else facts.get("options", {})
    )
    entry = entry_of(recipe.model.arch)
    known = entry.options if entry else {}
    for name, option in known.items():
        ours = recipe.model.options.get(name, option.default)
        theirs = kept.get(name, option.default if "recipe" in facts else ours)
        if ours != theirs and not option.in_training:
            raise DataError(
                f"{checkpoint} is a model with {name}: {json.dumps(theirs)}, the recipe {recipe.name} says"
                f" {json.dumps(ours)}",
                hint=f"write it into the recipe, under model.options: {name}: {json.dumps(theirs)}",
            )


@dataclass(frozen=True)
class Quantized:
    """A quantized model, ready to run or to export; its quantizers round where an INT8 engine does.

    Attributes:
        model: the deployed form, (1, 3, H, W), normalised as `image` says -> logits.
        settings: with which its quantizers were placed.
        facts: what the checkpoint says of itself, as JSON values: `kind`, `arch`, `labels`, `isr`, `quant`,
            `float_sha256`, `calibration`, `coverage`, `qat`.
    """

    model: nn.Module
    hints: QuantHints
    image: ImageSpec
    labels: LabelSpace
    arch: str
    plan: IsrPlan
    settings: Quant
    sha256: str
    facts: dict[str, Any]

    def reference(self, mask_stride: int) -> TorchReference:
        """The model as a session-like reference."""
        from edgeseg.models.reference import TorchReference

        return TorchReference(self.model, self.image, mask_stride)


def load_quantized(recipe: Recipe, checkpoint: Path, plan: IsrPlan | None = None) -> Quantized:
    """Build the recipe's model, deploy it, put its quantizers in and fill it from a quantized checkpoint.

    Args:
        plan: by default, the one that the checkpoint was calibrated at; another one takes the same weights
            and scales.
    Raises:
        DataError: damaged checkpoint, one of another kind or architecture, or quantized in another way than
            the recipe says.
        RecipeError: the image size does not fit the model at this ISR plan.
        MissingDependency: modelopt is not installed.
    """
    from edgeseg.checkpoints.int8_file import prepare, read_quantized
    from edgeseg.models import build_model

    file = read_quantized(checkpoint)
    if file.facts["arch"] != recipe.model.arch:
        raise DataError(
            f"{checkpoint} holds {file.facts['arch']}, the recipe {recipe.name} names {recipe.model.arch}",
            hint="give the checkpoint of this recipe, or the recipe of this checkpoint",
        )
    if recipe.quant is not None:
        _check_settings(recipe.quant, file.settings, checkpoint)
    held = Held(file.labels.names, file.labels.palette_rgb, file.labels.ignore_index)
    labels, _ = settled(recipe.data, held, file.labels.num_classes, str(checkpoint))
    plan = plan or file.plan
    model = build_model(file.facts["arch"], file.labels.num_classes, **file.facts["options"])
    image = _at_plan(model, plan, recipe.export.size_hw, recipe.export.layout)
    prepared = prepare(model.eval(), image, file.settings)
    file.fill(prepared)
    return Quantized(
        model=prepared.model,
        hints=prepared.hints,
        image=prepared.image,
        labels=labels,
        arch=recipe.model.arch,
        plan=plan,
        settings=file.settings,
        sha256=file.sha256,
        facts=file.facts,
    )


def _check_settings(asked: Quant, made: Quant, checkpoint: Path) -> None:
    """Raise DataError where the recipe asks for another placement than the file has; more layers may be float
    in the file.
    """
    for key in ("attention", "first_conv", "classifier"):
        if getattr(asked, key) != getattr(made, key):
            raise DataError(
                f"{checkpoint} was quantized with quant.{key}: {getattr(made, key)}, the recipe says"
                f" {getattr(asked, key)}",
                hint="quantize again: edgeseg quantize RECIPE",
            )
    forgotten = [pattern for pattern in asked.keep_float if pattern not in made.keep_float]
    if forgotten:
        raise DataError(
            f"{checkpoint} was quantized without quant.keep_float: {', '.join(forgotten)}",
            hint="quantize again: edgeseg quantize RECIPE",
        )


def calibration_tensors(images: Iterable[ImageU8], image: ImageSpec) -> Iterator[Tensor]:
    """Images of any size, (H, W, 3) uint8 RGB, as a deployed model takes them: (1, 3, h, w) float32, resized
    and normalised.
    """
    import torch

    from edgeseg.images import resize_image
    from edgeseg.models.reference import normalise

    for picture in images:
        yield normalise(torch.from_numpy(resize_image(picture, image.size_hw))[None], image)
