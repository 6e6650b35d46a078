"""An ONNX program as a torch module that torch.export takes: operator by operator, shapes fixed, no onnx package, no model code.

Only the process that compiles with Torch-TensorRT imports this file: torch is at its top. Types are those that the program names,
half precision where it does. Every pair of QuantizeLinear and DequantizeLinear becomes one call of a function that rounds to INT8
and back, which whoever compiles hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.engines.onnx_graph import DTYPES, Array, Graph, Node

Rounding = Callable[[Tensor, Tensor, bool], Tensor]
"""As `round_to_int8`."""
Attributes = Mapping[str, Any]

FAKE_QUANTIZE = "FakeQuantize"
_STATIC: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Pad": (1, 2),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Operator -> those of its inputs that are fixed when the program is read."""


class TorchProgram(nn.Module):
    """A program: uint8 image in the program's layout -> uint8 class map, in any shape of its size.

    Args:
        quantize: what rounds to INT8 and back; None where the program does not.
    Raises:
        ValueError: an operator that programs do not have, or one that is used as in no program.
    """

    def __init__(self, graph: Graph, quantize: Rounding | None = None) -> None:
        super().__init__()
        graph = _folded(_with_fake_quantizers(graph))
        strange = {node.operator for node in graph.nodes} - {*OPERATORS, FAKE_QUANTIZE}
        if strange:
            raise ValueError(f"there is no torch form of {', '.join(sorted(strange))}")
        if quantize is None and any(node.operator == FAKE_QUANTIZE for node in graph.nodes):
            raise ValueError("the program is INT8, and nothing rounds to INT8")
        self.graph, self.quantize = graph, quantize
        self.names: dict[str, str] = {}
        for node in graph.nodes:
            for name in _tensors(node, graph.constants):
                self._keep(name, graph.constants[name])
            if node.operator == FAKE_QUANTIZE:
                self._keep(f"{node.outputs[0]} amax", node.attributes["amax"])

    def _keep(self, name: str, value: Array) -> None:
        if name not in self.names:
            self.names[name] = f"c{len(self.names)}"
            self.register_buffer(self.names[name], torch.from_numpy(np.array(value)))

    def forward(self, image: Tensor) -> Tensor:
        values = {self.graph.inputs[0]: image}
        for node in self.graph.nodes:
            found = self._run(node, [self._input(node, place, values) for place in range(len(node.inputs))])
            values.update(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=True))
        return values[self.graph.outputs[0]]

    def _input(self, node: Node, place: int, values: Mapping[str, Tensor]) -> Any:
        """A tensor; where the operator wants it fixed, an array; None where it is left out."""
        name = node.inputs[place]
        if name in values:
            return values[name]
        if not name or place in _STATIC.get(node.operator, ()):
            return self.graph.constants[name] if name else None
        return getattr(self, self.names[name])

    def _run(self, node: Node, inputs: list[Any]) -> Tensor | tuple[Tensor, ...]:
        if node.operator == FAKE_QUANTIZE:
            assert self.quantize is not None
            amax = getattr(self, self.names[f"{node.outputs[0]} amax"])
            return self.quantize(inputs[0], amax, node.attributes["narrow"])
        return OPERATORS[node.operator](node.attributes, *inputs)


def round_to_int8(x: Tensor, amax: Tensor, narrow: bool) -> Tensor:
    """Round to multiples of amax / 127, clipped to -127 (narrow) or -128 .. 127 of them; ties to even, as QuantizeLinear's.

    Args:
        amax: float32; () for all of x, or (C,) for the slices of axis 0.
    """
    scale = (amax / 127).to(x.dtype)
    scale = scale.reshape(scale.shape + (1,) * (x.ndim - 1)) if scale.ndim else scale
    return torch.round(x / scale).clamp(-127 if narrow else -128, 127) * scale


def _tensors(node: Node, constants: Mapping[str, Array]) -> list[str]:
    """The constants that a node reads as tensors."""
    static = _STATIC.get(node.operator, ())
    return [name for place, name in enumerate(node.inputs) if name in constants and place not in static]


def _with_fake_quantizers(graph: Graph) -> Graph:
    """QuantizeLinear with its DequantizeLinear as one node; integer weights as the float ones that they round."""
    makers = {node.outputs[0]: node for node in graph.nodes}
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node.operator == "QuantizeLinear":
            readers = [other for other in graph.nodes if node.outputs[0] in other.inputs]
            if any(other.operator != "DequantizeLinear" or other.inputs[1:] != node.inputs[1:] for other in readers):
                raise ValueError(f"{node.name}: what it quantizes is not dequantized the same way")
        elif node.operator == "DequantizeLinear":
            codes, scale = node.inputs[0], constants[node.inputs[1]]
            weight = constants.get(codes)
            _check_symmetric(node, scale, [constants[name] for name in node.inputs[2:] if name])
            source = makers[codes].inputs[0] if weight is None else f"{codes} dequantized"
            if weight is not None:
                constants[source] = weight * scale.reshape(scale.shape + (1,) * (weight.ndim - 1) if scale.ndim else ())
            fixed = {"amax": amax_of(scale), "narrow": weight is not None}
            nodes.append(replace(node, operator=FAKE_QUANTIZE, inputs=(source,), attributes=fixed))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _check_symmetric(node: Node, scale: Array, zeros: Sequence[Array]) -> None:
    if any(zero.dtype != np.int8 or zero.any() for zero in zeros) or (scale.ndim and node.attributes.get("axis", 1) != 0):
        raise ValueError(f"{node.name}: TensorRT takes symmetric int8, for all of a tensor or along axis 0")


def amax_of(scale: Array) -> Array:
    """The range, float32, that divided by 127 gives a scale, to the bit where there is one."""
    high, scale = np.float32(127), scale.astype(np.float32)
    amax: Array = np.asarray(scale * high)
    for near in (np.nextafter(amax, np.float32(np.inf)), np.nextafter(amax, np.float32(0))):
        amax = np.where((amax / high != scale) & (near / high == scale), near, amax)
    return amax


def _folded(graph: Graph) -> Graph:
    """Without the arithmetic on constants that torch's exporter writes for the sizes of a padding."""
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node.operator in _FOLDS and all(name in constants for name in node.inputs if name):
            constants[node.outputs[0]] = _FOLDS[node.operator](node.attributes, *(constants[name] for name in node.inputs))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _slices(rank: int, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> tuple[slice, ...]:
    found = [slice(None)] * rank
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        step = 1 if steps is None else int(steps[place])
        stop = None if step < 0 and end <= -(2**31) else end  # as far as it goes
        found[place if axes is None else int(axes[place])] = slice(start, stop, step)
    return tuple(found)


def _constant_of_shape(a: Attributes, shape: Array) -> Array:
    value = np.asarray(a.get("value", np.zeros(1, np.float32)))
    return np.full(shape.tolist(), value.reshape(-1)[0], value.dtype)


_FOLDS: dict[str, Callable[..., Array]] = {
    "Cast": lambda a, x: x.astype(DTYPES[a["to"]]),
    "Concat": lambda a, *parts: np.concatenate(parts, a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Reshape": lambda a, x, shape: x.reshape(shape.tolist()),
    "Slice": lambda a, x, *where: x[_slices(x.ndim, *where)],
    "Transpose": lambda a, x: x.transpose(a["perm"]),
}


def _padding(a: Attributes, rank: int) -> list[int]:
    """The padding of a window operator, the same at both ends of a side."""
    pads = a.get("pads", [0] * 2 * rank)
    if pads[:rank] != pads[rank:] or a.get("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError(f"padding {pads} differs between the ends of a side")
    return list(pads[:rank])


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = _padding(a, 2)
    return F.conv2d(x, weight, bias, a.get("strides", 1), pads, a.get("dilations", 1), a.get("group", 1))


def _conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads, extra = _padding(a, 2), a.get("output_padding", 0)
    return F.conv_transpose2d(
        x, weight, bias, a.get("strides", 1), pads, extra, groups=a.get("group", 1), dilation=a.get("dilations", 1)
    )


def _gemm(a: Attributes, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = a.get("alpha", 1.0) * ((x.T if a.get("transA") else x) @ (y.T if a.get("transB") else y))
    return product if bias is None else product + a.get("beta", 1.0) * bias


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    pads, counted = _padding(a, 2), bool(a.get("count_include_pad", 0))
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads, bool(a.get("ceil_mode", 0)), counted)


def _layer_norm(a: Attributes, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1)
    return F.layer_norm(x, list(x.shape[axis:]), gain, bias, a.get("epsilon", 1e-5))


def _resize(a: Attributes, x: Tensor, roi: Any = None, scales: Array | None = None, sizes: Array | None = None) -> Tensor:
    kind, corners = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if kind != "linear" or corners not in ("half_pixel", "align_corners"):
        raise ValueError(f"a resize of kind {kind}, {corners}")
    place: dict[str, Any] = {"mode": "bilinear", "align_corners": corners == "align_corners"}
    if sizes is not None and sizes.size:
        return F.interpolate(x, size=sizes.tolist()[2:], **place)
    assert scales is not None
    return F.interpolate(x, scale_factor=scales.tolist()[2:], **place)


def _reshape(a: Attributes, x: Tensor, shape: Array) -> Tensor:
    return x.reshape([side or int(x.shape[place]) for place, side in enumerate(shape.tolist())])


def _clip(a: Attributes, x: Tensor, low: Array | None = None, high: Array | None = None) -> Tensor:
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


def _pad(a: Attributes, x: Tensor, pads: Array, value: Array | None = None) -> Tensor:
    if a.get("mode", "constant") != "constant":
        raise ValueError(f"a padding of kind {a['mode']}")
    ends = pads.reshape(2, -1).T[::-1]  # torch names the last side first
    return F.pad(x, [int(end) for end in ends.reshape(-1)], value=0.0 if value is None else value.item())


def _unsqueeze(a: Attributes, x: Tensor, axes: Array) -> Tensor:
    for axis in sorted(axis % (x.ndim + axes.size) for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _argmax(a: Attributes, x: Tensor) -> Tensor:
    return x.argmax(a.get("axis", 0), keepdim=bool(a.get("keepdims", 1)))


OPERATORS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "Abs": lambda a, x: x.abs(),
    "Add": lambda a, x, y: x + y,
    "ArgMax": _argmax,
    "AveragePool": _average_pool,
    "Cast": lambda a, x: x.to(getattr(torch, DTYPES[a["to"]])),
    "Clip": _clip,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": lambda a, x, y: x / y,
    "Erf": lambda a, x: torch.erf(x),
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda a, x: x,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda a, x, y: x @ y,
    "Mul": lambda a, x, y: x * y,
    "Pad": _pad,
    "ReduceSum": lambda a, x, axes: x.sum(axes.tolist(), keepdim=bool(a.get("keepdims", 1))),
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Slice": lambda a, x, *where: x[_slices(x.ndim, *where)],
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Split": lambda a, x, sizes: x.split(sizes.tolist(), a.get("axis", 0)),
    "Squeeze": lambda a, x, axes: x.squeeze(axes.tolist()),
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""Operator of ONNX -> what it does: attributes, then its inputs."""
