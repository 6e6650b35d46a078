"""What share of a model's multiply-adds runs in INT8, and for every layer that does not, why."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.errors import GateFailed
from edgeseg.int8.rules import decide, quantizers
from edgeseg.recipe.schema import Quant
from edgeseg.specs import Precision, QuantHints

OTHER = "(products outside of layers)"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, or one product of activations; `reason` says why it is float."""

    name: str
    kind: str
    macs: int
    precision: Precision
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Every layer that holds weights, every product of activations, and one row for multiply-adds outside of
    both.

    Attributes:
        share: of all multiply-adds, those in INT8; 0..1.
        depthwise_share: of all multiply-adds, those in INT8 in depthwise convolutions, whose weights the form
            for TensorRT keeps in half precision; 0..1.
    """

    share: float
    macs: int
    layers: tuple[Layer, ...]
    depthwise_share: float

    @property
    def floats(self) -> tuple[Layer, ...]:
        """What stays float, the costliest first."""
        return tuple(
            sorted(
                (layer for layer in self.layers if layer.precision == "float"), key=lambda layer: -layer.macs
            )
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, settings: Quant) -> None:
        """Raises GateFailed, with this as its report, where the share is below `quant.min_coverage`."""
        if self.share >= settings.min_coverage:
            return
        told = [
            f"{layer.name} ({layer.macs / self.macs:.1%}: {layer.reason})" for layer in self.floats[:_SHOWN]
        ]
        raise GateFailed(
            f"{self.share:.1%} of the multiply-adds are in INT8, quant.min_coverage asks for"
            f" {settings.min_coverage:.1%}; float: " + "; ".join(told),
            hint=(
                "take layers out of quant.keep_float, set quant.attention: int8, or lower quant.min_coverage"
            ),
            report=self.to_json(),
        )


def coverage(model: nn.Module, hints: QuantHints, settings: Quant, size_hw: tuple[int, int]) -> Coverage:
    """Count the multiply-adds of a model in its deployed form for one image of `size_hw`, at the ISR plan in
    force.

    With quantizers in place, what they do is what counts; without, what the rules would make of it.

    Convolutions, linear layers and products of matrices count. Norms, activations, pooling, resizing and
    sampling do not.

    Raises:
        BuildError, RecipeError: as `rules.decide`.
    """
    decisions = decide(model, hints, settings)
    macs = _macs(model, size_hw)
    rounds: dict[str, bool] = {}  # whether all operands of a layer are rounded
    for name, role, quantizer in quantizers(model):
        if role != "output":
            rounds[name] = rounds.get(name, True) and quantizer.is_enabled
    layers = []
    for name, decision in decisions.items():
        precision: Precision = ("int8" if rounds.get(name) else "float") if rounds else decision.precision
        reason = "" if precision == "int8" else decision.reason or "its quantizers were switched off"
        layers.append(Layer(name, decision.kind, macs.get(name, 0), precision, reason))
    total = macs[""]
    other = total - sum(layer.macs for layer in layers)
    if other:
        layers.append(
            Layer(OTHER, "matmul", other, "float", "no layers of the model, so that no quantizer finds them")
        )
    covered = {layer.name: layer.macs for layer in layers if layer.precision == "int8"}
    depthwise = sum(covered.get(name, 0) for name, module in model.named_modules() if _is_depthwise(module))
    return Coverage(sum(covered.values()) / (total or 1), total, tuple(layers), depthwise / (total or 1))


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def _macs(model: nn.Module, size_hw: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of every module, by name; of the whole under ""."""
    model = copy.deepcopy(model).to("meta").eval()
    for _, _, quantizer in quantizers(model):
        quantizer.disable_quant()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size_hw, device="meta"))
    root = type(model).__name__
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return {
        "": counts.get("Global", 0),
        **{name.removeprefix(f"{root}."): macs for name, macs in counts.items() if name != root},
    }
