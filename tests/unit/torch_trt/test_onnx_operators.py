"""Every operator of the table, alone in a graph of random sizes and attributes: torch makes of it what ONNX
Runtime does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseg.engines.onnx_files.graph import read_graph
from edgeseg.torch_trt.operators import OPERATORS
from edgeseg.torch_trt.program import TorchProgram

Draw = Callable[[st.SearchStrategy[Any]], Any]
Case = tuple[dict[str, Any], list[np.ndarray | None]]
"""Attributes, and inputs: the first is what changes, None is left out."""

sides, few, flags = st.integers(1, 5), st.integers(1, 3), st.integers(0, 1)
IMAGES = st.tuples(st.just(1), sides, st.integers(3, 7), st.integers(3, 7))
SHAPES = st.lists(sides, min_size=1, max_size=5).map(tuple)


def array(draw: Draw, shape: Any) -> np.ndarray:
    """Values of both signs, no two alike, that binary fractions hold."""
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    places = np.random.default_rng(draw(st.integers(0, 99))).permutation(int(np.prod(shape)))
    return ((places - places.size // 2) / 8 + 1 / 16).reshape(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def one(**attributes: st.SearchStrategy[Any]) -> Callable[[Draw], Case]:
    """An operator on one tensor of any shape."""
    return lambda draw: ({name: draw(values) for name, values in attributes.items()}, [array(draw, SHAPES)])


def two(draw: Draw) -> Case:
    """The second of the same shape, of some of its last sides, or of some sides 1."""
    x = array(draw, SHAPES)
    shape = [draw(st.sampled_from((1, side))) for side in x.shape][draw(st.integers(0, x.ndim)) :]
    return {}, [x, array(draw, tuple(shape))]


def along(draw: Draw) -> tuple[np.ndarray, int]:
    """A tensor and one of its axes, from either end."""
    x = array(draw, SHAPES)
    return x, draw(st.integers(-x.ndim, x.ndim - 1))


def softmax(draw: Draw) -> Case:
    x, axis = along(draw)
    return {"axis": axis}, [x]


def argmax(draw: Draw) -> Case:
    x, axis = along(draw)
    return {"axis": axis, "keepdims": draw(flags), "select_last_index": 0}, [np.round(x)]  # with ties


def reduce_sum(draw: Draw) -> Case:
    x, axis = along(draw)
    return {"keepdims": draw(flags)}, [x, draw(st.sampled_from((ints(axis), None)))]


def concat(draw: Draw) -> Case:
    x, axis = along(draw)
    parts = [x.repeat(draw(few), axis) for _ in range(draw(few))]
    return {"axis": axis}, [x, *parts]


def split(draw: Draw) -> Case:
    x, axis = along(draw)
    first = draw(st.integers(0, x.shape[axis]))
    return {"axis": axis}, [x, ints(first, x.shape[axis] - first)]


def slices(draw: Draw) -> Case:
    x, axis = along(draw)
    step = draw(st.sampled_from((-2, -1, 1, 2, 3)))
    start = draw(st.integers(-x.shape[axis], 9))
    as_far_as_it_goes = (2**31 - 1, 2**63 - 1) if step > 0 else (-(2**31), -(2**63) + 1)
    end = draw(st.one_of(st.integers(-9, 9), st.sampled_from(as_far_as_it_goes)))
    if axis == 0 and step == 1:
        return {}, [x, ints(start), ints(end)]
    return {}, [x, ints(start), ints(end), ints(axis), ints(step)]


def pad(draw: Draw) -> Case:
    x = array(draw, SHAPES)
    ends = [draw(st.integers(-(x.shape[axis % x.ndim] // 2), 3)) for axis in range(2 * x.ndim)]
    return {"mode": "constant"}, [x, ints(*ends), draw(st.sampled_from((None, np.asarray(1.5, np.float32))))]


def reshape(draw: Draw) -> Case:
    x = array(draw, SHAPES)
    shape = draw(
        st.sampled_from([[-1], [0, -1], [1, -1], [*x.shape, 1], [x.size // x.shape[-1], x.shape[-1]]])
    )
    return {"allowzero": 0}, [x, ints(*shape)]


def unsqueeze(draw: Draw) -> Case:
    x = array(draw, SHAPES)
    rank = x.ndim + 2
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=2, max_size=2, unique=True))
    return {}, [x, ints(*(axis - rank * draw(flags) for axis in axes))]


def squeeze(draw: Draw) -> Case:
    x = array(draw, (1, draw(sides), 1, draw(sides)))
    return {}, [x, ints(*draw(st.sampled_from(([0], [2], [0, 2], [-2], [-4, -2]))))]


def clip(draw: Draw) -> Case:
    low, high = (draw(st.sampled_from((None, np.asarray(bound, np.float32)))) for bound in (-0.5, 0.75))
    return {}, [array(draw, SHAPES), low, high]


def window(draw: Draw) -> dict[str, Any]:
    kernel = [draw(few), draw(few)]
    pads = [draw(st.integers(0, side // 2)) for side in kernel]
    return {"kernel_shape": kernel, "strides": [draw(few), draw(few)], "pads": pads * 2}


def average_pool(draw: Draw) -> Case:
    return {**window(draw), "count_include_pad": draw(flags), "ceil_mode": 0}, [array(draw, IMAGES)]


def conv(draw: Draw) -> Case:
    group, inside, outside = draw(few), draw(few), draw(few)
    a = {**window(draw), "group": group}
    dilations = [draw(st.integers(1, 2)), 1]
    x = array(draw, (1, group * inside, draw(st.integers(5, 7)), draw(st.integers(3, 7))))
    weight = array(draw, (group * outside, inside, *a["kernel_shape"]))
    return {**a, "dilations": dilations}, [
        x,
        weight,
        draw(st.sampled_from((None, array(draw, (group * outside,))))),
    ]


def conv_transpose(draw: Draw) -> Case:
    group, inside, outside = draw(few), draw(few), draw(few)
    a = {**window(draw), "group": group}
    a["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in a["strides"]]
    x = array(draw, (1, group * inside, draw(st.integers(3, 5)), 3))
    weight = array(draw, (group * inside, outside, *a["kernel_shape"]))
    return {**a, "dilations": [1, 1]}, [
        x,
        weight,
        draw(st.sampled_from((None, array(draw, (group * outside,))))),
    ]


def gemm(draw: Draw) -> Case:
    rows, inner, columns, turned, other = draw(sides), draw(sides), draw(sides), draw(flags), draw(flags)
    x = array(draw, (inner, rows) if turned else (rows, inner))
    y = array(draw, (columns, inner) if other else (inner, columns))
    bias = draw(st.sampled_from((None, array(draw, (columns,)), array(draw, (rows, 1)))))
    scales = {name: draw(st.sampled_from((1.0, 0.5))) for name in ("alpha", "beta")}
    return {"transA": turned, "transB": other, **scales}, [x, y, bias]


def matmul(draw: Draw) -> Case:
    batch, rows, inner, columns = draw(sides), draw(sides), draw(sides), draw(sides)
    y = draw(st.sampled_from([(inner, columns), (batch, inner, columns), (1, inner, columns)]))
    return {}, [array(draw, (batch, rows, inner)), array(draw, y)]


def layer_norm(draw: Draw) -> Case:
    x = array(draw, (draw(sides), draw(sides), draw(st.integers(2, 5))))
    axis = draw(st.sampled_from((-1, 2, 1, -2)))
    gain, bias = array(draw, x.shape[axis:]), array(draw, x.shape[axis:])
    return {"axis": axis, "epsilon": 1e-3}, [x, gain, draw(st.sampled_from((None, bias)))]


def resize(draw: Draw) -> Case:
    x = array(draw, IMAGES)
    a = {
        "mode": "linear",
        "coordinate_transformation_mode": draw(st.sampled_from(("half_pixel", "align_corners"))),
    }
    if draw(flags):
        return a, [x, None, None, ints(*x.shape[:2], draw(st.integers(2, 20)), draw(st.integers(2, 20)))]
    factors = st.sampled_from((0.5, 1.0, 2.0, 4.0))
    return a, [x, None, np.asarray([1, 1, draw(factors), draw(factors)], np.float32)]


def grid_sample(draw: Draw) -> Case:
    x, height, width = array(draw, IMAGES), draw(sides), draw(sides)
    grid = (
        np.random.default_rng(draw(st.integers(0, 99)))
        .uniform(-1.5, 1.5, (1, height, width, 2))
        .astype(np.float32)
    )
    return {"padding_mode": "zeros", "align_corners": draw(flags)}, [x, grid]


def transpose(draw: Draw) -> Case:
    x = array(draw, SHAPES)
    return {"perm": draw(st.permutations(range(x.ndim)))}, [x]


def divide(draw: Draw) -> Case:
    """Whole numbers too: they are cut off, not rounded down."""
    attributes, inputs = two(draw)
    return attributes, [np.ceil(x).astype(np.int32) * 2 + 1 for x in inputs] if draw(flags) else inputs


CASES: dict[str, Callable[[Draw], Case]] = {
    **dict.fromkeys(("Abs", "Erf", "Identity", "Relu", "Sigmoid", "Tanh"), one()),
    **dict.fromkeys(("Add", "Mul", "Sub"), two),
    "ArgMax": argmax,
    "AveragePool": average_pool,
    "Cast": one(
        to=st.sampled_from((TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT))
    ),
    "Clip": clip,
    "Concat": concat,
    "ConstantOfShape": lambda draw: (
        {"value": numpy_helper.from_array(ints(draw(sides)))},
        [ints(0), ints(*draw(SHAPES))],
    ),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": divide,
    "Gelu": one(approximate=st.sampled_from(("none", "tanh"))),
    "Gemm": gemm,
    "GlobalAveragePool": lambda draw: ({}, [array(draw, IMAGES)]),
    "GridSample": grid_sample,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "Pad": pad,
    "ReduceSum": reduce_sum,
    "Reshape": reshape,
    "Resize": resize,
    "Slice": slices,
    "Softmax": softmax,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}


def model_of(operator: str, attributes: dict[str, Any], inputs: list[np.ndarray | None], opset: int) -> bytes:
    """A graph of one operator on what changes, "v0". What ConstantOfShape gives, which never changes, is
    added to that.
    """
    names = ["" if value is None else f"v{place}" for place, value in enumerate(inputs)]
    if operator == "ConstantOfShape":
        nodes = [
            helper.make_node(operator, ["v1"], ["filled"], **attributes),
            helper.make_node("Add", ["v0", "filled"], ["mask"]),
        ]
    else:
        outputs = ["mask", "rest"] if operator == "Split" else ["mask"]
        nodes = [helper.make_node(operator, names, outputs, "it", **attributes)]
    changes = helper.make_tensor_value_info(
        "v0", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape
    )
    constants = [
        numpy_helper.from_array(value, name)
        for value, name in zip(inputs[1:], names[1:], strict=True)
        if name
    ]
    graph = helper.make_graph(nodes, "one", [changes], [onnx.ValueInfoProto(name="mask")], constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    ).SerializeToString()


def test_no_operator_is_left_out() -> None:
    assert set(CASES) == set(OPERATORS)


@pytest.mark.parametrize("operator", sorted(CASES))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_it_does_what_onnxruntime_does(operator: str, data: st.DataObject) -> None:
    attributes, inputs = CASES[operator](data.draw)
    opset = data.draw(st.integers(20 if operator == "Gelu" else 17, 20))
    if operator == "GridSample":
        attributes["mode"] = "bilinear" if opset < 20 else "linear"
    model = model_of(operator, attributes, inputs, opset)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"v0": inputs[0]})[0]
    with torch.no_grad():
        found = TorchProgram(read_graph(model, Path()))(torch.from_numpy(inputs[0])).numpy()
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
