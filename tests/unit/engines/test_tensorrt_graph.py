"""The order of Cast and Transpose that TensorRT wants: same values, and nothing else of the file changes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeseg.engines.tensorrt.graph import cast_first
from tiny import tiny_image, tiny_mask, tiny_program

CAST = {"to": TensorProto.FLOAT}
TRANSPOSE = {"perm": [0, 3, 1, 2]}


def graph_of(program_path: Path, *first: tuple[str, dict[str, object]], extra_reader: bool = False) -> bytes:
    """The tiny HWC program, from "image" to "x" by other operators than its own."""
    model = onnx.load(program_path)
    nodes = list(model.graph.node)[2:]
    names = ["image", *(f"step{index}" for index in range(len(first) - 1)), "x"]
    made = [
        helper.make_node(operator, [names[index]], [names[index + 1]], name=operator.lower(), **attributes)
        for index, (operator, attributes) in enumerate(first)
    ]
    if extra_reader:
        made.append(helper.make_node("Cast", ["image"], ["unused"], **CAST))
    del model.graph.node[:]
    model.graph.node.extend([*made, *nodes])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_program(tmp_path / "tiny.onnx").onnx_path


def test_the_cast_goes_first_and_nothing_else_changes(tiny: Path) -> None:
    before = graph_of(tiny, ("Transpose", TRANSPOSE), ("Cast", CAST))
    after = cast_first(before)
    model = onnx.load_from_string(after)
    onnx.checker.check_model(model, full_check=True)
    assert [(node.op_type, node.name) for node in model.graph.node][:2] == [
        ("Cast", "cast"),
        ("Transpose", "transpose"),
    ]
    assert model == onnx.load_from_string(graph_of(tiny, ("Cast", CAST), ("Transpose", TRANSPOSE)))
    assert cast_first(after) == after
    session = onnxruntime.InferenceSession(after, providers=["CPUExecutionProvider"])
    (mask,) = session.run(None, {"image": tiny_image()[np.newaxis]})
    np.testing.assert_array_equal(mask[0], tiny_mask(tiny_image()))


def test_other_graphs_stay_as_they_are(tiny: Path) -> None:
    others = [
        graph_of(tiny, ("Cast", CAST), ("Transpose", TRANSPOSE)),
        graph_of(tiny, ("Transpose", TRANSPOSE), ("Cast", CAST), extra_reader=True),
        graph_of(tiny, ("Transpose", TRANSPOSE), ("Identity", {}), ("Cast", CAST)),
        tiny_program(tiny.with_name("nchw.onnx"), "NCHW").onnx_path.read_bytes(),
    ]
    for model in others:
        assert cast_first(model) == model


@given(st.binary(max_size=200))
def test_what_is_no_model_stays_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert cast_first(data) == data
