"""Deep-learning accelerators: where there are any, what a builder is told, what a user is told, and how an
engine is opened.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import machines
from edgeseg.devices.jetson import Jetson
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines.tensorrt import builder, dla
from edgeseg.engines.tensorrt.builder import Note, Order, construct
from edgeseg.errors import Unsupported
from fake_builder import FLOAT, FakeTrt, Layer
from qdq_graphs import QdqGraph
from tiny import tiny_program


def module(part: str, soc: str = "tegra234") -> Machine:
    return Machine(
        "aarch64",
        "Linux",
        "",
        "",
        (),
        (),
        None,
        None,
        Jetson("", soc, ("p3737-0000", part), False, "36.4.3"),
        {},
    )


NX_8GB, NX_16GB, DEVKIT = (module(part) for part in ("p3767-0001", "p3767-0000", "p3701-0000"))


@pytest.mark.parametrize(
    ("machine", "core", "said"),
    [
        (module("p3767-0005"), 0, "Jetson Orin Nano 8GB has no DLA"),
        (module("p3834-0008", "tegra264"), 0, "Jetson AGX Thor, T5000 has no DLA"),
        (NX_8GB, 1, "Jetson Orin NX 8GB has no DLA core 1: only core 0"),
        (NX_16GB, 2, "Jetson Orin NX 16GB has no DLA core 2: cores 0 to 1"),
        (
            replace(NX_8GB, jetson=None, gpus=(Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),)),
            0,
            "NVIDIA GeForce RTX 4090 has no DLA",
        ),
    ],
)
def test_cores_that_are_not_there(machine: Machine, core: int, said: str) -> None:
    with pytest.raises(Unsupported, match=said) as refused:
        dla.check_core(core, machine, "10.3.0")
    assert "leave" in refused.value.hint


@pytest.mark.parametrize("machine", [NX_8GB, NX_16GB, DEVKIT, module("p9999-0000")])
def test_cores_that_are_there_or_that_only_the_builder_can_tell(machine: Machine) -> None:
    dla.check_core(0, machine, "10.3.0")


@pytest.mark.parametrize(
    ("version", "has", "typed"),
    [
        *(
            ("10.0.1", True, False),
            ("10.3.0", True, False),
            ("10.7.0.23", True, False),
            ("10.8.0", False, False),
        ),
        *(("10.16.2.10", False, False), ("11.0.0", False, True), ("11.4.0.106", False, True)),
        *(("11.4.1", True, True), ("11.5.0", True, True), ("12.0.0", True, True)),
    ],
)
def test_releases_of_tensorrt(version: str, has: bool, typed: bool) -> None:
    assert dla.strongly_typed(version) == typed
    if has:
        dla.check_core(0, NX_8GB, version)
    else:
        with pytest.raises(Unsupported, match=rf"TensorRT {version} does not build for DLA"):
            dla.check_core(0, NX_8GB, version)


def test_a_recorded_jetson(tmp_path: Path) -> None:
    nano = detect(machines.write_tree(tmp_path / "nano", machines.ORIN_NANO_JETPACK_62), "aarch64")
    with pytest.raises(Unsupported, match="Jetson Orin Nano 8GB has no DLA"):
        dla.check_core(0, nano, "10.3.0")
    nx = detect(machines.write_tree(tmp_path / "nx", machines.ORIN_NX_JETPACK_72), "aarch64")
    dla.check_core(0, nx, "10.3.0")
    with pytest.raises(Unsupported, match=r"10\.16\.2 does not build for DLA") as refused:
        dla.check_core(0, nx, "10.16.2")
    assert "JetPack 6.2" in refused.value.hint


# What the builder is told

ON_DLA = [Layer("CONVOLUTION", on_dla=True), Layer("CONSTANT"), Layer("ACTIVATION", on_dla=True)]
MIXED = [
    *ON_DLA,
    Layer("NORMALIZATION", FLOAT),
    Layer("CAST", FLOAT),
    Layer("SOFTMAX"),
    *ON_DLA,
    Layer("SOFTMAX"),
]


class Pipe:
    """What a builder's process says."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, what: Any) -> None:
        self.said.append(what)


def built(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    version: str,
    layers: Sequence[Layer],
    settings: dict[str, Any],
    int8: onnx.ModelProto | None = None,
) -> tuple[FakeTrt, list[Any], Order]:
    program = replace(tiny_program(folder / "p.onnx"), precision="fp16" if int8 is None else "int8")
    if int8 is not None:
        onnx.save(int8, program.onnx_path)
    trt = FakeTrt(version, layers, (program.image.input_shape, (1, *program.mask_shape)))
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    monkeypatch.setattr(builder, "misfit", lambda *ports: None)
    order, pipe = Order("tensorrt", program, folder / "engine.trt", folder / "engine.json", settings), Pipe()
    construct(pipe, order)  # type: ignore[arg-type]
    return trt, pipe.said, order


def test_tensorrt_10_is_told_by_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers = [replace(layer) for layer in MIXED]
    trt, said, order = built(monkeypatch, tmp_path, "10.3.0", layers, {"dla_core": 1})
    assert trt.told["flags"] == {"GPU_FALLBACK", "FP16", "PREFER_PRECISION_CONSTRAINTS"}
    assert (trt.told["strongly_typed"], trt.told["default_device_type"], trt.told["DLA_core"]) == (
        False,
        "DLA",
        1,
    )
    assert [layer.kind for layer in layers if layer.precision] == ["NORMALIZATION"], (
        "what is float in the program stays float"
    )
    assert trt.told["parser_flags"] == []
    line = "DLA core 1 takes 4 of 8 layers, in 2 pieces; the GPU computes 2 SOFTMAX, 1 NORMALIZATION, 1 CAST"
    assert said == [Note(line)]
    facts = json.loads(order.facts.read_text())
    assert facts["dla"] == {
        "core": 1,
        "layers": 8,
        "on_dla": 4,
        "pieces": 2,
        "on_gpu": {"SOFTMAX": 2, "NORMALIZATION": 1, "CAST": 1},
    }
    assert facts["strongly_typed"] is False
    assert dla.hint(order.facts) == f"{line}; each hand-over costs time"


def test_tensorrt_11_is_told_by_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers = [replace(layer) for layer in ON_DLA]
    trt, said, order = built(monkeypatch, tmp_path, "11.4.1", layers, {"dla_core": 0})
    assert (trt.told["flags"], trt.told["strongly_typed"], trt.told["parser_flags"]) == (
        {"GPU_FALLBACK"},
        True,
        [4],
    )
    assert not [layer for layer in layers if layer.precision]
    assert said == [Note("DLA core 0 takes 2 of 2 layers, in 1 pieces")]
    assert dla.hint(order.facts) == "", "nothing fell back"


def quantized() -> tuple[onnx.ModelProto, list[Layer]]:
    """Two convolutions in INT8, and the layers that TensorRT finds once their quantizers are gone."""
    made = QdqGraph(x=(1, 8, 6, 6))
    between = made.add("Relu", made.conv("x", 8, 12, kernel=3))
    model = made.model(made.conv(between, 12, 12))
    names = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Relu")]
    kinds = ("CONVOLUTION", "ACTIVATION", "CONVOLUTION")
    return model, [Layer(kind, on_dla=True, writes=name) for kind, name in zip(kinds, names, strict=True)]


def test_int8_goes_to_tensorrt_10_by_ranges_and_to_11_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, layers = quantized()
    layers = [Layer("CONSTANT"), Layer("CAST", writes="x"), *layers]
    trt, said, order = built(monkeypatch, tmp_path, "10.3.0", layers, {"dla_core": 0}, model)
    assert trt.told["flags"] == {"GPU_FALLBACK", "FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"}
    operators = {node.op_type for node in onnx.ModelProto.FromString(trt.told["graph"]).graph.node}
    assert operators == {"Conv", "Relu", "Identity"}
    ranges = {layer.kind: layer.output.dynamic_range for layer in layers}
    most = 127 / 32
    assert ranges == {
        "CONSTANT": None,
        "CAST": (-most, most),
        "CONVOLUTION": None,
        "ACTIVATION": (-most, most),
    }
    assert order.engine.exists() and isinstance(said[0], Note)

    trt, _, order = built(monkeypatch, tmp_path, "11.4.1", quantized()[1], {"dla_core": 0}, model)
    assert (trt.told["flags"], trt.told["graph"]) == ({"GPU_FALLBACK"}, order.program.onnx_path.read_bytes())
    trt, _, order = built(monkeypatch, tmp_path, "10.3.0", quantized()[1], {}, model)
    assert "flags" not in trt.told and trt.told["graph"] == order.program.onnx_path.read_bytes(), (
        "the GPU takes Q/DQ"
    )


def test_int8_layers_with_float32_between_them_are_not_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a program that was not laid out for a GPU."""
    model, (first, relu, second) = quantized()
    image = Layer("CAST", FLOAT, writes="x")
    layers = [
        image,
        replace(first, dtype=FLOAT, reads="x"),
        replace(relu, dtype=FLOAT, reads=first.writes),
        replace(second, dtype=FLOAT, reads=relu.writes),
        Layer("NORMALIZATION", FLOAT, reads=relu.writes),
        Layer("CONVOLUTION", FLOAT, reads="what nobody quantized"),
    ]
    built(monkeypatch, tmp_path, "10.3.0", layers, {"dla_core": 0}, model)
    assert [layer.precision for layer in layers] == [None, None, FLOAT, None, FLOAT, FLOAT]


def test_ranges_of_tensors_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, layers = quantized()
    _, said, order = built(monkeypatch, tmp_path, "10.3.0", layers, {"dla_core": 0}, model)
    assert said == [["its network has no tensor x, whose range the program gives"]]
    assert not order.engine.exists()


def test_a_network_in_too_many_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers = [Layer("CONVOLUTION", on_dla=True) for _ in range(100)]
    for place in range(5, 100, 6):
        layers[place] = Layer("SOFTMAX")
    _, _, order = built(monkeypatch, tmp_path, "11.4.1", layers, {"dla_core": 0})
    assert "in 17 pieces; the GPU computes 16 SOFTMAX; a core holds 16 pieces at most" in dla.hint(
        order.facts
    )


@pytest.mark.parametrize("version", ["10.3.0", "11.4.1"])
def test_without_a_core_the_gpu_is_told_as_ever(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trt, said, order = built(
        monkeypatch, tmp_path, version, MIXED, {"optimization_level": 5, "workspace_bytes": 1 << 30}
    )
    assert trt.told["strongly_typed"] and "flags" not in trt.told and "default_device_type" not in trt.told
    assert (trt.told["builder_optimization_level"], trt.told["WORKSPACE"], said) == (5, 1 << 30, [])
    assert "dla" not in json.loads(order.facts.read_text())
    assert dla.hint(order.facts) == ""


def test_what_the_builder_itself_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It logs an error, and goes on without the setting; we do not."""
    _, said, order = built(monkeypatch, tmp_path, "10.3.0", MIXED, {"workspace_bytes": 1 << 40})
    assert said == [
        [
            f"it does not take these settings: workspace_bytes {1 << 40}",
            f"the workspace of {1 << 40} bytes is more than the device has",
        ]
    ]
    assert not order.engine.exists()
    _, said, order = built(monkeypatch, tmp_path, "10.3.0", MIXED, {"dla_core": 2})
    assert said == [["this device has 2 DLA cores; dla_core 2 is none of them"]]
