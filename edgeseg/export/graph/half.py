"""Half-precision forms of programs, for runtimes that compute in the types that a program names.

TensorRT's networks are strongly typed: there is no switch for FP16, the program itself must say half. What
half would spoil stays in float32: subtracting the mean from the image, layer norms and softmax, whose sums
and exponentials leave its range, the positions at which maps are sampled, and everything from the logits on,
where rounding makes ties between classes. Casts stand only where the types change. The general converters
(onnxruntime.transformers.float16) cast on both sides of every node that they leave alone, so that logits
would be rounded between the resize and the argmax.

An INT8 program in this form computes in half wherever the canonical one computes in float32: same integers,
half scales. Depthwise convolutions read their rounded weights as half. In INT8, TensorRT-RTX 1.7.1 gives each
of their groups three channels of zeros more: maps are four times as large, and the zeros are stored in the
engine. EDAFormer-T at 512x384: 45 MB instead of 34, kernels read and write 463 MB instead of 383. They are 2
% of its multiply-adds.

Source: docs.nvidia.com/deeplearning/tensorrt, "Strongly Typed Networks"; ONNX operators, QuantizeLinear since
    opset 19.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, version_converter

from edgeseg.errors import BuildError
from edgeseg.export.graph.editor import Array, GraphEditor, attribute
from edgeseg.export.graph.layout import cast_image_first
from edgeseg.export.program import write_model
from edgeseg.specs import Form, Program

_FLOAT = {"LayerNormalization", "Softmax"}
_FROM_THE_IMAGE = {"Cast", "Transpose", "Sub", "Mul"}
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
_NEVER_HALF = {"Resize": {2}}
"""Inputs that are float32 in every case: the factors of a resize."""
_SCALES_OPSET = 19
_SCALE_ERROR = 2.0**-9
"""A scale that half changes by more, which happens only far below 1e-4, would move the largest value by over
a quarter step.
"""
_MOST = float(np.finfo(np.float16).max)


def write_half(program: Program, out: Path) -> Program:
    """Write the half-precision form of a canonical program.

    Args:
        program: float in any form, which becomes precision "fp16" in that form; or the canonical INT8 one,
            which gets the form "half".
        out: the file; it appears whole or not at all.
    Raises:
        BuildError: a weight is not finite in half precision, or the file cannot be written.
    """
    model = onnx.load(program.onnx_path)
    if program.precision == "int8":
        model = to_half(_with_half_scales(_with_float_depthwise(model)))
        made = replace(program, onnx_path=out, blobs=(), form=Form.QDQ_HALF)
    else:
        model = to_half(model)
        made = replace(program, onnx_path=out, blobs=(), precision="fp16")
    onnx.checker.check_model(model, full_check=True)
    write_model(model, out)
    return made


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model so that it computes in half precision but for the operators named above, and casts its
    image first; inputs and outputs keep their types.

    Args:
        model: a program: uint8 in, uint8 out, float32 between, quantizers as in opset 19.
    Raises:
        BuildError: a weight is not finite in half precision.
    """
    graph, floats = GraphEditor(model), _float_tensors(model)
    images = [value.name for value in model.graph.input]
    kept = {name for node in _kept(graph, images) for name in node.output}
    for node in list(graph.nodes):
        wide = node.output[0] in kept
        for index, name in enumerate(node.input):
            if name not in floats or (wide and (name in kept or graph.constant(name) is not None)):
                continue
            if (values := graph.constant(name)) is not None:
                if index not in _NEVER_HALF.get(node.op_type, ()):
                    graph.rewire(node, name, graph.add_constant(_halved(values, name), f"{name}.half"))
            elif wide or name in kept:
                graph.rewire(
                    node, name, _cast(graph, name, TensorProto.FLOAT if wide else TensorProto.FLOAT16)
                )
        if node.op_type == "Cast" and not wide and node.output[0] in floats:
            node.attribute[0].i = TensorProto.FLOAT16
    cast_image_first(graph)
    return graph.finish()


def _with_float_depthwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of depthwise convolutions as what their integers stand for; activations are rounded as
    before.
    """
    graph = GraphEditor(model)
    for conv in graph.of_type("Conv"):
        dequantized = graph.producer(conv.input[1])
        if dequantized is None or attribute(conv, "group", 1) == 1:
            continue
        codes, scales = (graph.needed(name) for name in dequantized.input[:2])
        if codes.shape[1] == 1:
            values = codes * scales.reshape(
                scales.shape + (1,) * (codes.ndim - scales.ndim if scales.ndim else 0)
            )
            graph.rewire(conv, conv.input[1], graph.add_constant(values, f"{conv.input[1]}.values"))
    return graph.finish()


def _with_half_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """In an opset whose quantizers take half scales."""
    opset = next(one.version for one in model.opset_import if not one.domain)
    return model if opset >= _SCALES_OPSET else version_converter.convert_version(model, _SCALES_OPSET)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors, constants included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name for name, kind in known.items() if kind == TensorProto.FLOAT}


def _kept(graph: GraphEditor, images: list[str]) -> Iterator[NodeProto]:
    """The nodes that compute in float32."""
    yield from (node for node in graph.nodes if node.op_type in _FLOAT)
    yield from (node for node in graph.nodes if node.op_type in _QUANTIZERS and not _holds(graph, node))
    for node in graph.of_type("GridSample"):
        yield node
        yield from _above(graph, node.input[1])
    for node in graph.of_type("ArgMax"):
        yield from _above(graph, node.input[0])
        yield node
    for name in images:
        yield from _below(graph, name)


def _above(graph: GraphEditor, name: str) -> Iterator[NodeProto]:
    """The nodes that make a tensor out of what layers give."""
    maker = graph.producer(name)
    if maker is not None and maker.op_type not in _LAYERS:
        yield maker
        for read in maker.input:
            yield from _above(graph, read)


def _below(graph: GraphEditor, name: str) -> Iterator[NodeProto]:
    """The nodes that prepare an image."""
    for node in graph.users(name):
        if node.op_type in _FROM_THE_IMAGE:
            yield node
            yield from _below(graph, node.output[0])


def _holds(graph: GraphEditor, quantizer: NodeProto) -> bool:
    """Whether half precision holds a quantizer's scales closely enough."""
    scales = graph.needed(quantizer.input[1])
    return bool((np.abs(scales.astype(np.float16).astype(np.float32) / scales - 1) <= _SCALE_ERROR).all())


def _halved(values: Array, name: str) -> Array:
    if values.size and not np.abs(values).max() <= _MOST:
        raise BuildError(f"weight {name} is not finite in float16", hint="export without precision fp16")
    return values.astype(np.float16)


def _cast(graph: GraphEditor, name: str, to: int) -> str:
    """The tensor in another type; one cast serves all its readers."""
    wanted = f"{name}.{'half' if to == TensorProto.FLOAT16 else 'float'}"
    return wanted if graph.producer(wanted) is not None else graph.add("Cast", [name], wanted, to=to)
