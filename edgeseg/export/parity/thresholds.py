"""How far two forms of one model may differ, for every rung of the parity ladder. The only place that says
so.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from torch import nn

from edgeseg.models.layers import SamplingLayer
from edgeseg.specs import Precision


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How far two forms of one float model may differ.

    Attributes:
        logits_error: max abs difference of the logits, over the largest logit of the reference.
        mask_agreement: smallest share of equal mask pixels on any image.
    """

    logits_error: float
    mask_agreement: float


FP32 = Thresholds(logits_error=1e-5, mask_agreement=0.999)
"""Float32 throughout: only the order of additions differs."""
FP32_SAMPLED = Thresholds(logits_error=1e-4, mask_agreement=0.999)
"""Float32 with maps that are read at computed positions: a rounded position is off by as much as the map is
steep there.
"""
FP16 = Thresholds(logits_error=1e-2, mask_agreement=0.99)
"""Weights rounded to 11 significant bits; arithmetic in float32, or in half precision where that is safe."""


def thresholds_of(graph: onnx.ModelProto, model: nn.Module) -> Thresholds:
    """The thresholds for a program of `model`, by the type of its weights and whether it reads maps at
    computed positions.
    """
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.graph.initializer)
    sampled = any(isinstance(module, SamplingLayer) for module in model.modules())
    return FP16 if half else FP32_SAMPLED if sampled else FP32


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure must reach: at least `least`, at most `most`; None: no such bound."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """False for NaN."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and value == value
        )

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


Limits = dict[str, Limit]
"""Figure -> what it must reach."""

GOLDEN: dict[Precision, Limits] = {
    "float": {"mask_agreement": Limit(least=0.999)},
    "fp16": {"mask_agreement": Limit(least=0.999)},
    "int8": {"mask_agreement": Limit(least=0.99)},
}
"""P0; for fp16 it is the float model's. The same weights in the same library; another version of it, or
another processor, adds up in another order. Where values are rounded, that flips steps, as in P2."""

IMPOSED: Limits = {
    "logits_error": Limit(most=1e-5),
    "input_error_steps": Limit(most=0.01),
    "different_codes": Limit(most=0),
}
"""P1 of INT8, with the same integers on both sides: only the order of additions differs between two
roundings.

The largest difference of the logits over the largest logit; of any quantizer's input, in steps of that
quantizer; and how many integers differ where both sides round the same input.
"""

ROUNDED: Limits = {"mask_agreement": Limit(least=0.99), "sqnr_db": Limit(least=30.0)}
"""P2 and P3 of INT8. Each side rounds what it computed itself, and inputs that differ in their last bit round
to neighbours where they lie at a tie; the steps that flip so go on through the net. They are noise of the
size of rounding itself, and no more."""

HALVED: Limits = {"mask_agreement": Limit(least=0.99), "sqnr_db": Limit(least=40.0)}
"""P2 and P3 of fp16. One side may compute in half precision what the other computes in float32 from the same
halved weights.
"""

REORDERED: Limits = {"mask_agreement": Limit(least=0.999), "sqnr_db": Limit(least=60.0)}
"""P2 and P3 of float programs: nothing rounds, so nothing flips."""


def runtime_limits(precision: Precision) -> Limits:
    """For two runtimes, or two optimisations of one, that run the same program."""
    return {"float": REORDERED, "fp16": HALVED, "int8": ROUNDED}[precision]
