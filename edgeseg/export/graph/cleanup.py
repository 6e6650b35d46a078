"""Edits of a finished ONNX graph that keep its numbers: what the exporter leaves behind, and how weights are
stored.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg.errors import BuildError

_HALF_MIN_ELEMENTS = 256
"""Smaller tensors (biases, norms, constants) stay float32: nothing to gain, and they are the sensitive
ones.
"""
_HALF_MAX = float(np.finfo(np.float16).max)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove nodes that do nothing (Identity, multiplication by one), and text that only describes the
    exporting machine.

    The exporter joins equal tensors, such as norms that were never trained, behind Identity nodes. In place;
    returns `model`.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:  # in topological order, so a source's final name is known before its users come
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.ClearField("doc_string")
        if node.output[0] not in outputs and (source := _passes_through(node, constants)) is not None:
            renamed[node.output[0]] = source
        else:
            kept.append(node)
    used = {name for node in kept for name in node.input} | outputs
    kept = [node for node in kept if node.op_type != "Constant" or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    model.ClearField("doc_string")
    graph.ClearField("doc_string")
    return model


def _passes_through(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> str | None:
    """Name of the input that leaves `node` unchanged; None where it computes something."""
    if node.op_type == "Identity":
        return str(node.input[0])
    if node.op_type == "Mul" and (factor := constants.get(node.input[1])) is not None and not factor.dims:
        return str(node.input[0]) if numpy_helper.to_array(factor) == 1 else None
    return None


def store_half(model: onnx.ModelProto) -> None:
    """Store large float32 initializers as float16, each followed by a Cast to float32; in place.

    Runtimes fold the Cast when they load the file, so that speed and arithmetic are float32's.

    Raises:
        BuildError: a weight does not fit into float16.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < _HALF_MIN_ELEMENTS:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.abs(values).max() <= _HALF_MAX:
            raise BuildError(
                f"weight {tensor.name} is not finite in float16", hint="export with weights fp32"
            )
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a program that also gives the logits, float32, which its argmax reads, as output `logits`."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    (argmax,) = (node for node in copied.graph.node if node.op_type == "ArgMax")
    if argmax.input[0] != "logits":
        copied.graph.node.append(helper.make_node("Identity", [argmax.input[0]], ["logits"]))
    copied.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    return copied
