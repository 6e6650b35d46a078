"""The order of Cast and Transpose that TensorRT wants: same values, and nothing else of the graph changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeseg.bundle.graph_files import image_readers
from edgeseg.engines.tensorrt.builder import read_for_gpu
from edgeseg.errors import BuildError
from edgeseg.export.graph.editor import GraphEditor
from edgeseg.export.graph.half import to_half
from edgeseg.export.graph.layout import cast_image_first
from tiny import SIZE_HW, tiny_image, tiny_mask, tiny_program

CAST = ("Cast", {"to": TensorProto.FLOAT})
TRANSPOSE = ("Transpose", {"perm": [0, 3, 1, 2]})


def graph_of(
    program_path: Path, *first: tuple[str, dict[str, object]], extra_reader: bool = False
) -> onnx.ModelProto:
    """The tiny HWC program, from "image" to "x" by other operators than its own."""
    model = onnx.load(program_path)
    nodes = list(model.graph.node)[2:]
    names = ["image", *(f"step{index}" for index in range(len(first) - 1)), "x"]
    made = [
        helper.make_node(operator, [names[index]], [names[index + 1]], name=operator.lower(), **attributes)
        for index, (operator, attributes) in enumerate(first)
    ]
    if extra_reader:
        made.append(helper.make_node("Cast", ["image"], ["other"], to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, *SIZE_HW, 3]))
    del model.graph.node[:]
    model.graph.node.extend([*made, *nodes])
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_program(tmp_path / "tiny.onnx").onnx_path


def test_the_cast_goes_first_and_nothing_else_changes(tiny: Path) -> None:
    graph = GraphEditor(graph_of(tiny, TRANSPOSE, CAST))
    assert cast_image_first(graph) == 1
    assert cast_image_first(graph) == 0
    after = graph.finish()
    onnx.checker.check_model(after, full_check=True)
    assert after == GraphEditor(graph_of(tiny, CAST, TRANSPOSE)).finish()
    session = onnxruntime.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    (mask,) = session.run(None, {"image": tiny_image()[np.newaxis]})
    np.testing.assert_array_equal(mask[0], tiny_mask(tiny_image()))


def test_other_graphs_stay_as_they_are(tiny: Path) -> None:
    others = [
        graph_of(tiny, CAST, TRANSPOSE),
        graph_of(tiny, TRANSPOSE, CAST, extra_reader=True),
        graph_of(tiny, TRANSPOSE, ("Identity", {}), CAST),
        onnx.load(tiny_program(tiny.with_name("nchw.onnx"), "NCHW").onnx_path),
    ]
    for model in others:
        graph = GraphEditor(model)
        assert cast_image_first(graph) == 0
        assert graph.finish() == GraphEditor(model).finish()


def test_programs_in_half_precision_are_for_gpus(tiny: Path) -> None:
    before = graph_of(tiny, TRANSPOSE, CAST)
    assert image_readers(before.SerializeToString()) == {"Transpose"}
    assert image_readers(to_half(before).SerializeToString()) == {"Cast"}
    assert image_readers(b"") == set()


def test_a_builder_for_gpus_reads_no_program_for_processors(tiny: Path) -> None:
    program = tiny_program(tiny)
    assert read_for_gpu(program) == tiny.read_bytes()
    onnx.save(graph_of(tiny, TRANSPOSE, CAST), tiny)
    with pytest.raises(BuildError, match="it transposes its image as bytes") as refused:
        read_for_gpu(program)
    assert "edgeseg export RECIPE --precision fp16 --force" in refused.value.hint
    tiny.write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"message|field|number"):
        read_for_gpu(program)
