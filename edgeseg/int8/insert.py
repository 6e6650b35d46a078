"""Puts quantizers into a model in its deployed form. modelopt is imported where it is used."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from edgeseg.errors import require
from edgeseg.int8.fake import BACKEND, fake_quantize
from edgeseg.int8.rules import ACTIVATION, configuration, decide, quantizers, wanted
from edgeseg.recipe.schema import Quant
from edgeseg.specs import QuantHints


def insert_quantizers(model: nn.Module, hints: QuantHints, settings: Quant) -> None:
    """Put quantizers into a model, in place, as the recipe and the model's hints say. They have no ranges
    yet.

    Every layer that could be quantized gets them, also those that stay float, whose quantizers are off:
    `enable()` and `disable()` of a quantizer is all that a sensitivity sweep needs.

    Args:
        model: in its deployed form, without quantizers.
    Raises:
        MissingDependency: modelopt is not installed.
        BuildError: a layer that cannot be quantized and is not kept float.
        RecipeError: `quant.keep_float` names no layer.
        ValueError: the model has quantizers already, or a BatchNorm.
    """
    decisions = decide(model, hints, settings)
    if any(True for _ in quantizers(model)):
        raise ValueError("the model has quantizers already")
    if norms := [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]:
        raise ValueError(
            f"BatchNorm is folded before quantizers go in: {norms[0]} is left, deploy the model first"
        )
    with modelopt() as mtq:
        modules = dict(model.named_modules())
        for name in decisions:
            if name in hints.products:
                _register_product(mtq, type(modules[name]))
            if type(modules[name]) in mtq.QuantModuleRegistry:
                mtq.QuantModuleRegistry.convert(modules[name])
        mtq.set_quantizer_by_cfg(model, configuration(decisions, hints))
    _check(model, wanted(decisions, hints))


def _check(model: nn.Module, expected: set[tuple[str, str]]) -> None:
    """Whether quantizers are on where they should be, and nowhere else. Raises RuntimeError: modelopt did
    something else.
    """
    on = {(layer, role) for layer, role, quantizer in quantizers(model) if quantizer.is_enabled}
    if on != expected:
        raise RuntimeError(
            f"modelopt left {sorted(expected - on)} float, and quantized {sorted(on - expected)}"
        )


@contextlib.contextmanager
def modelopt() -> Iterator[Any]:
    """modelopt's quantization package, with our arithmetic in it and without its prints and warnings.

    Raises:
        MissingDependency: it is not installed.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mtq: Any = require("modelopt.torch.quantization", extra="quant", purpose="quantize a model")
        from modelopt.torch.quantization.nn.modules import tensor_quantizer

        tensor_quantizer.register_quant_backend(BACKEND, fake_quantize)
        yield mtq


def _register_product(mtq: Any, kind: type[nn.Module]) -> None:
    """Tell modelopt what a product of two activations is: a module whose both inputs are rounded."""
    if kind in mtq.QuantModuleRegistry:
        return
    from modelopt.torch.quantization.nn import QuantModule, TensorQuantizer

    class QuantProduct(QuantModule):  # type: ignore[misc]  # modelopt has no types
        def _setup(self) -> None:
            for name in ("a_quantizer", "b_quantizer"):
                self._register_temp_attribute(
                    name, TensorQuantizer(mtq.QuantizerAttributeConfig(**ACTIVATION))
                )

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = super().forward(self.a_quantizer(a), self.b_quantizer(b))
            return out

    mtq.QuantModuleRegistry.register({kind: kind.__name__})(QuantProduct)
