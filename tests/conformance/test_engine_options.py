"""Every row of the engine table declares each option that it reads, reads each that it declares, and says
what it means.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseg.contracts import EngineBackend, Option
from edgeseg.devices.jetson import Jetson
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.onnxruntime.backend import OnnxRuntime
from edgeseg.engines.onnxruntime.providers import PROVIDERS
from edgeseg.engines.openvino import OpenVino
from edgeseg.engines.table import ENGINES, backend
from edgeseg.engines.tensorrt import from_torch, python, rtx
from edgeseg.specs import Precision, Program
from fake_cuda import FakeLibrary
from gpu_ort import PLUGIN, RTX, GpuOrt
from tiny import tiny_program

CARD = Machine(
    "x86_64", "Linux", "", "a CPU", (), (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), None, None, None, {}
)
NX = replace(CARD, gpus=(), jetson=Jetson("", "tegra234", ("p3767-0000",), False, "36.4.3"))


class Asked(Mapping[str, Any]):
    """Options that remember which of them was asked for. To go through all of them is to ask for none."""

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        self._values, self.names = dict(values), names

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


Use = Callable[[Mapping[str, Any], Precision], None]
"""Compiles and opens with these options, a program of this precision."""


def program(folder: Path, precision: Precision) -> Program:
    return replace(tiny_program(folder / "p.onnx"), precision=precision)


@pytest.fixture
def row_at_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Use]:
    """For a runtime: its row at work, with doubles for what is not here."""
    (tmp_path / "engine").mkdir()
    version = {"__version__": "11.4.1"}
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**version))  # type: ignore[arg-type]
    monkeypatch.setattr(from_torch, "version", lambda name: "2.13.0")
    for module in (python, rtx, from_torch):
        monkeypatch.setattr(module, "build", lambda order, *rest: None)
    for module in (python, rtx):
        monkeypatch.setattr(module, "TensorRtSession", lambda *arguments, **named: None)

    def using(row: EngineBackend) -> Use:
        def use(options: Mapping[str, Any], precision: Precision) -> None:
            made = program(tmp_path, precision)
            session = row.load(made, row.compile(made, tmp_path / "engine", options), options)
            if session is not None:
                session.close()

        return use

    def of(runtime: str) -> Use:
        cuda = Cuda(FakeLibrary())
        if runtime == "openvino":
            pytest.importorskip("openvino")
            return using(OpenVino())
        if runtime == "onnxruntime":
            monkeypatch.setitem(
                sys.modules, "onnxruntime", GpuOrt(*(one.title for one in PROVIDERS.values()))
            )  # type: ignore[arg-type]
            plugin = SimpleNamespace(
                get_ep_name=lambda: RTX, get_library_path=lambda: "librtx.so", __spec__=object()
            )
            monkeypatch.setitem(sys.modules, PLUGIN, plugin)  # type: ignore[arg-type]
            return using(OnnxRuntime(CARD))
        rows: dict[str, EngineBackend] = {
            "tensorrt": python.TensorRt(machine=NX, cuda=cuda),
            "torch_tensorrt": from_torch.TorchTensorRt(machine=CARD, cuda=cuda),
            "tensorrt_rtx": rtx.TensorRtRtx(machine=CARD, cuda=cuda),
        }
        return using(rows[runtime])

    return of


VALUES: dict[str, dict[str, list[Any]]] = {
    "onnxruntime": {"provider": ["cpu", *PROVIDERS]},
    "tensorrt_rtx": {"compute_capability": ["8.9"]},
}
"""Runtime -> option -> values to go through, where one is not enough."""


def any_value(option: Option) -> Any:
    return {bool: True, int: option.least, str: next(iter(option.choices), "")}[option.kind]


@pytest.mark.parametrize("runtime", sorted(ENGINES.rows))
def test_what_is_read_is_declared_and_what_is_declared_is_read(
    runtime: str, row_at_work: Callable[[str], Use]
) -> None:
    declared, names = backend(runtime).options, set[str]()
    plain = {name: any_value(option) for name, option in declared.items()}
    changed = [{name: value} for name, values in VALUES.get(runtime, {}).items() for value in values] or [{}]
    use = row_at_work(runtime)
    for change in changed:
        use(Asked({**plain, **change}, names), "fp16" if runtime != "onnxruntime" else "float")
    assert names == set(declared)


@pytest.mark.parametrize("runtime", sorted(ENGINES.rows))
def test_each_is_declared_so_that_people_understand_it(runtime: str) -> None:
    for name, option in backend(runtime).options.items():
        assert name.isidentifier() and name == name.lower()
        assert option.text == option.text.strip() and "\n" not in option.text and 10 < len(option.text) <= 100
        assert option.values and option.allows(any_value(option))
        assert (option.kind is str) == bool(option.choices), "a text is one of several"
        assert not option.allows(None) and not option.allows(object())
        if option.kind is int:
            assert not option.allows(option.least - 1) and not option.allows(True)
            assert option.most is None or not option.allows(option.most + 1)
