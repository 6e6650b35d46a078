"""The TensorRT row without TensorRT: what it asks of the machine, what it orders, what it says where
something is missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import builders
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines import table
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt import builder, python
from edgeseg.engines.tensorrt.python import TensorRt, cache_folder
from edgeseg.errors import Unsupported
from fake_cuda import FakeLibrary
from tiny import tiny_program


def machine(*gpus: Gpu) -> Machine:
    return Machine("x86_64", "Linux", "", "a processor", (), gpus, None, None, None, {})


CARD = machine(Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))  # type: ignore[arg-type]
    monkeypatch.setattr(python, "build", builders.at_once)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "ordered"),
    [
        ({"threads": 2}, {"workspace_bytes": 1 << 29}),
        ({"workspace_bytes": 1 << 20, "cuda_graph": False}, {"workspace_bytes": 1 << 20}),
        (
            {"dla_core": 0, "optimization_level": 5},
            {"dla_core": 0, "optimization_level": 5, "workspace_bytes": 1 << 29},
        ),
    ],
)
def test_what_is_ordered(options: dict[str, Any], ordered: dict[str, int], tmp_path: Path) -> None:
    program = replace(tiny_program(tmp_path / "tiny.onnx"), precision="fp16")
    engine, facts = TensorRt(machine=CARD, cuda=Cuda(FakeLibrary())).compile(program, tmp_path, options)
    assert engine.name == "engine.trt"
    assert json.loads(facts.read_text()) == ordered


@pytest.mark.usefixtures("installed")
def test_it_is_a_candidate_where_there_is_a_gpu(tmp_path: Path) -> None:
    assert TensorRt(machine=CARD).variants() == [{}]
    assert TensorRt(machine=CARD).variants({"optimization_level": 5}) == [{"optimization_level": 5}]
    assert TensorRt(machine=machine()).variants() == []
    with pytest.raises(Unsupported, match="here is none"):
        TensorRt(machine=machine(), cuda=Cuda(FakeLibrary())).compile(
            tiny_program(tmp_path / "tiny.onnx"), tmp_path, {}
        )


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(Unsupported, match="'tensorrt' is needed") as missing:
        TensorRt(machine=CARD).version()
    assert "edgeseg doctor" in missing.value.hint
    with pytest.raises(Unsupported, match="'tensorrt' is needed"):
        TensorRt(machine=CARD).variants()
    assert TensorRt(machine=machine()).variants() == [], "no GPU: no reason to install anything"


@pytest.mark.usefixtures("installed")
def test_its_engines_are_bound_to_the_gpu() -> None:
    assert table.fingerprint("tensorrt", CARD).accelerator == "NVIDIA GeForce RTX 4090 (8.9)"
    assert table.fingerprint("onnxruntime", CARD).accelerator == ""


def test_times_of_kernels_lie_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgeseg" / "tensorrt"


def test_the_facts_say_which_times_of_kernels_were_known(tmp_path: Path) -> None:
    """The cache is no part of an engine's key, because each build changes it; its hash, before and after, is
    on record.
    """
    path = tmp_path / "cache" / "device.timing"
    contents = iter([b"one kernel", b"two kernels"])
    config = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: next(contents)))
    first, second = (builder._keep_times(config, path) for _ in range(2))
    assert first and second
    assert (first["sha256_before"], second["sha256_before"]) == (None, first["sha256"])
    assert second["sha256"] != first["sha256"]
    assert (path.read_bytes(), second["bytes"]) == (b"two kernels", 11)
    assert builder._keep_times(config, None) is None


def test_a_cache_folder_that_cannot_be_written_costs_no_engine(tmp_path: Path) -> None:
    """As in a container whose root is read-only."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    config = SimpleNamespace(get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"kernels"))
    facts = builder._keep_times(config, tmp_path / "cache" / "device.timing")
    assert facts is not None and (facts["bytes"], facts["sha256_before"]) == (7, None)
