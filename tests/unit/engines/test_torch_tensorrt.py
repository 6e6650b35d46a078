"""The Torch-TensorRT row without Torch-TensorRT: what it asks of the machine, what it orders, what its child
tells.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import builders
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt import from_torch
from edgeseg.engines.tensorrt.from_torch import TorchTensorRt
from edgeseg.errors import BuildError, MissingDependency, Unsupported
from edgeseg.torch_trt import compiler
from fake_cuda import FakeLibrary
from tiny import tiny_program

CARD = Machine(
    "x86_64", "Linux", "", "a CPU", (), (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), None, None, None, {}
)
BARE = replace(CARD, gpus=())


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_torch, "version", lambda name: {"torch-tensorrt": "2.13.0"}[name])
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0"))  # type: ignore[arg-type]


def row(machine: Machine = CARD) -> TorchTensorRt:
    return TorchTensorRt(machine=machine, cuda=Cuda(FakeLibrary()))


@pytest.mark.usefixtures("installed")
def test_what_is_ordered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(from_torch, "build", builders.at_once)
    engine, facts = row().compile(
        tiny_program(tmp_path / "p.onnx"), tmp_path, {"threads": 2, "optimization_level": 5}
    )
    assert engine.name == "engine.trt"
    assert json.loads(facts.read_text()) == {"optimization_level": 5, "workspace_bytes": 1 << 29}


@pytest.mark.usefixtures("installed")
def test_it_is_a_candidate_where_there_is_a_gpu(tmp_path: Path) -> None:
    assert (row().variants(), row(BARE).variants()) == ([{}], [])
    assert row().version() == "2.13.0 on TensorRT 11.0.0"
    assert [row().form_for(precision) for precision in ("float", "fp16", "int8")] == [
        "tensorrt",
        "tensorrt",
        "half",
    ]
    with pytest.raises(Unsupported, match="here is none"):
        row(BARE).compile(tiny_program(tmp_path / "p.onnx"), tmp_path, {})


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(from_torch, "version", missing)
    with pytest.raises(MissingDependency, match="torch_tensorrt") as refused:
        row().variants()
    assert refused.value.hint == "pip install 'edgeseg[tensorrt]'"
    assert row(BARE).variants() == [], "no GPU: no reason to install anything"


@pytest.mark.usefixtures("installed")
def test_a_child_that_refuses_and_one_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "p.onnx")
    monkeypatch.setattr(compiler, "construct", builders.refuse)
    with pytest.raises(BuildError, match=r"torch_tensorrt refuses .*p\.onnx: no such operator: Frobnicate"):
        row().compile(program, tmp_path, {})
    monkeypatch.setattr(compiler, "construct", builders.run_out_of_memory)
    with pytest.raises(BuildError, match="SIGKILL"):
        row().compile(program, tmp_path, {})
    monkeypatch.setattr(compiler, "construct", builders.lack_modelopt)
    with pytest.raises(MissingDependency, match="'modelopt' is needed") as lacking:
        row().compile(program, tmp_path, {})
    assert lacking.value.hint == "pip install 'edgeseg[tensorrt]'"
