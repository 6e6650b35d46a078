"""The quantizers of an ONNX program: QuantizeLinear with DequantizeLinear as one operator on floats. No torch
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeseg.engines.onnx_files.graph import Array, Graph, Node

FAKE_QUANTIZE = "FakeQuantize"
"""Rounds its input to INT8 and back. Attributes: `amax`, see `amax_of`, and `narrow`: whether -128 is left
out.
"""


def with_fake_quantizers(graph: Graph) -> Graph:
    """QuantizeLinear with its DequantizeLinear as one node; integer weights as the float ones that they
    round.

    Raises:
        ValueError: integers that are more than rounding, or rounding that is not TensorRT's: symmetric int8,
            with one scale for a tensor or one for each slice of axis 0.
    """
    makers = {output: node for node in graph.nodes for output in node.outputs}
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node.operator == "QuantizeLinear":
            readers = [other for other in graph.nodes if node.outputs[0] in other.inputs]
            if any(
                other.operator != "DequantizeLinear" or other.inputs[1:] != node.inputs[1:]
                for other in readers
            ):
                raise ValueError(f"{node.name}: what it quantizes is not dequantized the same way")
        elif node.operator == "DequantizeLinear":
            codes, scale = node.inputs[0], _scale(node, constants)
            maker, weight = makers.get(codes), constants.get(codes)
            if weight is not None:
                source = f"{codes} dequantized"
                constants[source] = weight * along_axis_0(scale, weight.ndim)
            elif maker is not None and maker.operator == "QuantizeLinear":
                source = maker.inputs[0]
            else:
                raise ValueError(f"{node.name}: it dequantizes what nothing quantized")
            fixed = {"amax": amax_of(scale), "narrow": weight is not None}
            nodes.append(replace(node, operator=FAKE_QUANTIZE, inputs=(source,), attributes=fixed))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _scale(node: Node, constants: Mapping[str, Array]) -> Array:
    """The scale of a DequantizeLinear: () or (C,). Raises ValueError where TensorRT would not take the
    quantizer.
    """
    scale, *zeros = (constants.get(name) for name in node.inputs[1:] if name)
    weight = constants.get(node.inputs[0])
    # Without a zero point, QuantizeLinear gives uint8.
    integers = [array for array in (weight, *zeros) if array is not None]
    symmetric = all(array.dtype == np.int8 for array in integers) and bool(integers)
    if scale is None or not symmetric or any(zero is None or zero.any() for zero in zeros):
        raise ValueError(f"{node.name}: its scale is computed, or it is not symmetric int8")
    if scale.size == 1:
        return scale.reshape(())
    if scale.ndim != 1 or node.attributes.get("axis", 1) != 0:
        raise ValueError(f"{node.name}: TensorRT takes symmetric int8, for all of a tensor or along axis 0")
    return scale


def along_axis_0(scale: Array, rank: int) -> Array:
    """A scale, () or (C,), in a shape that multiplies a tensor of `rank` axes."""
    return scale.reshape(scale.shape + (1,) * (rank - 1)) if scale.ndim else scale


def amax_of(scale: Array) -> Array:
    """The range, float32, that divided by 127 gives a scale, to the bit where there is one."""
    high, scale = np.float32(127), scale.astype(np.float32)
    amax: Array = np.asarray(scale * high)
    for near in (np.nextafter(amax, np.float32(np.inf)), np.nextafter(amax, np.float32(0))):
        amax = np.where((amax / high != scale) & (near / high == scale), near, amax)
    return amax
