"""Scales of a quantized model as plain tensors: what an exporter reads and a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.errors import DataError
from edgeseg.int8.fake import amax_of, scale_of
from edgeseg.int8.rules import quantizers

_SHOWN = 5


def scales(model: nn.Module) -> dict[str, Tensor]:
    """The scale of every quantizer that is on, x ~ scale * int8.

    The names are "<layer>.<input|weight|output|a|b>_scale".

    Shapes: () for activations, (C_out,) for weights. float32, positive, on the CPU.

    Raises:
        ValueError: a quantizer has no range yet.
    """
    found: dict[str, Tensor] = {}
    for layer, role, quantizer in quantizers(model):
        if quantizer.is_enabled:
            if quantizer.amax is None:
                raise ValueError(
                    f"{layer}: its {role} quantizer has no range: calibrate the model, or load scales into it"
                )
            scale = scale_of(quantizer.amax.detach().float().cpu())
            found[f"{layer}.{role}_scale"] = scale.reshape(-1) if role == "weight" else scale.reshape(())
    return found


def load_scales(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a model's quantizers their scales, in place: all of those that are on, and no other.

    Raises:
        DataError: a scale is missing, too many, of another shape, not positive or not finite; the model is as
            before.
    """
    wanted = {
        f"{layer}.{role}_scale": (layer, role, q) for layer, role, q in quantizers(model) if q.is_enabled
    }
    modules = dict(model.named_modules())
    shapes = {name: _shape(modules[layer], role) for name, (layer, role, _) in wanted.items()}
    wrong = [f"missing: {name}" for name in wanted if name not in values]
    wrong += [f"unexpected: {name}" for name in values if name not in wanted]
    wrong += [
        f"{name} {tuple(values[name].shape)}, model {shape}"
        for name, shape in shapes.items()
        if name in values and tuple(values[name].shape) != shape
    ]
    wrong += [
        f"not positive: {name}"
        for name, value in values.items()
        if not ((value > 0) & torch.isfinite(value)).all()
    ]
    if wrong:
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"the scales do not fit the model: {'; '.join(wrong[:_SHOWN])}{more}",
            hint="quantize again with this recipe: edgeseg quantize RECIPE",
        )
    for name, (layer, role, quantizer) in wanted.items():
        amax = amax_of(values[name].float())
        if role == "weight":
            amax = amax.reshape(-1, *[1] * (_weight(modules[layer]).ndim - 1))
        quantizer.amax = amax.to(_device(model))


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model without what its quantizers hold: the state of the deployed float model."""
    return {name: value for name, value in model.state_dict().items() if not _of_quantizer(name)}


def freeze(model: nn.Module) -> None:
    """Make every range a plain buffer again, where training made it a Parameter."""
    for _, _, quantizer in quantizers(model):
        if isinstance(quantizer.amax, nn.Parameter):
            amax = quantizer.amax.detach()
            del quantizer._amax
            quantizer.amax = amax


def _of_quantizer(name: str) -> bool:
    return any(part.endswith("_quantizer") for part in name.split("."))


def _shape(layer: nn.Module, role: str) -> tuple[int, ...]:
    return (int(_weight(layer).shape[0]),) if role == "weight" else ()


def _weight(layer: nn.Module) -> Tensor:
    weight: Any = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
