"""INT8 programs for builders that quantize by the range of each tensor ("implicit quantization"), and take no
Q/DQ: DLA in TensorRT 10.

The quantizers are taken out, integer weights become the floats that they stand for, and what an activation's
quantizer said is told as the "dynamic range" of its tensor. Where a tensor has none, the builder computes in
half precision what touches it. This is what NVIDIA's Q/DQ translator does to a file, done in memory: a device
that builds has no onnx package.

Source: github.com/NVIDIA/Deep-Learning-Accelerator-SW, tools/qdq-translator; onnx.proto (onnx 1.17).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeseg.engines.onnx_files.graph import DTYPES, Array, Graph, read_graph
from edgeseg.engines.onnx_files.quantizers import FAKE_QUANTIZE, with_fake_quantizers
from edgeseg.engines.onnx_files.wire import field, field_with, fields, number, texts

_GRAPH = 7  # in a model
_NODE, _CONSTANT = 1, 5  # in a graph
_READS, _OPERATOR = 1, 4  # in a node
_T_DIMS, _T_TYPE, _T_NAME, _T_RAW = 1, 2, 8, 9  # in a tensor
_QUANTIZERS = (b"QuantizeLinear", b"DequantizeLinear")


def without_quantizers(model: bytes, folder: Path) -> tuple[bytes, dict[str, float]]:
    """An INT8 program in floats, and the ranges of the tensors that it quantizes.

    Args:
        folder: where the files lie that hold weights beside the graph.
    Returns:
        The model; name of a tensor -> r, for values from -r to r. Of several quantizers of one tensor the
        widest counts.
    Raises:
        ValueError: the bytes are no ONNX model, its quantizers are not those that TensorRT takes, or one of
            an activation has several scales.
        OSError: a file of weights cannot be read.
    """
    floats = with_fake_quantizers(read_graph(model, folder))
    sources = {node.outputs[0]: node.inputs[0] for node in floats.nodes if node.operator == FAKE_QUANTIZE}
    ranges = _ranges(floats, sources)
    graph = next(content for name, content in fields(model) if name == _GRAPH)
    parts = [
        (name, content)
        for name, content in fields(graph)
        if name != _NODE or texts(content, _OPERATOR)[0] not in _QUANTIZERS
    ]
    parts = [(name, _reading(content, sources) if name == _NODE else content) for name, content in parts]
    read = {text for name, content in parts if name == _NODE for text in texts(content, _READS)}
    kept = [
        (name, content) for name, content in parts if name != _CONSTANT or texts(content, _T_NAME)[0] in read
    ]
    weights = {name: floats.constants[name] for name in sources.values() if name in floats.constants}
    made = [(_CONSTANT, _tensor(name, values)) for name, values in weights.items()]
    return model.replace(field(_GRAPH, graph), field_with(_GRAPH, [*kept, *made]), 1), ranges


def _ranges(floats: Graph, sources: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for node in floats.nodes:
        if node.operator != FAKE_QUANTIZE or node.inputs[0] in floats.constants:
            continue
        if node.attributes["amax"].ndim:
            raise ValueError(f"{node.name}: an activation with several scales has no range")
        name = _source(node.inputs[0], sources)
        found[name] = max(found.get(name, 0.0), float(node.attributes["amax"]))
    return found


def _reading(node: bytes, sources: Mapping[str, str]) -> bytes:
    """A node that reads what was quantized, where it read what was dequantized."""
    return b"".join(
        field(name, _source(content.decode(), sources).encode() if name == _READS else content)
        for name, content in fields(node)
    )


def _source(name: str, sources: Mapping[str, str]) -> str:
    while name in sources:
        name = sources[name]
    return name


def _tensor(name: str, values: Array) -> bytes:
    kind = next(kind for kind, dtype in DTYPES.items() if dtype == values.dtype.name)
    dims = b"".join(number(_T_DIMS, side) for side in values.shape)
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return dims + number(_T_TYPE, kind) + field(_T_NAME, name.encode()) + field(_T_RAW, raw)
