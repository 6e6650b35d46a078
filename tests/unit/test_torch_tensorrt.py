"""The Torch-TensorRT row without Torch-TensorRT: what it asks of the machine, what it orders, what each release is told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import builders
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines import torch_tensorrt, torch_tensorrt_build
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt_build import Order
from edgeseg.engines.torch_tensorrt import TorchTensorRt
from edgeseg.engines.torch_tensorrt_build import construct, settings
from edgeseg.errors import BuildError, MissingDependency, Unsupported
from fake_cuda import FakeLibrary
from tiny import tiny_program

CARD = Machine("x86_64", "Linux", "", "", (), (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), None, None, None, {})
BARE = replace(CARD, gpus=())


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tensorrt, "version", lambda name: {"torch-tensorrt": "2.13.0"}[name])
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0"))  # type: ignore[arg-type]
    monkeypatch.setattr(torch_tensorrt_build, "construct", builders.succeed)


def row(machine: Machine = CARD) -> TorchTensorRt:
    return TorchTensorRt(machine=machine, cuda=Cuda(FakeLibrary()))


@pytest.mark.usefixtures("installed")
def test_what_is_ordered(tmp_path: Path) -> None:
    engine, facts = row().compile(tiny_program(tmp_path / "p.onnx"), tmp_path, {"threads": 2, "optimization_level": 5})
    assert engine.name == "engine.trt"
    assert json.loads(facts.read_text()) == {"optimization_level": 5, "workspace_bytes": 1 << 29}


@pytest.mark.usefixtures("installed")
def test_it_is_a_candidate_where_there_is_a_gpu(tmp_path: Path) -> None:
    assert (row().variants(), row(BARE).variants()) == ([{}], [])
    assert row().version() == "2.13.0 on TensorRT 11.0.0"
    assert [row().form_for(precision) for precision in ("float", "fp16", "int8")] == ["tensorrt", "tensorrt", "half"]
    with pytest.raises(Unsupported, match="here is none"):
        row(BARE).compile(tiny_program(tmp_path / "p.onnx"), tmp_path, {})


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(torch_tensorrt, "version", missing)
    with pytest.raises(MissingDependency, match="torch_tensorrt") as refused:
        row().variants()
    assert refused.value.hint == "pip install 'edgeseg[tensorrt]'"


@pytest.mark.usefixtures("installed")
def test_a_child_that_refuses_and_one_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "p.onnx")
    monkeypatch.setattr(torch_tensorrt_build, "construct", builders.refuse)
    with pytest.raises(BuildError, match=r"torch_tensorrt refuses .*p\.onnx: no such operator: Frobnicate"):
        row().compile(program, tmp_path, {})
    monkeypatch.setattr(torch_tensorrt_build, "construct", builders.run_out_of_memory)
    with pytest.raises(BuildError, match="SIGKILL"):
        row().compile(program, tmp_path, {})


def release_2_8(
    exported: Any,
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    enabled_precisions: Any = None,
    use_explicit_typing: bool = False,
    require_full_compilation: bool = False,
    min_block_size: int = 5,
    workspace_size: int = 0,
    optimization_level: int | None = None,
    timing_cache_path: str = "",
    cache_built_engines: bool = False,
    reuse_cached_engines: bool = False,
    **kwargs: Any,
) -> bytes:
    return b"engine"


def release_2_13(
    exported: Any,
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    require_full_compilation: bool = False,
    min_block_size: int = 5,
    workspace_size: int = 0,
    optimization_level: int | None = None,
    timing_cache_path: str = "",
    cache_built_engines: bool = False,
    reuse_cached_engines: bool = False,
    attn_bias_is_causal: bool = True,
    **kwargs: Any,
) -> bytes:
    return b"engine"


def release_2_14(
    exported: Any,
    inputs: Any = None,
    *,
    arg_inputs: Any = None,
    min_block_size: int = 5,
    attn_bias_is_causal: bool = True,
    arg_input_binding_names: Any = None,
    output_binding_names: Any = None,
    **kwargs: Any,
) -> bytes:
    return b"engine"


def test_each_release_is_told_what_it_knows(tmp_path: Path) -> None:
    asked = {"workspace_bytes": 1 << 20, "optimization_level": 5}
    order = Order("torch_tensorrt", tiny_program(tmp_path / "p.onnx"), tmp_path / "e", tmp_path / "f", asked, tmp_path / "t")
    common = {"min_block_size": 1, "workspace_size": 1 << 20, "optimization_level": 5, "timing_cache_path": str(tmp_path / "t")}
    common |= {"require_full_compilation": True, "cache_built_engines": False, "reuse_cached_engines": False}
    assert settings(release_2_8, order) == {**common, "use_explicit_typing": True}
    assert settings(release_2_13, order) == {**common, "attn_bias_is_causal": False}
    names = {"arg_input_binding_names": ("image",), "output_binding_names": "mask"}
    assert settings(release_2_14, order) == {"min_block_size": 1, "attn_bias_is_causal": False, **names}
    bare = replace(order, settings={}, timing_cache=None)
    assert not {"workspace_size", "optimization_level", "timing_cache_path"} & set(settings(release_2_13, bare))


class Pipe:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, what: Any) -> None:
        self.said.append(what)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    return Order("torch_tensorrt", tiny_program(tmp_path / "p.onnx"), tmp_path / "e", tmp_path / "f")


def releases(monkeypatch: pytest.MonkeyPatch, convert: Any) -> None:
    """A Torch-TensorRT that calls `convert`; torch.export before it is real."""
    dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=convert)
    for name, facts in {
        "torch_tensorrt": {"__version__": "2.13.0", "dynamo": dynamo},
        "tensorrt": {"__version__": "11.0.0"},
    }.items():
        module = SimpleNamespace(**facts, __spec__=ModuleSpec(name, None))  # torch asks for it when it first exports
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.setattr(torch_tensorrt_build, "_convert_to_bytes", lambda: None)


def test_the_child(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    releases(monkeypatch, release_2_13)
    pipe = Pipe()
    construct(pipe, order)  # type: ignore[arg-type]
    assert pipe.said == ["loading Torch-TensorRT", "torch.export", "TensorRT"]
    assert order.engine.read_bytes() == b"engine"
    facts = json.loads(order.facts.read_text())
    assert (facts["runtime_version"], facts["tensorrt_version"]) == ("2.13.0", "11.0.0")
    assert facts["settings"]["attn_bias_is_causal"] is False


def test_what_the_child_says_against_a_program(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(exported: Any, **settings: Any) -> bytes:
        try:
            raise RuntimeError("there is no converter for aten.frobnicate\nand a graph of a thousand lines")
        except RuntimeError as error:
            raise RuntimeError("Conversion of module\nnot supported") from error

    releases(monkeypatch, refuse)
    pipe = Pipe()
    construct(pipe, order)  # type: ignore[arg-type]
    assert pipe.said[-1] == ["there is no converter for aten.frobnicate", "Conversion of module"]
    construct(pipe, replace(order, program=replace(order.program, mask_stride=4)))  # type: ignore[arg-type]
    assert "not the program it is said to be" in pipe.said[-1][0]
    order.program.onnx_path.write_bytes(b"")
    construct(pipe, order)  # type: ignore[arg-type]
    assert isinstance(pipe.said[-1], list)
    assert not order.engine.exists()
