"""Half-precision programs: what stays float32, what is rounded, and how far the answers move."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseg.errors import BuildError, ParityError
from edgeseg.export.graph.half import to_half, write_half
from edgeseg.export.parity.float import compare
from edgeseg.export.program import export_program
from edgeseg.metrics import mask_agreement
from edgeseg.models.catalog import build_model
from edgeseg.models.reference import TorchReference
from edgeseg.specs import Form, ImageSpec, IsrPlan, LabelSpace, Program
from golden_rule import fill
from qdq_graphs import QdqGraph, run

LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))
SIZE_HW = (64, 64)
FAMILIES = [
    ("edaformer_nano", "bilinear"),
    pytest.param("vwformer_nano", "lda_aqu", marks=pytest.mark.slow),
    *(
        pytest.param(name, "bilinear", marks=pytest.mark.slow)
        for name in ("segformer_nano", "vwformer_nano", "repsep_nano")
    ),
]


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor -> element type."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@cache
def exported(name: str, upsample: str, folder: Path) -> tuple[Program, TorchReference]:
    options = {} if upsample == "bilinear" else {"upsample": upsample}
    model = fill(build_model(name, LABELS.num_classes, **options)).eval()
    image = model.image_spec(SIZE_HW)
    program = export_program(
        model, image=image, labels=LABELS, mask_stride=4, arch=name, out=folder / f"{name}-{upsample}.onnx"
    )
    return program, TorchReference(model, image, mask_stride=4)


@pytest.mark.parametrize(("name", "upsample"), FAMILIES)
def test_a_model_of_every_kind(name: str, upsample: str, folder: Path, tmp_path: Path) -> None:
    program, reference = exported(name, upsample, folder)
    half = write_half(program, tmp_path / "half.onnx")
    assert (half.precision, half.form, half.isr, half.blobs) == ("fp16", program.form, program.isr, ())
    assert half.onnx_path.stat().st_size < 0.8 * program.onnx_path.stat().st_size
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    report = compare(reference, half, [image])
    assert report["thresholds"]["logits_error"] == 0.01
    graph = onnx.load(half.onnx_path)
    kinds = types(graph)
    for node in graph.graph.node:
        read = {kinds[name] for name in node.input if name} & {TensorProto.FLOAT, TensorProto.FLOAT16}
        if node.op_type in ("LayerNormalization", "Softmax", "ArgMax", "GridSample"):
            assert read == {TensorProto.FLOAT}, node.name
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            assert read == {TensorProto.FLOAT16}, node.name


@pytest.mark.parametrize("spoilt", [0.0, np.inf, np.nan])
def test_a_half_program_is_held_to_its_model(spoilt: float, folder: Path, tmp_path: Path) -> None:
    program, reference = exported("edaformer_nano", "bilinear", folder)
    half = write_half(program, tmp_path / "half.onnx")
    model = onnx.load(half.onnx_path)
    weights = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and len(tensor.dims) == 4
    ]
    largest = max(weights, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(np.full(largest.dims, spoilt, np.float16), largest.name))
    onnx.save(model, half.onnx_path)
    with pytest.raises(ParityError, match="rung 'graph'"):
        compare(reference, half, [np.full((*SIZE_HW, 3), 90, np.uint8)])


# Graphs known by heart


def program_of(graph: QdqGraph, logits: str, size_hw: tuple[int, int] = (4, 4)) -> onnx.ModelProto:
    """uint8 image -> minus 100.1 -> the graph's `x`; `logits` -> resized by two -> class map."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "mean"], ["x"], name="mean"),
        *graph.nodes,
        helper.make_node("Resize", [logits, "", "factors"], ["large"], name="resize", mode="linear"),
        helper.make_node("ArgMax", ["large"], ["labels"], name="argmax", axis=1, keepdims=0),
        helper.make_node("Cast", ["labels"], ["mask"], name="mask", to=TensorProto.UINT8),
    ]
    constants = [
        numpy_helper.from_array(np.float32(100.1), "mean"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors"),
        *graph.constants,
    ]
    ports = (
        helper.make_tensor_value_info("image", TensorProto.UINT8, (1, 4, *size_hw)),
        helper.make_tensor_value_info("mask", TensorProto.UINT8, (1, 2 * size_hw[0], 2 * size_hw[1])),
    )
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def casts(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Cast" for node in model.graph.node)


def test_types_change_only_where_they_must() -> None:
    graph = QdqGraph()
    first = graph.add("Relu", graph.add("Conv", "x", graph.constant(np.ones((4, 4, 1, 1)))))
    attended = graph.add("Softmax", first, axis=1)
    both = graph.add("Add", attended, first)
    logits = graph.add("Conv", both, graph.constant(np.ones((3, 4, 1, 1))))
    model = to_half(program_of(graph, logits))
    onnx.checker.check_model(model, full_check=True)
    kinds = types(model)
    assert kinds["x"] == kinds[attended] == kinds["large"] == TensorProto.FLOAT
    assert kinds[first] == kinds[both] == kinds[logits] == TensorProto.FLOAT16
    assert (
        casts(model) == 2 + 4
    )  # of the image and the mask; behind the mean, around the softmax, before the resize


def test_one_cast_serves_all_readers() -> None:
    graph = QdqGraph()
    shared = graph.add("Conv", "x", graph.constant(np.ones((4, 4, 1, 1))))
    sums = graph.add("Add", graph.add("Softmax", shared, axis=1), graph.add("Softmax", shared, axis=2))
    logits = graph.add("Conv", sums, graph.constant(np.ones((3, 4, 1, 1))))
    model = to_half(program_of(graph, logits))
    assert casts(model) == 2 + 5


def test_a_weight_that_half_cannot_hold() -> None:
    graph = QdqGraph()
    logits = graph.add("Conv", "x", graph.constant(np.full((3, 4, 1, 1), 1e5)))
    with pytest.raises(BuildError, match="not finite in float16"):
        to_half(program_of(graph, logits))


@given(exponent=st.integers(-24, 3), seed=st.integers(0, 99))
def test_scales_are_half_unless_that_moves_them(exponent: int, seed: int) -> None:
    """Integers stay what they were; a scale that half would move by a quarter step keeps its float32."""
    graph = QdqGraph(seed)
    step = np.float32(1.37 * 2.0**exponent)
    codes, scale = (
        graph.constant(graph.rng.integers(-127, 128, (3, 4, 1, 1)), np.int8),
        graph.constant(np.full(3, step)),
    )
    weight = graph.add("DequantizeLinear", codes, scale, graph.constant(np.zeros(3), np.int8), axis=0)
    logits = graph.add("Conv", graph.rounded("x", 0.5), weight)
    model = program_of(graph, logits)
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    holds = abs(float(np.float16(step)) / float(step) - 1) <= 2.0**-9
    assert types(half)[weight] == (TensorProto.FLOAT16 if holds else TensorProto.FLOAT)
    held = {tensor.name: tensor for tensor in half.graph.initializer}
    assert held[codes].raw_data == {tensor.name: tensor for tensor in model.graph.initializer}[codes].raw_data
    image = graph.rng.integers(0, 256, (1, 4, 4, 4)).astype(np.uint8)
    assert mask_agreement(run(model, {"image": image})[0], run(half, {"image": image})[0]) >= 0.95


def test_the_int8_form(tmp_path: Path) -> None:
    """Opset 17, as programs are exported, is raised to one whose quantizers take half scales."""
    graph = QdqGraph()
    mixed = graph.conv(graph.add("Relu", graph.conv("x", 4, 8)), 8, 8, 3, depthwise=True)
    model = program_of(graph, graph.conv(mixed, 8, 3))
    model.opset_import[0].version = 17
    onnx.save(model, tmp_path / "qdq.onnx")
    program = Program(
        tmp_path / "qdq.onnx", ImageSpec((32, 32)), LABELS, 1, IsrPlan(), "int8", "tiny", form=Form.QDQ
    )
    half = write_half(program, tmp_path / "half.onnx")
    assert (half.precision, half.form) == ("int8", "half")
    found = onnx.load(half.onnx_path)
    assert found.opset_import[0].version == 19
    kinds = types(found)
    quantizers = [node for node in found.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {kinds[node.input[1]] for node in quantizers} == {TensorProto.FLOAT16}
    makers = {node.output[0]: node.op_type for node in found.graph.node}
    read = [
        [makers.get(name) for name in node.input[:2]] for node in found.graph.node if node.op_type == "Conv"
    ]
    assert read == [["DequantizeLinear"] * 2, ["DequantizeLinear", None], ["DequantizeLinear"] * 2], (
        "a depthwise weight in half"
    )
    image = graph.rng.integers(0, 256, (1, 4, 4, 4)).astype(np.uint8)
    assert mask_agreement(run(model, {"image": image})[0], run(found, {"image": image})[0]) >= 0.95
