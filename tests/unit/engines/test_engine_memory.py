"""Peak memory of an engine: measured apart, told in the table, and an engine that cannot be opened is an
error.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.bundle import open_bundle
from edgeseg.cli.main import run
from edgeseg.engines.choose import memory
from edgeseg.engines.choose.memory import peak_memory_bytes
from edgeseg.engines.onnxruntime.backend import OnnxRuntime
from edgeseg.engines.open import find_engine
from edgeseg.errors import BuildError
from edgeseg.specs import Program
from tiny import tiny_bundle, tiny_program

OPTIONS = {"threads": 1}
pytestmark = pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux tells the peak of a process")


def weighing(program: Program, megabytes: int) -> Program:
    """The program, its mask found after adding the sum of a constant of so many megabytes, which is zero."""
    model = onnx.load(program.onnx_path)
    ballast = np.zeros((1, 1, megabytes * 1024, 256), np.float32)
    ballast[0, 0, :, 0], ballast[0, 0, :, 1] = 1.0, -1.0  # not all equal: nothing may fold it away
    model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    at = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Cast")
    for node in model.graph.node:
        node.input[:] = ["heavier" if name == "logits" else name for name in node.input]
    nodes = [
        helper.make_node("Cast", ["image"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["as_float"], ["least"], keepdims=0),
        helper.make_node("Mul", ["ballast", "least"], ["scaled"]),
        helper.make_node("ReduceSum", ["scaled"], ["nothing"], keepdims=0),
    ]
    for offset, node in enumerate(nodes):
        model.graph.node.insert(at + offset, node)
    conv = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Conv")
    model.graph.node.insert(conv + 1, helper.make_node("Add", ["logits", "nothing"], ["heavier"]))
    onnx.save(model, program.onnx_path)
    return program


def test_what_an_engine_holds_counts(tmp_path: Path) -> None:
    runtime, peaks = OnnxRuntime(), []
    for megabytes in (1, 32):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        program = weighing(tiny_program(folder / "tiny.onnx"), megabytes)
        peak = peak_memory_bytes("onnxruntime", program, runtime.compile(program, folder, OPTIONS), OPTIONS)
        assert peak is not None
        peaks.append(peak)
    assert 30e6 < peaks[1] - peaks[0] < 4 * 32e6


def test_an_engine_that_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "engine.ort").write_bytes(b"no engine")
    with pytest.raises(BuildError, match="onnxruntime refuses"):
        peak_memory_bytes(
            "onnxruntime", tiny_program(tmp_path / "tiny.onnx"), [tmp_path / "engine.ort"], OPTIONS
        )


def test_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "not_there")
    assert peak_memory_bytes("onnxruntime", tiny_program(tmp_path / "tiny.onnx"), [], OPTIONS) is None


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_bundle(tmp_path / "b.edgeseg").path
    line = ["build", str(path), "--threads", "1", "--runtime", "onnxruntime"]
    assert run(line) == 0
    assert "memory" not in capsys.readouterr().out
    assert run([*line, "--memory", "--json"]) == 0
    (level,) = json.loads(capsys.readouterr().out)["engines"]
    assert (level["built"], level["reason"]) == (True, "to measure memory")
    assert (
        level["measurements"]["peak_memory_bytes"]
        == find_engine(open_bundle(path)).measurements["peak_memory_bytes"]
        > 0
    )
    assert run(["build", str(path), "--device", "rtx4090", "--memory"]) == 2
