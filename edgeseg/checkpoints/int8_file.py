"""The checkpoint of a quantized model: the weights of its deployed form, its scales, and how it came about.

safetensors, as every checkpoint: no state of modelopt and nothing pickled. Whoever reads it builds the model,
deploys it, puts the quantizers in by the settings that the file names, and loads both strictly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.errors import DataError
from edgeseg.files import file_sha256
from edgeseg.int8.insert import insert_quantizers
from edgeseg.int8.scales import float_state, load_scales, scales
from edgeseg.models.segmentor import Segmentor
from edgeseg.models.weights import load_strict
from edgeseg.recipe.schema import Quant
from edgeseg.rewrite.form import Deployed, deploy
from edgeseg.specs import Form, ImageSpec, IsrPlan, LabelSpace, QuantHints

KIND = "quantized"
_WEIGHTS, _SCALES = "weights.", "scales."


@dataclass(frozen=True)
class Prepared:
    """A model in its deployed form, with quantizers; without ranges, until it is calibrated or scales are
    loaded.

    Attributes:
        model: evaluation mode; (1, 3, H, W), normalised as `image` says -> logits.
        image: what it takes.
    """

    model: nn.Module
    hints: QuantHints
    image: ImageSpec


def prepare(model: Segmentor, image: ImageSpec, settings: Quant) -> Prepared:
    """The deployed form of a float model, at the ISR plan in force, with quantizers; the model itself is not
    changed.

    Raises:
        MissingDependency, BuildError, RecipeError: as `insert_quantizers`.
    """
    deployed: Deployed = deploy(model, image, Form.QDQ)
    assert isinstance(deployed.model, Segmentor)
    hints = deployed.model.quant_hints()
    insert_quantizers(deployed.model, hints, settings)
    return Prepared(deployed.model, hints, deployed.image)


def save_quantized(
    path: Path,
    model: nn.Module,
    *,
    arch: str,
    options: Mapping[str, Any],
    labels: LabelSpace,
    plan: IsrPlan,
    size_hw: tuple[int, int],
    settings: Quant,
    float_sha256: str,
    calibration: Mapping[str, Any],
    coverage: Mapping[str, Any],
    qat: Mapping[str, Any] | None = None,
) -> None:
    """Write a quantized model; an existing file is replaced only when the new one is complete.

    Args:
        model: of `prepare`, calibrated.
        arch, options: what `build_model` needs to make the float model again.
        plan, size_hw: what it was calibrated at.
        settings: with which the quantizers were put in; they decide the placement when the file is read.
        float_sha256: of the float checkpoint that it came from.
        calibration, coverage, qat: reports, as JSON values; `qat` is None after calibration alone.
    Raises:
        BuildError: the file cannot be written.
    """
    tensors = {f"{_WEIGHTS}{name}": value for name, value in float_state(model).items()}
    tensors |= {f"{_SCALES}{name}": value for name, value in scales(model).items()}
    facts = {
        "kind": KIND,
        "arch": arch,
        "options": dict(options),
        "num_classes": labels.num_classes,
        "labels": asdict(labels),
        "form": Form.QDQ.value,
        "isr": asdict(plan),
        "size_hw": list(size_hw),
        "quant": settings.model_dump(mode="json"),
        "float_sha256": float_sha256,
        "calibration": dict(calibration),
        "coverage": dict(coverage),
        "qat": None if qat is None else dict(qat),
    }
    save_checkpoint(path, tensors, facts)


@dataclass(frozen=True)
class QuantizedFile:
    """What a quantized checkpoint says, read and checked; `fill` puts it into a model."""

    path: Path
    facts: dict[str, Any]
    settings: Quant
    labels: LabelSpace
    plan: IsrPlan
    sha256: str
    tensors: Mapping[str, Any]

    def fill(self, prepared: Prepared) -> None:
        """Load weights and scales into a model of `prepare`, strictly. Raises DataError where they do not
        fit.
        """
        plain = {
            name.removeprefix(_WEIGHTS): v for name, v in self.tensors.items() if name.startswith(_WEIGHTS)
        }
        ranges = {
            name.removeprefix(_SCALES): v for name, v in self.tensors.items() if name.startswith(_SCALES)
        }
        load_scales(prepared.model, ranges)
        held = {
            name: v
            for name, v in prepared.model.state_dict().items()
            if name not in float_state(prepared.model)
        }
        load_strict(prepared.model, {**held, **plain})


def read_quantized(path: Path) -> QuantizedFile:
    """Read a quantized checkpoint.

    Raises:
        DataError: missing, damaged, or a checkpoint of another kind or of another version.
    """
    loaded = load_checkpoint(path)
    facts, again = loaded.meta, "quantize it first: edgeseg quantize RECIPE"
    if facts.get("kind") != KIND:
        raise DataError(f"{path} is no quantized checkpoint, but of kind {facts.get('kind')!r}", hint=again)
    try:
        settings = Quant.model_validate_json(json.dumps(facts["quant"]))
        named, isr = facts["labels"], facts["isr"]
        labels = LabelSpace(
            tuple(named["names"]), tuple(tuple(c) for c in named["palette_rgb"]), named["ignore_index"]
        )
        plan = IsrPlan(tuple(isr["encoder"]), tuple(isr["decoder"]))
        if facts["form"] != Form.QDQ:
            raise ValueError(f"its form is {facts['form']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: this version cannot read what the file says of itself: {error}", hint=again
        ) from error
    return QuantizedFile(path, facts, settings, labels, plan, file_sha256(path), loaded.tensors)
