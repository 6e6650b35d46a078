"""ONNX's operators in torch: those that programs have, and of each what programs ask of it. Opsets 17 to 20
say it alike.

Whatever else an operator could be asked for is refused by name: a graph that is read in part gives wrong
masks, not an error.

Source: github.com/onnx/onnx, docs/Operators.md and docs/Changelog.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.engines.onnx_files.graph import DTYPES, Array, Graph, Node

OPSETS = (17, 20)
Attributes = Mapping[str, Any]
_ANY: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
        run: what it does: attributes, then inputs; None for one that is left out.
        attributes: those that it may have -> the values that they may have; empty: any.
        fixed: inputs that are arrays, known when the program is read, and no tensors.
    """

    run: Callable[..., Tensor | tuple[Tensor, ...]]
    attributes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()


def check(graph: Graph, others: Collection[str] = ()) -> Graph:
    """The graph itself.

    Args:
        others: operators that are not ONNX's, and not checked.
    Raises:
        ValueError: another opset, an operator that is not known, or one with attributes that are not.
    """
    if graph.opset is None or not OPSETS[0] <= graph.opset <= OPSETS[1]:
        raise ValueError(f"it is written in opset {graph.opset}; programs are in {OPSETS[0]} to {OPSETS[1]}")
    strange = {node.operator for node in graph.nodes} - {*OPERATORS, *others}
    if strange:
        raise ValueError(f"there is no torch form of {', '.join(sorted(strange))}")
    for node in graph.nodes:
        if node.operator in others:
            continue
        taken = OPERATORS[node.operator].attributes
        for name, value in node.attributes.items():
            if name not in taken or (taken[name] and value not in taken[name]):
                raise ValueError(f"there is no torch form of {node.operator} {node.name} with {name} {value}")
    return graph


def run(node: Node, tensor: Callable[[str], Tensor], constants: Mapping[str, Array]) -> tuple[Tensor, ...]:
    """Run one operator.

    Raises:
        ValueError: it is not used as programs use it; what torch says against it is the cause.
    """
    operator = OPERATORS[node.operator]
    if any(
        name and name not in constants for place, name in enumerate(node.inputs) if place in operator.fixed
    ):
        raise ValueError(
            f"there is no torch form of {node.operator} {node.name}: what it does depends on the image"
        )
    inputs = [
        None if not name else constants[name] if place in operator.fixed else tensor(name)
        for place, name in enumerate(node.inputs)
    ]
    try:
        made = operator.run(node.attributes, *inputs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"there is no torch form of {node.operator} {node.name}") from error
    return made if isinstance(made, tuple) else (made,)


def _padding(a: Attributes) -> list[int]:
    """The padding of a window operator, the same at both ends of a side."""
    pads = list(a.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:]:
        raise ValueError(f"padding {pads} differs between the ends of a side")
    return pads[:2]


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(
        x, weight, bias, a.get("strides", 1), _padding(a), a.get("dilations", 1), a.get("group", 1)
    )


def _conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, extra, group, dilations = (
        a.get("strides", 1),
        a.get("output_padding", 0),
        a.get("group", 1),
        a.get("dilations", 1),
    )
    return F.conv_transpose2d(x, weight, bias, strides, _padding(a), extra, group, dilations)


def _gemm(a: Attributes, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    product: Tensor = (x.T if a.get("transA") else x) @ (y.T if a.get("transB") else y)
    product = product if alpha == 1 else alpha * product
    return product if bias is None else product + (bias if beta == 1 else beta * bias)


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    counted = bool(a.get("count_include_pad", 0))
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), _padding(a), count_include_pad=counted)


def _layer_norm(a: Attributes, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, list(x.shape[a.get("axis", -1) :]), gain, bias, a.get("epsilon", 1e-5))


def _resize(
    a: Attributes, x: Tensor, roi: Any = None, scales: Array | None = None, sizes: Array | None = None
) -> Tensor:
    if a.get("mode") != "linear":
        raise ValueError("it is not linear")
    corners = a.get("coordinate_transformation_mode") == "align_corners"
    wanted, kept = (sizes, [*x.shape[:2]]) if sizes is not None and sizes.size else (scales, [1, 1])
    if wanted is None or wanted.tolist()[:2] != kept or x.ndim != 4:
        raise ValueError("it resizes more than two sides")
    factors = wanted.tolist()[2:]
    if wanted is sizes:
        return F.interpolate(x, size=factors, mode="bilinear", align_corners=corners)
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=corners)


def _grid_sample(a: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, "bilinear", "zeros", bool(a.get("align_corners", 0)))


def _reshape(a: Attributes, x: Tensor, shape: Array) -> Tensor:
    return x.reshape([side or int(x.shape[place]) for place, side in enumerate(shape.tolist())])


def _slice(
    a: Attributes,
    x: Tensor,
    starts: Array,
    ends: Array,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Tensor:
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis, step = place if axes is None else int(axes[place]), 1 if steps is None else int(steps[place])
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
        else:  # torch slices do not run backwards
            taken = range(int(x.shape[axis]))[start:end:step]
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
    return x


def _pad(
    a: Attributes, x: Tensor, pads: Array, value: Array | None = None, axes: Array | None = None
) -> Tensor:
    ends = [[0, 0] for _ in range(x.ndim)]
    for place, axis in enumerate(range(x.ndim) if axes is None else axes.tolist()):
        ends[axis] = pads.reshape(2, -1)[:, place].tolist()
    return F.pad(
        x, [end for pair in reversed(ends) for end in pair], value=0.0 if value is None else value.item()
    )


def _unsqueeze(a: Attributes, x: Tensor, axes: Array) -> Tensor:
    for axis in sorted(axis % (x.ndim + axes.size) for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _clip(a: Attributes, x: Tensor, low: Array | None = None, high: Array | None = None) -> Tensor:
    bounds = [None if bound is None else bound.item() for bound in (low, high)]
    return x if bounds == [None, None] else x.clamp(*bounds)


def _div(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _sum(a: Attributes, x: Tensor, axes: Array | None = None) -> Tensor:
    return x.sum(list(range(x.ndim)) if axes is None else axes.tolist(), keepdim=bool(a.get("keepdims", 1)))


def _constant_of_shape(a: Attributes, shape: Array) -> Tensor:
    value = np.array(a.get("value", np.zeros(1, np.float32)))
    return torch.from_numpy(value).reshape(()).expand(shape.tolist())


_WINDOW = {"kernel_shape": _ANY, "strides": _ANY, "pads": _ANY, "auto_pad": ("NOTSET",)}
_CONV = {**_WINDOW, "dilations": _ANY, "group": _ANY}

OPERATORS: Mapping[str, Operator] = {
    "Abs": Operator(lambda a, x: x.abs()),
    "Add": Operator(lambda a, x, y: x + y),
    "ArgMax": Operator(
        lambda a, x: x.argmax(a.get("axis", 0), keepdim=bool(a.get("keepdims", 1))),
        {"axis": _ANY, "keepdims": _ANY, "select_last_index": (0,)},
    ),
    "AveragePool": Operator(
        _average_pool, {**_WINDOW, "count_include_pad": _ANY, "ceil_mode": (0,), "dilations": ([1, 1],)}
    ),
    "Cast": Operator(
        lambda a, x: x.to(getattr(torch, DTYPES[a["to"]])), {"to": tuple(DTYPES), "saturate": _ANY}
    ),
    "Clip": Operator(_clip, fixed=(1, 2)),
    "Concat": Operator(lambda a, *parts: torch.cat(parts, a["axis"]), {"axis": _ANY}),
    "ConstantOfShape": Operator(_constant_of_shape, {"value": _ANY}, fixed=(0,)),
    "Conv": Operator(_conv, _CONV),
    "ConvTranspose": Operator(_conv_transpose, {**_CONV, "output_padding": _ANY}),
    "Div": Operator(_div),
    "Erf": Operator(lambda a, x: torch.erf(x)),
    "Gelu": Operator(
        lambda a, x: F.gelu(x, approximate=a.get("approximate", "none")), {"approximate": ("none", "tanh")}
    ),
    "Gemm": Operator(_gemm, {"alpha": _ANY, "beta": _ANY, "transA": _ANY, "transB": _ANY}),
    "GlobalAveragePool": Operator(lambda a, x: x.mean((2, 3), keepdim=True)),
    "GridSample": Operator(
        _grid_sample, {"mode": ("bilinear", "linear"), "padding_mode": ("zeros",), "align_corners": _ANY}
    ),
    "Identity": Operator(lambda a, x: x),
    "LayerNormalization": Operator(_layer_norm, {"axis": _ANY, "epsilon": _ANY, "stash_type": (1,)}),
    "MatMul": Operator(lambda a, x, y: x @ y),
    "Mul": Operator(lambda a, x, y: x * y),
    "Pad": Operator(_pad, {"mode": ("constant",)}, fixed=(1, 2, 3)),
    "ReduceSum": Operator(_sum, {"keepdims": _ANY, "noop_with_empty_axes": (0,)}, fixed=(1,)),
    "Relu": Operator(lambda a, x: F.relu(x)),
    "Reshape": Operator(_reshape, {"allowzero": (0,)}, fixed=(1,)),
    "Resize": Operator(
        _resize,
        {
            "mode": ("linear",),
            "coordinate_transformation_mode": ("half_pixel", "align_corners"),
            "antialias": (0,),
            "keep_aspect_ratio_policy": ("stretch",),
            **dict.fromkeys(
                ("cubic_coeff_a", "exclude_outside", "extrapolation_value", "nearest_mode"), _ANY
            ),  # of other modes
        },
        fixed=(1, 2, 3),
    ),
    "Sigmoid": Operator(lambda a, x: torch.sigmoid(x)),
    "Slice": Operator(_slice, fixed=(1, 2, 3, 4)),
    "Softmax": Operator(lambda a, x: x.softmax(a.get("axis", -1)), {"axis": _ANY}),
    "Split": Operator(
        lambda a, x, sizes: x.split(sizes.tolist(), a.get("axis", 0)), {"axis": _ANY}, fixed=(1,)
    ),
    "Squeeze": Operator(lambda a, x, axes: x.squeeze(axes.tolist()), fixed=(1,)),
    "Sub": Operator(lambda a, x, y: x - y),
    "Tanh": Operator(lambda a, x: torch.tanh(x)),
    "Transpose": Operator(lambda a, x: x.permute(a["perm"]), {"perm": _ANY}),
    "Unsqueeze": Operator(_unsqueeze, fixed=(1,)),
}
"""By the name that ONNX gives them."""
