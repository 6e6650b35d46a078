"""INT8 programs without their quantizers: what is left computes the same floats, and the ranges are those
that were quantized.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from edgeseg.engines.tensorrt.builder import _strongly_typed
from edgeseg.engines.tensorrt.dynamic_ranges import without_quantizers
from qdq_graphs import QdqGraph, run


def chain(seed: int = 0) -> QdqGraph:
    return QdqGraph(seed, x=(1, 8, 6, 6))


def network(made: QdqGraph) -> onnx.ModelProto:
    x = made.add("Relu", made.conv("x", 8, 12, kernel=3))
    y = made.conv(x, 12, 12, kernel=3, depthwise=True)
    flat = made.add("Transpose", made.add("Reshape", y, made.constant([1, 12, 36], np.int64)), perm=[0, 2, 1])
    return made.model(made.linear(flat, 12, 5))


def as_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same by the onnx package: activations pass by their quantizers; weights stay integers that are
    dequantized.
    """
    plain = onnx.ModelProto.FromString(model.SerializeToString())
    quantized = {
        node.output[0]: node.input[0] for node in plain.graph.node if node.op_type == "QuantizeLinear"
    }
    passed = {
        node.output[0]: quantized[node.input[0]]
        for node in plain.graph.node
        if node.input and node.input[0] in quantized
    }
    for node in plain.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = passed.get(name, name)
    return plain


@pytest.mark.parametrize("seed", range(3))
def test_the_floats_are_the_same_to_the_bit(seed: int, tmp_path: Path) -> None:
    made = chain(seed)
    model = network(made)
    content, ranges = without_quantizers(model.SerializeToString(), tmp_path)
    found = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(found, full_check=True)
    assert not {node.op_type for node in found.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    feed = made.feed()
    np.testing.assert_array_equal(run(found, feed), run(as_floats(model), feed))
    assert set(ranges.values()) == {127 / 32}
    written = {name for node in found.graph.node for name in node.output}
    assert len(ranges) == 3 and set(ranges) <= written | {"x"}
    kinds = {numpy_helper.to_array(tensor).dtype.name for tensor in found.graph.initializer}
    assert kinds == {"float32", "int64"}, "no integer weight, scale or zero point is left"


def test_of_several_quantizers_the_widest(tmp_path: Path) -> None:
    made = chain()
    both = [made.rounded("x", step) for step in (1 / 64, 1 / 16)]
    content, ranges = without_quantizers(made.model(made.add("Add", *both)).SerializeToString(), tmp_path)
    assert ranges == {"x": 127 / 16}
    (add, _) = onnx.ModelProto.FromString(content).graph.node
    assert list(add.input) == ["x", "x"]


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    made = chain()
    model, feed = network(made), made.feed()
    wanted = run(as_floats(model), feed)
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "p.onnx")
    content, _ = without_quantizers((tmp_path / "p.onnx").read_bytes(), tmp_path)
    found = onnx.ModelProto.FromString(content)
    onnx.load_external_data_for_model(found, str(tmp_path))  # what is no weight is still there
    np.testing.assert_array_equal(run(found, feed), wanted)


def test_a_program_without_quantizers_stays_as_it_is(tmp_path: Path) -> None:
    made = chain()
    model = made.model(made.add("Relu", "x"))
    content, ranges = without_quantizers(model.SerializeToString(), tmp_path)
    assert (onnx.ModelProto.FromString(content), ranges) == (model, {})


def test_several_scales_of_an_activation_are_no_range(tmp_path: Path) -> None:
    made = chain()
    steps, zeros = made.constant(np.full(8, 1 / 32)), made.constant(np.zeros(8), np.int8)
    codes = made.add("QuantizeLinear", "x", steps, zeros, axis=0)
    y = made.add("DequantizeLinear", codes, steps, zeros, axis=0)
    made.nodes.append(onnx.helper.make_node("Relu", [y], ["z"]))
    graph = onnx.helper.make_graph(
        made.nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (8, 4))],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (8, 4))],
        made.constants,
    )
    with pytest.raises(ValueError, match="several scales"):
        without_quantizers(onnx.helper.make_model(graph).SerializeToString(), tmp_path)
    for content in (b"\x07junk", b"\xff" * 9):
        with pytest.raises(ValueError, match=r"."):
            without_quantizers(content, tmp_path)


def test_tensorrt_s_parser_keeps_the_names(tmp_path: Path) -> None:
    """By which the ranges are told. TensorRT-RTX has the same parser, and needs no GPU for it."""
    trt = pytest.importorskip("tensorrt_rtx")
    content, ranges = without_quantizers(network(chain()).SerializeToString(), tmp_path)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    built = builder.create_network(_strongly_typed(trt))
    assert trt.OnnxParser(built, logger).parse(content)
    layers = [built.get_layer(index) for index in range(built.num_layers)]
    names = {layer.get_output(index).name for layer in layers for index in range(layer.num_outputs)}
    assert set(ranges) <= names | {built.get_input(0).name}
