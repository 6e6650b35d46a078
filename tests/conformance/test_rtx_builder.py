"""TensorRT-RTX's own builder, on a machine without a GPU: every family of models, for every generation of cards.

Nothing is run: that needs the card. What is proved is that the parser takes every operator of the programs that bundles hold,
that the builder makes an engine of each, and how a program that it refuses is told.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeseg.engines.tensorrt_rtx import TensorRtRtx
from edgeseg.errors import BuildError, Unsupported
from edgeseg.export.half import write_half
from edgeseg.specs import ImageSpec, LabelSpace, Program
from golden_rule import fill
from tiny import outside_weights, tiny_program

pytestmark = pytest.mark.trt

CARDS = {"rtx3080": "8.6", "rtx4090": "8.9", "rtx5090": "12.0"}
NANO = ["edaformer_nano", "segformer_nano", "vwformer_nano", "repsep_nano"]
HALF = [*((name, "8.9") for name in NANO), ("edaformer_nano", "8.6"), ("edaformer_nano", "12.0")]
LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))


@pytest.fixture(scope="module", autouse=True)
def version() -> str:
    try:
        return TensorRtRtx().version()
    except Unsupported as error:
        pytest.skip(f"{error}: {error.hint}")


@cache
def exported(name: str, folder: Path, size_hw: tuple[int, int], mask_stride: int) -> Program:
    """A model with parameters that are all different from zero, as `edgeseg export` writes it."""
    from edgeseg.export.program import export_program
    from edgeseg.models.catalog import build_model

    model = fill(build_model(name, LABELS.num_classes)).eval()
    out = folder / f"{name}.onnx"
    return export_program(model, image=ImageSpec(size_hw), labels=LABELS, mask_stride=mask_stride, arch=name, out=out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def check(program: Program, out: Path, capability: str, version: str) -> None:
    files = TensorRtRtx().compile(program, out, {"compute_capability": capability})
    engine, facts = files[0], json.loads(files[1].read_text())
    assert (facts["runtime_version"], facts["compute_capability"]) == (version, capability)
    assert facts["inputs"] == [["uint8", list(program.image.input_shape)]]
    assert engine.stat().st_size > facts["engine_header_bytes"] > 0


@pytest.mark.parametrize("capability", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("name", NANO)
def test_every_family_for_every_card(name: str, capability: str, version: str, folder: Path, tmp_path: Path) -> None:
    check(exported(name, folder, (64, 128), 4), tmp_path, capability, version)


@pytest.mark.parametrize("capability", CARDS.values(), ids=CARDS)
def test_edaformer_t(capability: str, version: str, folder: Path, tmp_path: Path) -> None:
    check(exported("edaformer_t", folder, (384, 512), 1), tmp_path, capability, version)


@pytest.mark.parametrize(("name", "capability"), HALF)
def test_every_family_in_half_precision(name: str, capability: str, version: str, folder: Path, tmp_path: Path) -> None:
    check(write_half(exported(name, folder, (64, 128), 4), tmp_path / "half.onnx"), tmp_path, capability, version)


def test_half_precision_weighs_less(version: str, folder: Path, tmp_path: Path) -> None:
    plain = exported("edaformer_t", folder, (384, 512), 1)
    sizes = []
    for program in (plain, write_half(plain, tmp_path / "half.onnx")):
        check(program, tmp_path, "8.9", version)
        sizes.append((tmp_path / "engine.rtx").stat().st_size)
    assert sizes[1] < 0.95 * sizes[0]


@cache
def canonical(name: str, folder: Path, size_hw: tuple[int, int]) -> Program:
    """A model with quantizers, as the canonical INT8 program."""
    pytest.importorskip("modelopt", reason="quantizers are put in by nvidia-modelopt: pip install 'edgeseg[quant]'")
    from edgeseg.export.onnx_qdq import export_qdq
    from quantized import quantized_model

    return export_qdq(quantized_model(name, size_hw), mask_stride=1, out=folder / f"{name}-qdq.onnx")


@pytest.mark.parametrize("capability", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("name", ["edaformer_t", "vwformer_mit_b0"])
def test_int8_programs_for_every_card(name: str, capability: str, version: str, folder: Path, tmp_path: Path) -> None:
    """The parser takes every quantizer, and the builder makes an engine. Whether it computes in INT8, only the card shows."""
    check(canonical(name, folder, (384, 512)), tmp_path, capability, version)


@pytest.mark.parametrize(("name", "capability"), [("edaformer_nano", "8.6"), ("edaformer_nano", "12.0"), ("repsep_nano", "8.9")])
def test_int8_with_half_precision_between(name: str, capability: str, version: str, folder: Path, tmp_path: Path) -> None:
    check(write_half(canonical(name, folder, (64, 128)), tmp_path / "half.onnx"), tmp_path, capability, version)


def test_a_quantized_bias_is_refused(version: str, folder: Path, tmp_path: Path) -> None:
    """Why biases stay float: TensorRT dequantizes no int32."""
    model = onnx.load(canonical("edaformer_nano", folder, (64, 128)).onnx_path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[2])
    codes = np.round(onnx.numpy_helper.to_array(bias) * 1000).astype(np.int32)
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(codes, "codes"), onnx.numpy_helper.from_array(np.float32(0.001), "step")]
    )
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["codes", "step"], ["dequantized_bias"]))
    conv.input[2] = "dequantized_bias"
    program = replace(canonical("edaformer_nano", folder, (64, 128)), onnx_path=tmp_path / "biased.onnx")
    onnx.save(model, program.onnx_path)
    with pytest.raises(BuildError, match=r"refuses .*biased\.onnx"):
        TensorRtRtx().compile(program, tmp_path, {"compute_capability": "8.9"})


@pytest.mark.parametrize("layout", ["HWC", "NCHW"])
def test_either_layout(layout: str, version: str, tmp_path: Path) -> None:
    check(tiny_program(tmp_path / "tiny.onnx", layout), tmp_path, "8.9", version)


def test_weights_beside_the_graph(version: str, tmp_path: Path) -> None:
    program = outside_weights(tiny_program(tmp_path / "tiny.onnx"))
    (tmp_path / "engine").mkdir()
    check(program, tmp_path / "engine", "8.9", version)


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "garbage", "cut short"])
def test_broken_programs_are_build_errors(content: bytes | None, tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    whole = program.onnx_path.read_bytes()
    program.onnx_path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BuildError, match=r"refuses .*tiny\.onnx"):
        TensorRtRtx().compile(program, tmp_path, {"compute_capability": "8.9"})


def test_a_program_that_is_not_what_it_says(tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    with pytest.raises(BuildError, match="not the program it is said to be"):
        TensorRtRtx().compile(replace(program, mask_stride=4), tmp_path, {"compute_capability": "8.9"})


def test_the_message_is_the_parsers_own(tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "tiny.onnx")
    model = program.onnx_path.read_bytes()
    program.onnx_path.write_bytes(model.replace(b"AveragePool", b"AverageFool"))
    with pytest.raises(BuildError, match="AverageFool"):
        TensorRtRtx().compile(program, tmp_path, {"compute_capability": "8.9"})
