"""Torch-TensorRT on a machine without a GPU: what bundles hold becomes one TensorRT network, and TensorRT-RTX
builds it for SM89.

Nothing is run: that needs the card. Queries of the device are answered by a double, everything else is real:
every converter, the types of the network, its quantizers, and the builder.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import torch_trt_double
from edgeseg.contracts import NoProgress
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt.from_torch import TorchTensorRt
from edgeseg.errors import BuildError
from edgeseg.specs import (
    Form,
    ImageSpec,
    LabelSpace,
    Program,
)
from edgeseg.torch_trt import compiler
from fake_cuda import FakeLibrary
from tiny import tiny_program
from torch_trt_releases import RELEASES

pytestmark = pytest.mark.torch_trt

CARD = Machine(
    "x86_64", "Linux", "", "a CPU", (), (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), None, None, None, {}
)
LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))
SIZE_HW = (128, 256)
"""Of every program. More pixels make the same layers, and take longer."""
TYPES = {"float": "FLOAT", "fp16": "HALF", "int8": "FLOAT", "int8 half": "HALF"}
"""Kind of a program -> what its products are computed in, where they are not quantized."""


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = torch_trt_double.release()
    if not installed:
        pytest.skip("Torch-TensorRT is not here: make test-torch-trt")
    monkeypatch.setattr(compiler, "construct", torch_trt_double.construct)
    monkeypatch.setattr(TorchTensorRt, "version", lambda self: f"{installed} on TensorRT-RTX")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@cache
def exported(name: str, kind: str, folder: Path, mask_stride: int, **options: str) -> Program:
    """A model with parameters that are all different from zero, as `edgeseg export` writes it; INT8
    calibrated on noise.
    """
    from edgeseg.export.graph.half import write_half
    from edgeseg.export.onnx_qdq import export_qdq
    from edgeseg.export.program import export_program
    from edgeseg.models.catalog import build_model
    from golden_rule import fill
    from quantized import quantized_model

    out = folder / f"{name} {kind}.onnx"
    if kind in ("fp16", "int8 half"):
        return write_half(exported(name, "float" if kind == "fp16" else "int8", folder, mask_stride), out)
    if kind == "int8":
        return export_qdq(quantized_model(name, SIZE_HW), mask_stride=mask_stride, out=out)
    model, image = fill(build_model(name, LABELS.num_classes, **options)).eval(), ImageSpec(SIZE_HW)
    return export_program(
        model, image=image, mask_stride=mask_stride, labels=LABELS, arch=name, out=out, form=Form.GPU
    )


class Phases(NoProgress):
    """Keeps what a build shows."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self.seen.append(str(figures["phase"]))


def compiled(program: Program, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one network that was made of a program, and the facts beside its engine."""
    phases = Phases()
    files = TorchTensorRt(phases, machine=CARD, cuda=Cuda(FakeLibrary())).compile(
        program, out, {"threads": 2}
    )
    facts, record = json.loads(files[1].read_text()), json.loads((out / torch_trt_double.RECORD).read_text())
    (network,) = record["networks"]  # the program did not break into several
    size = files[0].stat().st_size
    assert size == network.get("bytes", size)
    assert set(record["takes"]) == RELEASES[torch_trt_double.release()]
    assert phases.seen[:3] == ["loading Torch-TensorRT", "torch.export", "TensorRT"]
    assert len(phases.seen) > 5  # the builder's own
    layers = Counter(network["layers"]).total()
    print(
        f"\n{program.arch} {program.precision} {program.form}: {layers} layers, {size / 1e6:.1f} MB,"
        f" {facts['build_s']} s"
    )
    return network, facts


def check(program: Program, out: Path, products: str) -> Counter[str]:
    """What every network must be; its layers by type."""
    import onnx

    from edgeseg.export.graph.editor import count_ops

    network, facts = compiled(program, out)
    layers = Counter(network["layers"])
    assert network["inputs"] == [["UINT8", list(program.image.input_shape)]]
    ((kind, shape),) = network["outputs"]
    assert (kind, [side for side in shape if side != 1]) == ("UINT8", list(program.mask_shape))
    counts = count_ops(onnx.load(program.onnx_path))
    assert layers["CONVOLUTION"] == counts["Conv"]
    assert layers["MATRIX_MULTIPLY"] == counts["MatMul"]
    assert layers["NORMALIZATION"] == counts["LayerNormalization"]
    assert layers["GRID_SAMPLE"] == counts["GridSample"]
    assert layers["QUANTIZE"] == layers["DEQUANTIZE"] == counts["DequantizeLinear"]
    assert network["products"] == {products: counts["Conv"] + counts["MatMul"]}
    assert facts["runtime_version"].startswith(torch_trt_double.release())
    return layers


@pytest.mark.parametrize("name", ["segformer_nano", "vwformer_nano", "repsep_nano"])
def test_every_family(name: str, folder: Path, tmp_path: Path) -> None:
    check(exported(name, "float", folder, 4), tmp_path, "FLOAT")


def test_reads_at_computed_positions(folder: Path, tmp_path: Path) -> None:
    program = exported("segformer_mobile_nano", "float", folder, 4, upsample="lda_aqu")
    assert check(program, tmp_path, "FLOAT")["GRID_SAMPLE"]


@pytest.mark.parametrize("kind", TYPES)
def test_edaformer_t_in_every_precision(kind: str, folder: Path, tmp_path: Path) -> None:
    layers = check(exported("edaformer_t", kind, folder, 1), tmp_path, TYPES[kind])
    assert bool(layers["QUANTIZE"]) == kind.startswith("int8")


def test_a_converter_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said by name in every release, whether it is raised or only logged."""
    monkeypatch.setattr(compiler, "construct", torch_trt_double.construct_without_argmax)
    row = TorchTensorRt(machine=CARD, cuda=Cuda(FakeLibrary()))
    with pytest.raises(BuildError, match=r"refuses .*argmax"):
        row.compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, {"threads": 2})
