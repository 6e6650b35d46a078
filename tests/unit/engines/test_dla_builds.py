"""The TensorRT row with a deep-learning accelerator: what it tries, how it opens an engine, and a build that
measures both.
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
from edgeseg.bundle import open_bundle
from edgeseg.bundle.manifest import kind
from edgeseg.cli.main import run
from edgeseg.contracts import EngineBackend, NoProgress, Progress
from edgeseg.devices.jetson import Jetson
from edgeseg.devices.machine import Machine
from edgeseg.engines import table
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt import builder, dla, python
from edgeseg.engines.tensorrt.builder import Order
from edgeseg.engines.tensorrt.python import TensorRt
from edgeseg.errors import BuildError, Unsupported
from edgeseg.registry import ENGINES_GROUP, Table
from edgeseg.specs import canonical_form
from edgeseg.testing.fakes import FakeBackend
from fake_cuda import FakeLibrary, fake_trt
from processor import be
from tiny import tiny_bundle, tiny_image, tiny_mask, tiny_precisions, tiny_program


def module(part: str) -> Machine:
    return Machine(
        "aarch64",
        "Linux",
        "",
        "a CPU",
        (),
        (),
        None,
        None,
        Jetson("", "tegra234", (part,), False, "36.4.3"),
        {},
    )


NX_8GB, NX_16GB = module("p3767-0001"), module("p3767-0000")


def row(machine: Machine = NX_16GB, progress: Progress | None = None) -> TensorRt:
    return TensorRt(progress=progress, machine=machine, cuda=Cuda(FakeLibrary()))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A TensorRT whose engines answer rightly, and whose builder writes at once, half of the layers on DLA
    where it is asked.
    """
    program = tiny_program(tmp_path / "shape.onnx")
    library = FakeLibrary()

    def answer(image: Any) -> Any:
        return tiny_mask(image[0])[None]

    trt = fake_trt(library, program.image.input_shape, (1, *program.mask_shape), answer)
    opened: list[Any] = []
    plain = trt.Runtime

    class Runtime(plain):  # type: ignore[misc, valid-type]
        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            self.DLA_core = None
            opened.append(self)

    trt.Runtime = Runtime  # its version is 10.3.0
    monkeypatch.setitem(sys.modules, "tensorrt", trt)

    def build(order: Order, progress: Progress) -> None:
        order.engine.write_bytes(json.dumps(dict(order.settings)).encode())
        core = order.settings.get("dla_core")
        report = {"core": core, "layers": 8, "on_dla": 4, "pieces": 2, "on_gpu": {"SOFTMAX": 4}}
        order.facts.write_text(json.dumps({} if core is None else {"dla": report}))

    monkeypatch.setattr(python, "build", build)
    return SimpleNamespace(library=library, opened=opened)


@pytest.mark.usefixtures("installed")
def test_a_core_is_tried_beside_the_gpu() -> None:
    wanted = {"dla_core": 1, "cuda_graph": False, "optimization_level": 4}
    assert row().variants(wanted) == [
        {"cuda_graph": False, "optimization_level": 4},
        {"dla_core": 1, "optimization_level": 4},
    ]
    assert row().variants() == [{}]
    with pytest.raises(Unsupported, match="Orin NX 8GB has no DLA core 1"):
        row(NX_8GB).variants(wanted)
    assert row(replace(NX_8GB, jetson=None)).variants(wanted) == []


@pytest.mark.usefixtures("installed")
def test_a_float_program_is_refused_before_any_work(tmp_path: Path) -> None:
    assert [precision for precision in ("float", "fp16", "int8") if dla.refusal(precision)] == ["float"]  # type: ignore[arg-type]
    program = tiny_program(tmp_path / "p.onnx")
    with pytest.raises(BuildError, match="FP16 and INT8 only, and this program is in float32"):
        row().compile(program, tmp_path, {"dla_core": 0})
    assert not (tmp_path / "engine.trt").exists()
    assert len(row().compile(program, tmp_path, {})) == 2


def test_it_is_opened_on_its_core_and_not_recorded(installed: Any, tmp_path: Path) -> None:
    program = replace(tiny_program(tmp_path / "p.onnx"), precision="fp16")
    backend = TensorRt(machine=NX_16GB, cuda=Cuda(installed.library))
    for options, core, launches in (({}, None, 1), ({"dla_core": 1, "cuda_graph": True}, 1, 1)):
        files = backend.compile(program, tmp_path, options)
        with backend.load(program, files, options) as session:
            for _ in range(2):
                session.infer(tiny_image())
        assert (installed.opened[-1].DLA_core, installed.library.launches) == (core, launches)


def test_measured_against_the_gpu_and_kept_beside_it(
    installed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = replace(tiny_program(tmp_path / "half.onnx"), precision="fp16", form=canonical_form("fp16"))
    parts = tiny_precisions(tmp_path / "parts")
    golden = [*parts["golden"], parts["golden"][0]._replace(precision="fp16")]
    both = [frame for frame in golden if frame.precision != "int8"]
    bundle = tiny_bundle(tmp_path / "b.edgeseg", programs=[parts["programs"][0], half], golden=both)
    backends = {"onnxruntime": FakeBackend("onnxruntime", tiny_mask)}
    rows = dict.fromkeys(("onnxruntime", "tensorrt"), "")
    monkeypatch.setattr(table, "ENGINES", Table(ENGINES_GROUP, "runtime", rows))

    def backend(name: str, machine: Machine | None = None, progress: Progress | None = None) -> EngineBackend:
        cuda = Cuda(installed.library)
        return TensorRt(machine=machine, cuda=cuda) if name == "tensorrt" else backends[name]

    monkeypatch.setattr(table, "backend", backend)
    build_level(bundle, threads=1, machine=NX_16GB)
    made = build_level(
        open_bundle(bundle.path), threads=1, options={"tensorrt": {"dla_core": 0}}, machine=NX_16GB
    )
    rows = {f"{one.runtime} {one.kind}": one for one in made.choice.candidates}
    assert list(rows) == [
        "onnxruntime float",
        "tensorrt float",
        "tensorrt float dla0",
        "tensorrt fp16",
        "tensorrt fp16 dla0",
    ]
    assert made.reason.endswith("dla0: none was built yet")
    assert (rows["tensorrt float dla0"].verdict, "in float32" in rows["tensorrt float dla0"].reason) == (
        "not built",
        True,
    )
    assert (
        "median_ms" in rows["tensorrt fp16 dla0"].measurements
        and "median_ms" in rows["tensorrt fp16"].measurements
    )
    assert "tensorrt fp16 dla0: DLA core 0 takes 4 of 8 layers" in rows["tensorrt fp16 dla0"].hint
    kinds = [f"{engine.runtime} {engine.kind}" for engine in open_bundle(bundle.path).manifest.engines]
    assert sorted(kinds) == ["onnxruntime float", "tensorrt float", "tensorrt fp16", "tensorrt fp16 dla0"]
    again = build_level(
        open_bundle(bundle.path), threads=1, options={"tensorrt": {"dla_core": 0}}, machine=NX_16GB
    )
    assert (again.built, again.reason) == (False, "same program, runtimes, device and options")

    before = (bundle.path / "manifest.json").read_bytes()
    be(monkeypatch, NX_8GB)
    assert run(["build", str(bundle.path), "--dla-core", "1"]) == 4
    assert "Jetson Orin NX 8GB has no DLA core 1" in capsys.readouterr().err
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_engines_on_an_accelerator_stand_beside_those_on_the_gpu() -> None:
    assert [kind("int8", options) for options in ({}, {"dla_core": 0}, {"dla_core": 1})] == [
        "int8",
        "int8 dla0",
        "int8 dla1",
    ]


def test_notes_of_the_builder_s_process_are_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[str] = []

    class Ears(NoProgress):
        def message(self, text: str) -> None:
            heard.append(text)

    monkeypatch.setattr(builder, "construct", builders.note)
    program = tiny_program(tmp_path / "p.onnx")
    builder.build(Order("tensorrt", program, tmp_path / "e", tmp_path / "f", {}), Ears())
    assert heard == ["DLA takes half of it"]
