"""What the process that compiles with Torch-TensorRT says and writes, without Torch-TensorRT: torch and
torch.export are real.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeseg.engines.tensorrt.builder import Order
from edgeseg.errors import MissingDependency, OutOfRoom, Unsupported
from edgeseg.torch_trt import compiler
from edgeseg.torch_trt.compiler import construct, settings
from tiny import tiny_program
from torch_trt_releases import RELEASES, WEAK_BY_CHOICE

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
Convert = Callable[..., bytes]


class Pipe:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, what: Any) -> None:
        self.said.append(what)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    return Order("torch_tensorrt", tiny_program(tmp_path / "p.onnx"), tmp_path / "e", tmp_path / "f")


def last_said(order: Order) -> Any:
    construct(pipe := Pipe(), order)  # type: ignore[arg-type]
    return pipe.said[-1]


def release(version: str, convert: Convert = lambda exported, **settings: b"engine") -> Convert:
    """`convert` with the parameters of a release."""
    kinds = inspect.Parameter

    def takes(exported: Any, **settings: Any) -> bytes:
        return convert(exported, **settings)

    named = [kinds(name, kinds.KEYWORD_ONLY, default=None) for name in sorted(RELEASES[version])]
    first, rest = kinds("exported_program", kinds.POSITIONAL_OR_KEYWORD), kinds("kwargs", kinds.VAR_KEYWORD)
    takes.__signature__ = inspect.Signature([first, *named, rest])  # type: ignore[attr-defined]
    return takes


def provide(monkeypatch: pytest.MonkeyPatch, convert: Convert) -> None:
    """A Torch-TensorRT that calls `convert`, on a machine whose torch computes on the CPU."""
    dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=convert)
    for name, facts in {
        "torch_tensorrt": {"__version__": "2.13.0", "dynamo": dynamo},
        "tensorrt": {"__version__": "11.0.0"},
    }.items():
        module = SimpleNamespace(
            **facts, __spec__=ModuleSpec(name, None)
        )  # torch asks for it when it first exports
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    for name in ("_convert_to_bytes", "_show_phases"):
        monkeypatch.setattr(compiler, name, lambda *given: None)
    monkeypatch.setattr(compiler, "device", lambda: "cpu")


@pytest.mark.parametrize("version", RELEASES)
def test_each_release_is_told_what_it_knows(version: str, order: Order, tmp_path: Path) -> None:
    asked = {"workspace_bytes": 1 << 20, "optimization_level": 5}
    told = settings(release(version), replace(order, settings=asked, timing_cache=tmp_path / "t"))
    wanted = {"workspace_size": 1 << 20, "optimization_level": 5, "timing_cache_path": str(tmp_path / "t")}
    if version in WEAK_BY_CHOICE:
        wanted["use_explicit_typing"] = True
    if "attn_bias_is_causal" in RELEASES[version]:
        wanted["attn_bias_is_causal"] = False
    if "output_binding_names" in RELEASES[version]:
        wanted |= {"arg_input_binding_names": ("image",), "output_binding_names": "mask"}
    assert told == wanted
    assert set(told) == RELEASES[version] - {"arg_inputs"}
    assert not {"workspace_size", "optimization_level", "timing_cache_path"} & set(
        settings(release(version), order)
    )


def test_a_cache_folder_that_cannot_be_written_costs_no_engine(order: Order, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    told = settings(release("2.13"), replace(order, timing_cache=tmp_path / "cache" / "device.timing"))
    assert told["timing_cache_path"] == str(order.engine.with_suffix(".timing"))


def test_the_child(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, release("2.13"))
    construct(pipe := Pipe(), order)  # type: ignore[arg-type]
    assert pipe.said == ["loading Torch-TensorRT", "torch.export", "TensorRT"]
    assert order.engine.read_bytes() == b"engine"
    facts = json.loads(order.facts.read_text())
    assert (facts["runtime_version"], facts["tensorrt_version"]) == ("2.13.0", "11.0.0")
    assert facts["settings"] == {"attn_bias_is_causal": False}


def test_the_phases_of_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interpreter:
        def _populate_trt_builder_config(self, *given: Any) -> SimpleNamespace:
            return SimpleNamespace(given=given)

    class Monitor:
        def __init__(self) -> None: ...

    name = "torch_tensorrt.dynamo.conversion"
    modules = {"torch_tensorrt": SimpleNamespace(), "torch_tensorrt.dynamo": SimpleNamespace()}
    modules[name] = SimpleNamespace(_TRTInterpreter=SimpleNamespace(TRTInterpreter=Interpreter))
    for module, content in modules.items():
        monkeypatch.setitem(sys.modules, module, content)  # type: ignore[arg-type]
    compiler._show_phases(pipe := Pipe(), SimpleNamespace(IProgressMonitor=Monitor))  # type: ignore[arg-type]
    config = Interpreter()._populate_trt_builder_config(False)
    assert config.given == (False,)
    config.progress_monitor.phase_start("Timing tactics", None, 3)
    assert pipe.said == ["Timing tactics"]
    del Interpreter._populate_trt_builder_config
    compiler._show_phases(pipe, SimpleNamespace())  # type: ignore[arg-type]  # a release without it builds all the same


def no_converter() -> bytes:
    try:
        raise RuntimeError("there is no converter for aten.frobnicate\nand a graph of a thousand lines")
    except RuntimeError as error:
        raise ValueError("Conversion of module\nnot supported") from error


def raises(exported: Any, **settings: Any) -> bytes:
    return no_converter()


def logs(exported: Any, **settings: Any) -> bytes:
    """As releases up to 2.11 do it."""
    try:
        engine = no_converter()
    except ValueError:
        logging.getLogger("torch_tensorrt.dynamo._compiler").error(
            "While interpreting the module got an error", exc_info=True
        )
    return engine


@pytest.mark.parametrize("convert", [raises, logs])
def test_why_a_program_is_not_converted(
    convert: Convert, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    provide(monkeypatch, release("2.8", convert))
    reasons = last_said(order)
    assert reasons[:2] == ["there is no converter for aten.frobnicate", "Conversion of module"]
    assert "engine" not in " ".join(reasons[2:]).replace("Torch-TensorRT makes no engine of it", "")
    assert not order.engine.exists()


def test_what_speaks_against_a_program(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, release("2.13"))
    other = replace(order, program=replace(order.program, mask_stride=4))
    assert "not the program it is said to be" in last_said(other)[0]
    whole = order.program.onnx_path.read_bytes()
    order.program.onnx_path.write_bytes(whole.replace(b"AveragePool", b"AverageFool"))
    assert last_said(order) == ["there is no torch form of AverageFool"]
    order.program.onnx_path.write_bytes(b"")
    assert isinstance(last_said(order), list)
    assert not order.engine.exists()


def cuda_memory(exported: Any, **settings: Any) -> bytes:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def host_memory(exported: Any, **settings: Any) -> bytes:
    raise MemoryError


def builder_memory(exported: Any, **settings: Any) -> bytes:
    said = (
        "[executionContext.cpp::ensureDynamicBuffers] Error Code 2: OutOfMemory (Requested size was"
        " 8589934592 bytes.)"
    )
    logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").error(said)
    raise AssertionError


@pytest.mark.parametrize("convert", [cuda_memory, host_memory, builder_memory])
def test_too_little_memory(convert: Convert, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, release("2.13", convert))
    error = last_said(order)
    assert isinstance(error, OutOfRoom)
    assert "too little memory" in str(error)
    assert "--option torch_tensorrt.workspace_bytes=" in error.hint


@pytest.mark.parametrize("missing", ["modelopt", "requests"])
def test_int8_without_modelopt(
    missing: str, order: Order, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It does not say all that it needs: then that is what is named."""
    provide(monkeypatch, release("2.13"))
    for name in [name for name in sys.modules if name.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    if missing == "modelopt":
        monkeypatch.setitem(sys.modules, "modelopt", None)  # type: ignore[arg-type]
    else:
        (tmp_path / "modelopt.py").write_text(
            "raise ModuleNotFoundError(\"No module named 'requests'\", name='requests')"
        )
        monkeypatch.syspath_prepend(tmp_path)
    error = last_said(replace(order, program=replace(order.program, precision="int8")))
    assert isinstance(error, MissingDependency)
    assert f"{missing!r} is needed to compile INT8 programs" in str(error)
    assert error.hint == "pip install 'edgeseg[tensorrt]'"


def test_int8_with_a_modelopt_that_fails(
    order: Order, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provide(monkeypatch, release("2.13"))
    for name in [name for name in sys.modules if name.split(".")[0] == "modelopt"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "modelopt.py").write_text("raise RuntimeError('torch 2.7 is too old')")
    monkeypatch.syspath_prepend(tmp_path)
    error = last_said(replace(order, program=replace(order.program, precision="int8")))
    assert isinstance(error, Unsupported)
    assert "modelopt cannot be loaded: torch 2.7 is too old" in str(error)


def test_without_a_driver(order: Order, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch_tensorrt.py").write_text(f"raise RuntimeError({NO_DRIVER!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    error = last_said(order)
    assert isinstance(error, Unsupported)
    assert NO_DRIVER in str(error)
    assert error.hint == "edgeseg doctor"


@pytest.mark.parametrize(("cuda", "built"), [(None, "built without CUDA"), ("13.0", "built for CUDA 13.0")])
def test_torch_without_a_gpu(
    cuda: str | None, built: str, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = compiler.device
    provide(monkeypatch, release("2.13"))
    monkeypatch.setattr(compiler, "device", see)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    error = last_said(order)
    assert isinstance(error, Unsupported)
    assert built in str(error)
