"""The forms of an INT8 program: every edit gives the numbers that the canonical graph gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edgeseg.devices.integers import integers_here
from edgeseg.errors import BuildError
from edgeseg.export.graph.dialects import dialect, write_dialect
from edgeseg.export.graph.editor import GraphEditor, count_ops
from edgeseg.export.graph.integer_ops import unsigned_activations
from edgeseg.export.graph.layout import settle_reshapes, settle_transposes
from edgeseg.export.graph.tile_attention import attention_in_pieces
from edgeseg.export.onnx_qdq import integers, with_integer_weights
from edgeseg.specs import DIALECTS, Form, ImageSpec, IsrPlan, LabelSpace, Program
from qdq_graphs import QdqGraph, run

NHWC, NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
sides = st.integers(1, 9)
few = st.integers(1, 6)
EXACT = [form for form in DIALECTS if form not in integers_here().wrong]
"""The forms that ONNX Runtime computes exactly on this processor; of the others `test_integers` shows that it
does not.
"""
forms = st.sampled_from(EXACT)


def edited(model: onnx.ModelProto, *edits: Callable[[GraphEditor], None]) -> onnx.ModelProto:
    graph = GraphEditor(model)
    for edit in edits:
        edit(graph)
    return graph.finish()


def hold(graph: QdqGraph, output: str, form: str) -> onnx.ModelProto:
    """The form of a graph, once it is shown to give the same bits."""
    canonical, feed = graph.model(output), graph.feed()
    made = dialect(canonical, form)
    for optimised in (False, True):
        np.testing.assert_array_equal(run(made, feed, optimised=optimised), run(canonical, feed))
    return made


@settings(max_examples=25, deadline=None)
@given(
    form=forms,
    side=sides,
    width=few,
    out=few,
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    relu=st.booleans(),
)
def test_convolution_to_codes(
    form: str, side: int, width: int, out: int, kernel: int, stride: int, relu: bool
) -> None:
    graph = QdqGraph(side * 100 + width, x=(1, width, side, side + 1))
    y = graph.conv("x", width, out, kernel, stride)
    made = hold(graph, graph.rounded(graph.add("Relu", y) if relu else y, 1 / 8), form)
    counts = count_ops(made)
    assert (counts["QLinearConv"], counts["Conv"], counts["Clip"]) == (1, 0, int(relu))


@settings(max_examples=15, deadline=None)
@given(form=forms, side=sides, width=few, hidden=st.integers(1, 20))
def test_an_ffn_on_maps(form: str, side: int, width: int, hidden: int) -> None:
    graph = QdqGraph(hidden, x=(1, side, side, width))
    x = graph.conv(graph.add("Transpose", "x", perm=NCHW), width, hidden)
    x = graph.rounded(graph.conv(graph.add("Relu", x), hidden, hidden, 3, depthwise=True), 1 / 16)
    x = graph.add("Transpose", graph.conv(x, hidden, width), perm=NHWC)
    made = hold(graph, graph.add("Add", "x", x), form)
    counts = count_ops(made)
    assert (counts["QLinearConv"], counts["MatMulIntegerToFloat"], counts["Transpose"]) == (2, 1, 0)


@settings(max_examples=15, deadline=None)
@given(form=forms, rows=sides, keys=sides, heads=st.integers(1, 3), width=few)
def test_linear_and_products(form: str, rows: int, keys: int, heads: int, width: int) -> None:
    channels = heads * width
    graph = QdqGraph(rows + keys, x=(1, rows, channels), k=(1, keys, channels))
    shape = graph.constant([1, -1, heads, width], np.int64)
    x = graph.linear("x", channels, channels)
    q, k = (graph.add("Transpose", graph.add("Reshape", name, shape), perm=[0, 2, 1, 3]) for name in (x, "k"))
    scores = graph.add(
        "MatMul", graph.rounded(q), graph.rounded(graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    )
    made = hold(graph, graph.add("MatMul", graph.rounded(scores, 1 / 2), graph.rounded(k)), form)
    assert (count_ops(made)["MatMulIntegerToFloat"], count_ops(made)["MatMul"]) == (3, 0)


@settings(max_examples=15, deadline=None)
@given(form=forms, across=few, down=few, patch=st.integers(2, 4), width=few, out=few, ragged=st.booleans())
def test_convolution_of_patches(
    form: str, across: int, down: int, patch: int, width: int, out: int, ragged: bool
) -> None:
    graph = QdqGraph(patch, x=(1, down * patch, across * patch + ragged, width))
    x, weight = graph.rounded(graph.add("Transpose", "x", perm=NCHW)), graph.weight(out, width, patch, patch)
    sizes = {"kernel_shape": [patch] * 2, "strides": [patch] * 2}
    made = hold(
        graph, graph.add("Transpose", graph.add("Conv", x, weight, graph.bias(out), **sizes), perm=NHWC), form
    )
    assert (count_ops(made)["MatMulIntegerToFloat"], count_ops(made)["Conv"]) == (1 - ragged, int(ragged))


@settings(max_examples=15, deadline=None)
@given(form=forms, side=sides, low=st.floats(-3, 0), high=st.floats(0, 20))
def test_limits_between_a_convolution_and_its_codes(form: str, side: int, low: float, high: float) -> None:
    graph = QdqGraph(side, x=(1, 3, side, side))
    y = graph.add("Clip", graph.conv("x", 3, 5), graph.constant(low), graph.constant(high))
    made = hold(graph, graph.rounded(y, 1 / 8), form)
    counts = count_ops(made)
    (limits,) = (node for node in made.graph.node if node.op_type == "Clip")
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert counts["QLinearConv"] == 1
    assert {kinds[name] for name in limits.input[1:]} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


@settings(max_examples=15, deadline=None)
@given(
    form=forms,
    side=st.integers(3, 8),
    around=st.tuples(*[st.integers(0, 2)] * 4),
    value=st.sampled_from([0.0, 0.5]),
)
def test_padding_before_a_convolution(form: str, side: int, around: tuple[int, ...], value: float) -> None:
    top, left, bottom, right = around
    graph = QdqGraph(sum(around), x=(1, 4, side, side))
    pads = graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    x = graph.add("Pad", "x", pads, graph.constant(value))
    made = hold(graph, graph.rounded(graph.conv(x, 4, 4, 3, depthwise=True)), form)
    assert (count_ops(made)["QLinearConv"], count_ops(made)["Pad"]) == (1, int(value != 0))


@pytest.mark.parametrize("form", EXACT)
def test_what_has_no_integer_operator_keeps_its_weights_as_floats(form: str) -> None:
    graph = QdqGraph(x=(1, 4, 6, 6))
    made = hold(graph, graph.conv("x", 4, 8, 3), form)
    assert count_ops(made)["Conv"] == 1
    assert not any(
        numpy_helper.to_array(tensor).dtype == np.int8
        for tensor in made.graph.initializer
        if len(tensor.dims) == 4
    )


@pytest.mark.parametrize("form", EXACT)
def test_gelu_is_one_operator(form: str) -> None:
    graph = QdqGraph(x=(2, 50))
    x = graph.rounded("x", 1 / 16)
    erf = graph.add("Erf", graph.add("Div", x, graph.constant(np.sqrt(2))))
    y = graph.add("Mul", graph.add("Mul", x, graph.add("Add", erf, graph.constant(1))), graph.constant(0.5))
    canonical, feed = graph.model(graph.rounded(y, 1 / 16)), graph.feed()
    made = dialect(canonical, form)
    assert (count_ops(made)["Gelu"], count_ops(made)["Erf"]) == (1, 0)
    np.testing.assert_allclose(run(made, feed), run(canonical, feed), atol=1e-6)


def test_something_like_gelu_stays() -> None:
    graph = QdqGraph(x=(2, 50))
    erf = graph.add("Erf", graph.add("Div", "x", graph.constant(1.5)))
    made = dialect(
        graph.model(
            graph.add(
                "Mul", graph.add("Mul", "x", graph.add("Add", erf, graph.constant(1))), graph.constant(0.5)
            )
        ),
        "x86",
    )
    assert (count_ops(made)["Gelu"], count_ops(made)["Erf"]) == (0, 1)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), rank=st.integers(2, 4))
def test_transposes_and_elementwise_operators_in_any_order(data: st.DataObject, rank: int) -> None:
    graph = QdqGraph(x=tuple(range(2, 2 + rank)))
    names, shapes = ["x"], [tuple(range(2, 2 + rank))]
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(names) - 1))
        kind = data.draw(st.sampled_from(["transpose", "relu", "round", "add", "reshape"]))
        if kind == "transpose":
            perm = data.draw(st.permutations(range(rank)))
            names.append(graph.add("Transpose", names[at], perm=perm))
            shapes.append(tuple(shapes[at][axis] for axis in perm))
            continue
        same = [name for name, shape in zip(names, shapes, strict=True) if shape == shapes[at]]
        makers: dict[str, Callable[[], str]] = {
            "relu": lambda at=at: graph.add("Relu", names[at]),
            "round": lambda at=at: graph.rounded(names[at]),
            "add": lambda at=at, same=same: graph.add("Add", names[at], data.draw(st.sampled_from(same))),
            "reshape": lambda at=at: graph.add("Reshape", names[at], graph.constant(shapes[at], np.int64)),
        }
        names.append(makers[kind]())
        shapes.append(shapes[at])
    model, feed = graph.model(names[-1]), graph.feed()
    settled = edited(model, unsigned_activations, settle_transposes, settle_reshapes, settle_transposes)
    onnx.checker.check_model(settled, full_check=True)
    np.testing.assert_array_equal(run(settled, feed), run(model, feed))
    assert count_ops(settled)["Transpose"] <= count_ops(model)["Transpose"] * len(names)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 24),
    keys=sides,
    heads=st.integers(1, 3),
    piece=st.integers(1, 2000),
    rounded=st.booleans(),
)
def test_attention_in_pieces(rows: int, keys: int, heads: int, piece: int, rounded: bool) -> None:
    graph = QdqGraph(rows, q=(1, heads, rows, 4), k=(1, heads, 4, keys), v=(1, heads, keys, 4))
    weights = graph.add("Softmax", graph.add("MatMul", "q", "k"), axis=-1)
    model, feed = (
        graph.model(graph.add("MatMul", graph.rounded(weights, 1 / 128) if rounded else weights, "v")),
        graph.feed(),
    )
    editor = GraphEditor(model)
    split = attention_in_pieces(editor, piece)
    made = editor.finish()
    np.testing.assert_allclose(
        run(made, feed), run(model, feed), rtol=1e-5, atol=1e-5
    )  # sums in another order
    pieces = count_ops(made)["Softmax"]
    assert split == (pieces > 1)
    assert rows % pieces == 0
    assert pieces == rows or heads * rows * keys * 4 <= pieces * piece


def test_one_value_a_channel_is_written_out_for_a_row() -> None:
    graph = QdqGraph(x=(1, 4, 5, 3))
    x = graph.add("Sub", graph.add("Transpose", "x", perm=NCHW), graph.constant([[[1.0]], [[2.0]], [[3.0]]]))
    model, feed = graph.model(graph.add("Transpose", x, perm=NHWC)), graph.feed()
    made = edited(model, settle_transposes)
    assert count_ops(made)["Transpose"] == 0
    np.testing.assert_array_equal(run(made, feed), run(model, feed))


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_weights_are_rounded_as_quantizelinear_rounds(channels: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 1, (channels, size)).astype(np.float32)
    scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    graph = QdqGraph(x=(1, 1))
    codes = graph.add(
        "QuantizeLinear",
        graph.constant(weight),
        graph.constant(scale),
        graph.constant([0] * channels, np.int8),
        axis=0,
    )
    model = graph.model(graph.add("Cast", codes, to=onnx.TensorProto.FLOAT))
    np.testing.assert_array_equal(run(model, graph.feed()), integers(weight, scale))


def test_weights_become_integers() -> None:
    graph = QdqGraph(x=(1, 3))
    weight = graph.constant([[0.5, -1.0, 0.25], [2.0, 1.0, -0.5]])
    scale, zero = graph.constant([1 / 127, 2 / 127]), graph.constant([0, 0], np.int8)
    codes = graph.add("QuantizeLinear", weight, scale, zero, axis=0)
    rounded = graph.add("DequantizeLinear", codes, scale, zero, axis=0)
    model = graph.model(graph.add("MatMul", "x", graph.add("Transpose", rounded, perm=[1, 0])))
    stored = with_integer_weights(model)
    assert count_ops(stored)["QuantizeLinear"] == 0
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    assert weight not in kept and kept[f"{weight}.int8"].dtype == np.int8
    np.testing.assert_array_equal(run(stored, feed := graph.feed()), run(model, feed))


def test_a_model_without_quantizers_is_no_int8_program() -> None:
    graph = QdqGraph(x=(1, 3))
    with pytest.raises(BuildError, match="no quantizers"):
        with_integer_weights(graph.model(graph.add("Relu", "x")))


def test_write_dialect(tmp_path: Path) -> None:
    graph = QdqGraph(x=(1, 4, 6, 6))
    onnx.save(graph.model(graph.rounded(graph.conv("x", 4, 8))), tmp_path / "qdq.onnx")
    labels = LabelSpace(("road",), ((0, 0, 0),))
    program = Program(
        tmp_path / "qdq.onnx", ImageSpec((32, 32)), labels, 1, IsrPlan(), "int8", "tiny", form=Form.QDQ
    )
    made = write_dialect(program, Form.ORT_X86, tmp_path / "x86.onnx")
    assert (made.form, made.onnx_path, made.precision) == ("x86", tmp_path / "x86.onnx", "int8")
    assert count_ops(onnx.load(made.onnx_path))["QLinearConv"] == 1
    for wrong in (replace(program, form=Form.ORT_X86), replace(program, precision="float")):
        with pytest.raises(ValueError, match="no form"):
            write_dialect(wrong, Form.ORT_X86, tmp_path / "again.onnx")
    with pytest.raises(ValueError, match="no form"):
        write_dialect(program, "vax", tmp_path / "again.onnx")
