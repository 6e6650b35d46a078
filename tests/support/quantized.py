"""A model with quantizers that have their ranges, as a quantized checkpoint gives one, without a
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgeseg.checkpoints.int8_file import prepare
from edgeseg.int8.calibrate import calibrate
from edgeseg.models import build_model
from edgeseg.recipe.schema import Calibration, Quant
from edgeseg.specs import ImageSpec, IsrPlan, LabelSpace, QuantHints
from golden_rule import fill

LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))
SETTINGS = Quant(
    calibration=Calibration(images="none", method="max"),
    attention="int8",
    min_coverage=0.5,
    max_miou_drop=0.01,
    qat=None,
)


@dataclass(frozen=True)
class QuantizedModel:
    """What `export_qdq` takes."""

    model: nn.Module
    hints: QuantHints
    image: ImageSpec
    labels: LabelSpace
    arch: str
    plan: IsrPlan


def quantized_model(
    name: str, size_hw: tuple[int, int], settings: Quant = SETTINGS, **options: str
) -> QuantizedModel:
    """A model with parameters that are all different from zero, calibrated on noise; `options` are the
    catalogue entry's.
    """
    model = fill(build_model(name, LABELS.num_classes, **options)).eval()
    prepared = prepare(model, model.image_spec(size_hw, "HWC"), settings)
    pixels = torch.randint(0, 256, (2, 1, 3, *size_hw), generator=torch.Generator().manual_seed(0)).float()
    calibrate(prepared.model, list(pixels - torch.tensor(prepared.image.mean_rgb)[:, None, None]), settings)
    return QuantizedModel(prepared.model, prepared.hints, prepared.image, LABELS, name, model.isr_plan)
