"""Which layers compute in INT8, and why the others do not: one decision a layer, and modelopt's configuration
made from them.

INT8 is: weights symmetric, one scale per output channel, -127..127; activations symmetric, one scale per
tensor, -128..127. BatchNorm is folded before. Inputs of LayerNorm, softmax, logits, residual additions and
biases stay float: they have no quantizers at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from edgeseg.errors import BuildError, RecipeError
from edgeseg.int8.fake import BACKEND
from edgeseg.recipe.schema import Quant
from edgeseg.specs import Precision, QuantHints

QUANTIZABLE = (nn.Conv2d, nn.Linear)
"""Kinds of layers that have integer kernels in every runtime. ONNX Runtime has none for transposed
convolutions.
"""

WEIGHT: dict[str, Any] = {"num_bits": 8, "axis": 0, "narrow_range": True, "backend": BACKEND}
ACTIVATION: dict[str, Any] = {"num_bits": 8, "axis": None, "narrow_range": False, "backend": BACKEND}


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one layer, or of one product of activations.

    Attributes:
        kind: "Conv2d", "Linear", "Product" or another class of layer.
        reason: why it is float; empty where it is not.
    """

    name: str
    kind: str
    precision: Precision
    reason: str = ""


def decide(model: nn.Module, hints: QuantHints, settings: Quant) -> dict[str, Decision]:
    """The decision for every layer that holds weights and every product that the hints name, by name.

    The recipe's word goes before the model's, and both before the rule.

    Raises:
        BuildError: a layer that cannot be quantized, and nobody keeps float.
        RecipeError: `quant.keep_float` names no layer.
    """
    kinds = candidates(model, hints)
    _check_globs(settings.keep_float, kinds)
    decisions = {name: _decide(name, kind, hints, settings) for name, kind in kinds.items()}
    stuck = [decision for decision in decisions.values() if decision.reason == _UNQUANTIZABLE]
    if stuck:
        told, names = (
            ", ".join(form.format(d.name, d.kind) for d in stuck) for form in ("{0} ({1})", '"{0}"')
        )
        raise BuildError(
            f"there is no integer form of {told}", hint=f"keep it float: quant.keep_float: [{names}]"
        )
    return decisions


def candidates(model: nn.Module, hints: QuantHints) -> dict[str, str]:
    """Name and kind of every layer that holds weights and of every product that the hints name."""
    return {
        name: _kind(module)
        for name, module in model.named_modules()
        if _holds_weights(module) or name in hints.products
    }


def configuration(decisions: dict[str, Decision], hints: QuantHints) -> list[dict[str, Any]]:
    """modelopt's ordered list, later entries win: all off, then layers and products on, then what stays float
    off again.

    No pattern of modelopt's own is in it: its lists leave layers float by parts of their names, without a
    word.
    """
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    roles = {"weight": WEIGHT, "input": ACTIVATION, "a": ACTIVATION, "b": ACTIVATION}
    entries += [{"quantizer_name": f"*.{role}_quantizer", "cfg": cfg} for role, cfg in roles.items()]
    entries += [{"quantizer_name": f"{name}.output_quantizer", "cfg": ACTIVATION} for name in hints.outputs]
    off = [name for name, decision in decisions.items() if decision.precision == "float"]
    return entries + [{"quantizer_name": f"{name}.*_quantizer", "enable": False} for name in off]


def wanted(decisions: dict[str, Decision], hints: QuantHints) -> set[tuple[str, str]]:
    """(layer, role) of every quantizer that is to be on, see `quantizers`."""
    found: set[tuple[str, str]] = set()
    for name, decision in decisions.items():
        if decision.precision == "int8":
            roles = ["a", "b"] if name in hints.products else ["input", "weight"]
            found |= {(name, role) for role in [*roles, *(["output"] if name in hints.outputs else [])]}
    return found


_UNQUANTIZABLE = "it cannot be quantized"


def _decide(name: str, kind: str, hints: QuantHints, settings: Quant) -> Decision:
    reason = _reason(name, kind, hints, settings)
    return Decision(name, kind, "float" if reason else "int8", reason)


def _reason(name: str, kind: str, hints: QuantHints, settings: Quant) -> str:
    """Why a layer stays float; empty where it does not."""
    for pattern in settings.keep_float:
        if fnmatchcase(name, pattern):
            return f"the recipe says so: quant.keep_float: {pattern}"
    for layer, reason in hints.keep_float:
        if name == layer:
            return reason
    if name in hints.products:
        return "" if settings.attention == "int8" else "the recipe says so: quant.attention: float"
    if name == hints.first and settings.first_conv == "float":
        return "the recipe says so: quant.first_conv: float"
    if name == hints.classifier and settings.classifier == "float":
        return "the recipe says so: quant.classifier: float"
    return "" if kind in {quantizable.__name__ for quantizable in QUANTIZABLE} else _UNQUANTIZABLE


def _kind(module: nn.Module) -> str:
    """The name of a layer's class, as it was before it got quantizers."""
    return type(module).__name__.removeprefix("Quant")


def _holds_weights(module: nn.Module) -> bool:
    """Whether the module itself holds a matrix or a kernel; a gain or a bias alone multiplies nothing that
    counts.
    """
    return any(parameter.ndim >= 2 for parameter in module.parameters(recurse=False))


def _check_globs(globs: tuple[str, ...], names: dict[str, str]) -> None:
    for pattern in globs:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.3)
            raise RecipeError(
                f"quant.keep_float: no layer is named {pattern!r}",
                hint=f"did you mean {near[0]!r}?" if near else "edgeseg quantize lists the layers",
            )


def quantizers(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """(name of the layer, which: "input", "weight", "output", "a" or "b"; the quantizer) of all that are
    there, on or off.
    """
    for name, module in model.named_modules():
        layer, _, last = name.rpartition(".")
        if last.endswith("_quantizer"):
            yield layer, last.removesuffix("_quantizer"), module
