"""Rounding to INT8 and back, in exactly the arithmetic of ONNX's QuantizeLinear and DequantizeLinear, with
gradients.

x becomes scale * clip(round(x / scale), low, 127): division, not multiplication with a reciprocal, and ties
to even, so that an engine that computes the same float32 x computes the same integer. modelopt's own kernels
multiply, and differ at ties.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HIGH = 127
"""The largest code. A range is symmetric: `amax` = 127 scales, so that zero is exact."""
BACKEND = "edgeseg_int8"
"""The name under which modelopt finds `fake_quantize`."""


class FakeInt8(torch.autograd.Function):
    """`apply(x, amax, low)`: x rounded to multiples of amax / 127 and clipped; amax is one value, or one per
    output channel.

    Gradients: of x, passed straight through inside the range and none outside; of amax, as LSQ says (arXiv
        1902.08153, eq. 3),
    with its gradient scale 1 / sqrt(N 127), N the number of values that share a scale.
    In an ONNX graph: QuantizeLinear and DequantizeLinear, int8, zero point 0, axis 0 where there are several
    scales.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, amax: Tensor, low: int) -> Tensor:
        ctx.save_for_backward(x, amax)
        ctx.low = low
        scale = scale_of(amax)
        return torch.round(x / scale).clamp_(low, HIGH).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, amax = ctx.saved_tensors
        at = x / scale_of(amax)
        inside = (at >= ctx.low - 0.5) & (at <= HIGH + 0.5)
        grad_amax = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(inside, torch.round(at) - at, at.clamp(ctx.low, HIGH))
            grad_amax = (grad * slope).sum_to_size(amax.shape) / HIGH
            grad_amax *= (x.numel() / amax.numel() * HIGH) ** -0.5
        return torch.where(inside, grad, 0.0) if ctx.needs_input_grad[0] else None, grad_amax, None

    @staticmethod
    def symbolic(g: Any, x: Any, amax: Any, low: int) -> Any:
        # Weights may come as -128 here, where training moved one out of its range: whoever stores them as
        # integers clips them.
        scales = scale_of(amax.node().t("value"))
        axis = {"axis_i": 0} if scales.ndim else {}
        scales = scales.reshape(-1) if axis else scales
        scale = g.op("Constant", value_t=scales)
        zero = g.op("Constant", value_t=torch.zeros_like(scales, dtype=torch.int8))
        codes = g.op("QuantizeLinear", x, scale, zero, **axis)
        return g.op("DequantizeLinear", codes, scale, zero, **axis).setType(x.type())


def scale_of(amax: Tensor) -> Tensor:
    """What one step of the integer is worth."""
    return amax / HIGH


def amax_of(scale: Tensor) -> Tensor:
    """The range whose scale is `scale`, to the bit where there is one: every scale that `scale_of` gave has
    one.
    """
    amax = scale * HIGH
    for near in (torch.nextafter(amax, amax + 1), torch.nextafter(amax, amax - 1)):
        amax = torch.where((scale_of(amax) != scale) & (scale_of(near) == scale), near, amax)
    return amax


def fake_quantize(x: Tensor, quantizer: Any) -> Tensor:
    """modelopt's door to `FakeInt8`: the range is the quantizer's, learned where it is a Parameter.

    Raises:
        RuntimeError: the quantizer has no range yet.
    """
    amax = quantizer.amax
    if amax is None:
        raise RuntimeError(
            "a quantizer without a range: calibrate the model, or load scales into it, before it runs"
        )
    low = -HIGH if quantizer.narrow_range else -HIGH - 1
    learned = isinstance(amax, torch.nn.Parameter) and amax.requires_grad
    out: Tensor = FakeInt8.apply(x, amax if learned else amax.data, low)  # type: ignore[no-untyped-call]
    return out
