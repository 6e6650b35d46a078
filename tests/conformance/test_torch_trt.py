"""Torch-TensorRT on a machine without a GPU: what bundles hold becomes one TensorRT network, and TensorRT-RTX builds it for SM89.

Nothing is run: that needs the card. Three queries of the device are answered by a double, everything else is real: every
converter, the types of the network, its quantizers, and the builder.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import torch_trt_double
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines import torch_tensorrt_build
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.torch_tensorrt import TorchTensorRt
from edgeseg.errors import BuildError
from edgeseg.specs import ImageSpec, LabelSpace, Program
from fake_cuda import FakeLibrary
from tiny import tiny_program

pytestmark = pytest.mark.torch_trt

CARD = Machine("x86_64", "Linux", "", "", (), (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), None, None, None, {})
LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))
TYPES = {"float": "FLOAT", "fp16": "HALF", "int8": "FLOAT", "int8 half": "HALF"}


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch_tensorrt") is None:
        pytest.skip("Torch-TensorRT is not here: make test-torch-trt")
    monkeypatch.setattr(torch_tensorrt_build, "construct", torch_trt_double.construct)
    monkeypatch.setattr(TorchTensorRt, "version", lambda self: "2.13.0 on TensorRT 1.7.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@cache
def exported(name: str, kind: str, folder: Path, size_hw: tuple[int, int], mask_stride: int) -> Program:
    """A model with parameters that are all different from zero, as `edgeseg export` writes it; INT8 calibrated on noise."""
    from edgeseg.export.half import write_half
    from edgeseg.export.onnx_qdq import export_qdq
    from edgeseg.export.program import export_program
    from edgeseg.models.catalog import build_model
    from golden_rule import fill
    from quantized import quantized_model

    out = folder / f"{name} {kind}.onnx"
    if kind in ("fp16", "int8 half"):
        return write_half(exported(name, "float" if kind == "fp16" else "int8", folder, size_hw, mask_stride), out)
    if kind == "int8":
        return export_qdq(quantized_model(name, size_hw), mask_stride=mask_stride, out=out)
    model, options = fill(build_model(name, LABELS.num_classes)).eval(), {"labels": LABELS, "arch": name, "out": out}
    return export_program(model, image=ImageSpec(size_hw), mask_stride=mask_stride, **options)


def compiled(program: Program, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one network that was made of a program, and the facts beside its engine."""
    files = TorchTensorRt(machine=CARD, cuda=Cuda(FakeLibrary())).compile(program, out, {"threads": 2})
    facts, networks = json.loads(files[1].read_text()), json.loads((out / torch_trt_double.NETWORKS).read_text())
    assert len(networks) == 1, "the program broke into several networks"
    assert files[0].stat().st_size == networks[0]["bytes"]
    print(program.arch, program.precision, program.form, Counter(networks[0]["layers"]).total(), "layers", networks[0], facts)
    return networks[0], facts


def check(program: Program, out: Path, products: str) -> Counter[str]:
    """What every network must be; its layers by type."""
    import onnx

    from edgeseg.export.edit import count_ops

    network, facts = compiled(program, out)
    layers = Counter(network["layers"])
    assert network["inputs"] == [["UINT8", list(program.image.input_shape)]]
    ((kind, shape),) = network["outputs"]
    assert (kind, [side for side in shape if side != 1]) == ("UINT8", list(program.mask_shape))
    counts = count_ops(onnx.load(program.onnx_path))
    assert layers["CONVOLUTION"] == counts["Conv"]
    assert layers["MATRIX_MULTIPLY"] == counts["MatMul"]
    assert layers["NORMALIZATION"] == counts["LayerNormalization"]
    assert layers["QUANTIZE"] == layers["DEQUANTIZE"] == counts["DequantizeLinear"]
    assert network["products"] == {products: counts["Conv"] + counts["MatMul"]}
    assert facts["settings"]["require_full_compilation"] is True
    return layers


@pytest.mark.parametrize("name", ["segformer_nano", "vwformer_nano", "repsep_nano"])
def test_every_family(name: str, folder: Path, tmp_path: Path) -> None:
    check(exported(name, "float", folder, (64, 128), 4), tmp_path, "FLOAT")


@pytest.mark.parametrize("kind", TYPES)
def test_every_precision(kind: str, folder: Path, tmp_path: Path) -> None:
    layers = check(exported("edaformer_nano", kind, folder, (64, 128), 1), tmp_path, TYPES[kind])
    assert bool(layers["QUANTIZE"]) == kind.startswith("int8")


@pytest.mark.parametrize("kind", TYPES)
def test_edaformer_t(kind: str, folder: Path, tmp_path: Path) -> None:
    check(exported("edaformer_t", kind, folder, (512, 512), 8), tmp_path, TYPES[kind])


def test_a_program_that_is_not_what_it_says(tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    with pytest.raises(BuildError, match="not the program it is said to be"):
        compiled(replace(program, mask_stride=4), tmp_path)


def test_an_operator_without_a_torch_form(tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    program.onnx_path.write_bytes(program.onnx_path.read_bytes().replace(b"AveragePool", b"AverageFool"))
    with pytest.raises(BuildError, match="no torch form of AverageFool"):
        compiled(program, tmp_path)
