"""Exact edits of a canonical INT8 graph that put ONNX Runtime's integer operators where float ones stand
between DequantizeLinear and QuantizeLinear.

Its operators keep maps channels-last and give either codes (QLinearConv) or floats (MatMulIntegerToFloat).
Their sums are integers, and the bias of a QLinearConv is rounded to one step of those sums: results differ
from the canonical ones by float rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import NodeProto, TensorProto

from edgeseg.export.graph.editor import MICROSOFT, Array, GraphEditor, attribute, attributes

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
_SQRT_2 = float(np.float32(np.sqrt(2)))
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantized tensor: names of its integers, their scale and their zero point."""

    codes: str
    scale: str
    zero: str


def codes_of(graph: GraphEditor, name: str) -> Codes | None:
    """What a dequantized tensor was dequantized from; None for others."""
    node = graph.producer(name)
    return Codes(*node.input) if node is not None and node.op_type == "DequantizeLinear" else None


def unsigned_activations(graph: GraphEditor) -> None:
    """int8 activations around 0 become uint8 around 128, with the same scale: every code grows by 128, and no
    value changes.

    Zero stays at 128 where values are never negative, too: around 0, codes beyond 127 would no longer
    saturate.

    Raises:
        ValueError: something else than DequantizeLinear reads codes; this edit comes first.
    """
    zero = graph.add_constant(np.array(128, np.uint8), "zero_u8")
    for node in graph.of_type("QuantizeLinear"):
        users = graph.users(node.output[0])
        if any(user.op_type != "DequantizeLinear" for user in users):
            raise ValueError(f"{node.name}: codes are read by more than DequantizeLinear")
        for reader in (node, *users):
            graph.rewire(reader, reader.input[2], zero)


def unsigned_weights(graph: GraphEditor) -> None:
    """int8 weights of integer operators become uint8 around 128, as `unsigned_activations` does with what
    they are multiplied by.

    The file holds them as they are, one copy for every form, and the graph moves them; runtimes do that once,
    at load.
    """
    step = graph.add_constant(np.array(128, np.int32), "step_u8")
    for operator, weight, zero in (("QLinearConv", 3, 5), ("MatMulIntegerToFloat", 1, 5)):
        for node in graph.of_type(operator):
            codes, zeros = graph.constant(node.input[weight]), node.input[zero]
            if codes is None:
                continue
            name = node.input[weight]
            wide = graph.add("Cast", [name], f"{name}/wide", to=TensorProto.INT32)
            moved = graph.add(
                "Cast", [graph.add("Add", [wide, step], f"{name}/moved")], f"{name}/u8", to=TensorProto.UINT8
            )
            graph.rewire(node, name, moved)
            origin = graph.needed(zeros).astype(np.int16) + 128
            graph.rewire(node, zeros, graph.add_constant(origin.astype(np.uint8), f"{zeros}/u8"))


def join_gelu(graph: GraphEditor) -> None:
    """x (1 + erf(x / sqrt 2)) / 2, as the exporter writes it below opset 20, becomes one Gelu.

    ONNX Runtime joins it too, but not behind a DequantizeLinear, of which it makes a copy for each reader.
    """
    for erf in graph.of_type("Erf"):
        divide = graph.producer(erf.input[0])
        plus = graph.only_user(erf.output[0])
        times = plus and graph.only_user(plus.output[0])
        half = times and graph.only_user(times.output[0])
        if divide is None or plus is None or times is None or half is None:
            continue
        found = [(node.op_type, _single(graph, node)) for node in (divide, plus, half)]
        if found == [("Div", _SQRT_2), ("Add", 1.0), ("Mul", 0.5)] and divide.input[0] in times.input:
            graph.replace(
                half.output[0], graph.add("Gelu", [divide.input[0]], f"{half.output[0]}/gelu", MICROSOFT)
            )


def join_padding(graph: GraphEditor) -> None:
    """Zeros around a map, which is then quantized for one convolution, become that convolution's own padding:
    0 is a code.
    """
    for conv in graph.of_type("Conv"):
        dequantize = graph.producer(conv.input[0])
        quantize = (
            graph.producer(dequantize.input[0])
            if dequantize and dequantize.op_type == "DequantizeLinear"
            else None
        )
        pad = graph.producer(quantize.input[0]) if quantize and quantize.op_type == "QuantizeLinear" else None
        around = _zeros_around(graph, pad)
        if dequantize is None or quantize is None or pad is None or around is None:
            continue
        if all(
            graph.only_user(maker.output[0]) is user
            for maker, user in pairwise((pad, quantize, dequantize, conv))
        ):
            kept = {
                **attributes(conv),
                "pads": [a + b for a, b in zip(attribute(conv, "pads", [0] * 4), around, strict=True)],
            }
            graph.rewire(quantize, pad.output[0], pad.input[0])
            graph.replace(conv.output[0], graph.add("Conv", conv.input, f"{conv.output[0]}/padded", **kept))
            graph.drop(conv)


def integer_products(graph: GraphEditor) -> None:
    """MatMul of two dequantized tensors, and the bias that follows, become one MatMulIntegerToFloat."""
    for node in graph.of_type("MatMul"):
        left, right = codes_of(graph, node.input[0]), _right_factor(graph, node.input[1])
        if left is None or right is None:
            continue
        end, bias = _bias_after(graph, node)
        inputs = [left.codes, right.codes, left.scale, right.scale, left.zero, right.zero, *bias]
        graph.replace(
            end.output[0], graph.add("MatMulIntegerToFloat", inputs, f"{node.output[0]}/int8", MICROSOFT)
        )


def integer_convolutions(graph: GraphEditor) -> None:
    """Convolutions of codes, channels-last.

    Where the result is quantized, QLinearConv, and a ReLU or Clip between is one of codes. Else, a
    convolution whose windows do not overlap is a MatMulIntegerToFloat of them. Others stay float.
    """
    for node in graph.of_type("Conv"):
        image, weight = codes_of(graph, node.input[0]), codes_of(graph, node.input[1])
        if image is None or weight is None or len(graph.needed(weight.codes).shape) != 4:
            continue
        bounds, quantize = _quantized_after(graph, node)
        if quantize is not None:
            _convolution_to_codes(graph, node, image, weight, bounds, quantize)
        elif patch := _patch(graph, node):
            _product_of_patches(graph, node, image, weight, patch)


def float_weights(graph: GraphEditor) -> None:
    """Weights that no integer operator reads are stored as the floats that they are dequantized to."""
    for node in graph.of_type("DequantizeLinear"):
        codes = graph.constant(node.input[0])
        if codes is None:
            continue
        scale = graph.needed(node.input[1])
        steps = scale.reshape(scale.shape + (1,) * (codes.ndim - 1)) if scale.ndim else scale
        graph.replace(
            node.output[0], graph.add_constant(codes.astype(np.float32) * steps, f"{node.input[0]}/float")
        )


def _zeros_around(graph: GraphEditor, pad: NodeProto | None) -> list[int] | None:
    """What a Pad adds to the sides of a map, as a convolution writes it: top, left, bottom, right. None where
    it does else.
    """
    if pad is None or pad.op_type != "Pad" or attribute(pad, "mode", b"constant") != b"constant":
        return None
    pads, value = (
        graph.constant(pad.input[1]),
        graph.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1),
    )
    if (
        pads is None
        or value is None
        or len(pads) != 8
        or pads.min() < 0
        or pads[[0, 1, 4, 5]].any()
        or value.any()
    ):
        return None
    return [int(pads[side]) for side in (2, 3, 6, 7)]


def _right_factor(graph: GraphEditor, name: str) -> Codes | None:
    """The right factor of a product as codes; a weight that is transposed on the way is transposed here."""
    node = graph.producer(name)
    if node is None or node.op_type != "Transpose":
        codes = codes_of(graph, name)
        return codes if codes is None or graph.constant(codes.codes) is None else None
    codes = codes_of(graph, node.input[0])
    values = graph.constant(codes.codes) if codes else None
    if codes is None or values is None:
        return None
    return Codes(
        graph.add_constant(np.ascontiguousarray(values.T), f"{codes.codes}/T"), codes.scale, codes.zero
    )


def _bias_after(graph: GraphEditor, node: NodeProto) -> tuple[NodeProto, list[str]]:
    """The node that ends a product, and its bias's name: the Add that alone reads it, or the product itself
    and nothing.
    """
    user = graph.only_user(node.output[0])
    if user is not None and user.op_type == "Add":
        for name in user.input:
            values = graph.constant(name)
            if values is not None and values.ndim == 1:
                return user, [name]
    return node, []


def _quantized_after(graph: GraphEditor, node: NodeProto) -> tuple[tuple[float, float], NodeProto | None]:
    """The bounds of the ReLU or Clip that follows, and the QuantizeLinear that then alone reads the
    result.
    """
    user, bounds = graph.only_user(node.output[0]), (-np.inf, np.inf)
    if user is not None and (found := _bounds(graph, user)) is not None:
        user, bounds = graph.only_user(user.output[0]), found
    return bounds, user if user is not None and user.op_type == "QuantizeLinear" else None


def _bounds(graph: GraphEditor, node: NodeProto) -> tuple[float, float] | None:
    """What a node limits its input to; None where it does something else."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip" or len(node.input) != 3:
        return None
    low, high = (graph.constant(name) for name in node.input[1:])
    return None if low is None or high is None else (float(low), float(high))


def _patch(graph: GraphEditor, conv: NodeProto) -> int | None:
    """The side of a convolution's windows where they lie side by side and cover the whole map, 1 for 1x1;
    else None.
    """
    kernel, strides, pads = (attribute(conv, name, [1, 1]) for name in ("kernel_shape", "strides", "pads"))
    side, before = kernel[0], graph.shape(conv.input[0])
    if (
        {*kernel, *strides} != {side}
        or (attribute(conv, "pads") and any(pads))
        or attribute(conv, "group", 1) != 1
    ):
        return None
    covered = side == 1 or (before is not None and before[2] % side == 0 and before[3] % side == 0)
    return int(side) if covered else None


def _convolution_to_codes(
    graph: GraphEditor,
    node: NodeProto,
    image: Codes,
    weight: Codes,
    bounds: tuple[float, float],
    quantize: NodeProto,
) -> None:
    name, (_, scale, zero) = node.output[0], quantize.input
    steps = graph.needed(image.scale).astype(np.float64) * graph.needed(weight.scale).reshape(-1)
    bias = graph.needed(node.input[2]) if len(node.input) > 2 else np.zeros(len(steps))
    codes = np.clip(np.round(bias / steps), _INT32.min, _INT32.max).astype(np.int32)
    zeros = graph.add_constant(np.zeros(len(steps), np.int8), f"zeros_{len(steps)}")
    source = graph.add("Transpose", [image.codes], f"{name}/nhwc", perm=TO_NHWC)
    inputs = [source, image.scale, image.zero, weight.codes, weight.scale, zeros, scale, zero]
    inputs.append(graph.add_constant(codes, f"{name}/bias"))
    out = graph.add("QLinearConv", inputs, f"{name}/int8", MICROSOFT, channels_last=1, **attributes(node))
    out = _bounded(graph, out, bounds, scale, zero, name)
    graph.replace(quantize.output[0], graph.add("Transpose", [out], f"{name}/nchw", perm=TO_NCHW))


def _bounded(
    graph: GraphEditor, codes: str, bounds: tuple[float, float], scale: str, zero: str, name: str
) -> str:
    """Codes of a tensor that is limited to some bounds before it is quantized: rounding keeps order, so
    limits may come after.
    """
    origin, step = graph.needed(zero), graph.needed(scale)
    kind = np.iinfo(origin.dtype)
    low, high = (
        np.clip(np.round(np.float32(bound) / step) + origin, kind.min, kind.max).astype(origin.dtype)
        for bound in bounds
    )
    if low == kind.min and high == kind.max:
        return codes
    limits = [
        graph.add_constant(np.asarray(limit), f"{name}/{side}")
        for limit, side in ((low, "low"), (high, "high"))
    ]
    return graph.add(
        "Clip", [codes, *limits], f"{name}/limited"
    )  # Max and Min of bytes came with ONNX Runtime 1.24


def _product_of_patches(graph: GraphEditor, node: NodeProto, image: Codes, weight: Codes, patch: int) -> None:
    name, values = node.output[0], graph.needed(weight.codes)
    matrix = np.ascontiguousarray(values.transpose(2, 3, 1, 0).reshape(-1, len(values)))
    source = graph.add("Transpose", [image.codes], f"{name}/nhwc", perm=TO_NHWC)
    if patch > 1:
        source = _patches(graph, source, graph.shape(node.input[0]) or (), patch, name)
    factors = [
        source,
        graph.add_constant(matrix, f"{weight.codes}/matrix"),
        image.scale,
        weight.scale,
        image.zero,
        weight.zero,
    ]
    out = graph.add("MatMulIntegerToFloat", [*factors, *node.input[2:]], f"{name}/int8", MICROSOFT)
    graph.replace(name, graph.add("Transpose", [out], f"{name}/nchw", perm=TO_NCHW))


def _patches(graph: GraphEditor, source: str, shape: tuple[int, ...], patch: int, name: str) -> str:
    """(B, H, W, C), `shape` channels first -> (B, H / patch, W / patch, patch * patch * C)."""
    batch, channels, height, width = shape
    across = [batch, height // patch, patch, width // patch, patch, channels]
    together = [batch, height // patch, width // patch, patch * patch * channels]
    for op, sizes in (("Reshape", across), ("Transpose", None), ("Reshape", together)):
        if sizes is None:
            source = graph.add(op, [source], f"{name}/patches", perm=[0, 1, 3, 2, 4, 5])
        else:
            source = graph.add(
                op, [source, graph.add_constant(np.array(sizes), f"{name}/sizes")], f"{name}/patches"
            )
    return source


def _single(graph: GraphEditor, node: NodeProto) -> float | None:
    """The constant of one value that a node reads; None where there is none."""
    found: list[Array] = [
        values for name in node.input if (values := graph.constant(name)) is not None and values.size == 1
    ]
    return float(found[0].reshape(())) if found else None
