"""TensorRT-RTX's own builder, on a machine without a GPU: every family of models, for every generation of
cards.

Nothing is run: that needs the card. What is proved is that the parser takes every operator of the programs
that bundles hold, that the builder makes an engine of each, and how a program that it refuses is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from edgeseg.contracts import Progress
from edgeseg.engines.tensorrt import rtx
from edgeseg.engines.tensorrt.builder import Order, construct
from edgeseg.engines.tensorrt.rtx import TensorRtRtx
from edgeseg.errors import BuildError, Unsupported
from edgeseg.export.graph.half import write_half
from edgeseg.specs import (
    Form,
    ImageSpec,
    LabelSpace,
    Program,
)
from golden_rule import fill
from tiny import outside_weights, tiny_program

pytestmark = pytest.mark.trt

CARDS = {"rtx3080": "8.6", "rtx4090": "8.9", "rtx5090": "12.0"}
FAMILIES = [
    "edaformer_nano",
    "edaformer_nano lda_aqu",
    "segformer_nano",
    "segformer_mobile_nano",
    "segformer_efficientnet_lite0",
    "vwformer_nano",
    "repsep_nano",
]
"""Catalogue names, and a learned upsampling."""
KINDS = ["float", "fp16", "int8"]
"""What `TensorRtRtx.form_for` names for each precision."""
LABELS = LabelSpace(tuple(f"class{i}" for i in range(5)), tuple((i, i, i) for i in range(5)))
SMALL, LARGE = (64, 128), (384, 512)


@pytest.fixture(scope="module", autouse=True)
def version() -> str:
    try:
        return TensorRtRtx().version()
    except Unsupported as error:
        pytest.skip(f"{error}: {error.hint}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build without the child process, which is another second each time."""

    def build(order: Order, progress: Progress) -> None:
        said: list[object] = []
        construct(SimpleNamespace(send=said.append), order)
        assert not [one for one in said if isinstance(one, list)]

    monkeypatch.setattr(rtx, "build", build)


@cache
def program_of(family: str, kind: str, folder: Path, size_hw: tuple[int, int]) -> Program:
    """A model whose parameters are all different from zero, as a bundle for TensorRT-RTX holds it; INT8
    calibrated on noise.
    """
    from edgeseg.export.onnx_qdq import export_qdq
    from edgeseg.export.program import export_program
    from edgeseg.models.catalog import build_model
    from quantized import quantized_model

    name, *upsample = family.split()
    options = {"upsample": upsample[0]} if upsample else {}
    out = folder / f"{family} {kind} {size_hw[0]}.onnx"
    if kind in ("fp16", "int8"):
        return write_half(program_of(family, "float" if kind == "fp16" else "qdq", folder, size_hw), out)
    if kind == "qdq":
        pytest.importorskip(
            "modelopt", reason="quantizers are put in by nvidia-modelopt: pip install 'edgeseg[quant]'"
        )
        return export_qdq(quantized_model(name, size_hw, **options), mask_stride=1, out=out)
    model = fill(build_model(name, LABELS.num_classes, **options)).eval()
    return export_program(
        model, image=ImageSpec(size_hw), labels=LABELS, mask_stride=1, arch=name, out=out, form=Form.GPU
    )


def compiled(program: Program, out: Path, capability: str) -> int:
    """Bytes of the engine of a program, which is what it should be."""
    files = TensorRtRtx().compile(program, out, {"compute_capability": capability})
    engine, facts = files[0], json.loads(files[1].read_text())
    assert (facts["runtime_version"], facts["compute_capability"]) == (TensorRtRtx().version(), capability)
    assert facts["inputs"] == [["uint8", list(program.image.input_shape)]]
    assert engine.stat().st_size > facts["engine_header_bytes"] > 0
    return engine.stat().st_size


def test_no_family_is_left_out() -> None:
    import torch

    from edgeseg.models.catalog import CATALOGUE, build_model
    from edgeseg.models.upsample import KINDS as UPSAMPLING

    def parts(name: str) -> set[type]:
        with torch.device("meta"):
            model = build_model(name, 5)
        return {type(model.encoder), type(model.decoder)}

    tried = [family.split() for family in FAMILIES]
    assert set().union(*(parts(name) for name in CATALOGUE)) == set().union(
        *(parts(name) for name, *_ in tried)
    )
    assert {*UPSAMPLING} == {"bilinear", *(kind for _, *upsample in tried for kind in upsample)}


@pytest.mark.parametrize("capability", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("in_this_process")
def test_every_family_in_every_precision_for_every_card(
    family: str, kind: str, capability: str, folder: Path, tmp_path: Path
) -> None:
    """Of INT8, the parser takes every quantizer, and an engine is made. Whether it computes in INT8, only the
    card shows.
    """
    compiled(program_of(family, kind, folder, SMALL), tmp_path, capability)


@pytest.mark.parametrize("capability", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("name", ["edaformer_t", "vwformer_mit_b0"])
def test_models_of_full_size(name: str, capability: str, folder: Path, tmp_path: Path) -> None:
    """In a child process, as users build. Weights are half of a float engine, kernels the rest; INT8 has more
    and larger ones.
    """
    sizes = {
        kind: compiled(program_of(name, kind, folder, LARGE), tmp_path, capability)
        for kind in ("float", "fp16", "int8")
    }
    assert sizes["fp16"] < 0.75 * sizes["float"]
    assert sizes["int8"] < 1.1 * sizes["float"]


def test_a_quantized_bias_is_refused(folder: Path, tmp_path: Path) -> None:
    """Why biases stay float: TensorRT dequantizes no int32."""
    model = onnx.load(program_of("edaformer_nano", "int8", folder, SMALL).onnx_path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[2])
    codes = np.round(onnx.numpy_helper.to_array(bias) * 1000).astype(np.int32)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(codes, "codes"),
            onnx.numpy_helper.from_array(np.float16(0.001), "step"),
        ]
    )
    model.graph.node.insert(
        0, onnx.helper.make_node("DequantizeLinear", ["codes", "step"], ["dequantized_bias"])
    )
    conv.input[2] = "dequantized_bias"
    program = replace(program_of("edaformer_nano", "int8", folder, SMALL), onnx_path=tmp_path / "biased.onnx")
    onnx.save(model, program.onnx_path)
    with pytest.raises(BuildError, match=r"refuses .*biased\.onnx"):
        TensorRtRtx().compile(program, tmp_path, {"compute_capability": "8.9"})


def test_a_program_for_processors_says_how_to_export(folder: Path, tmp_path: Path) -> None:
    program = program_of("edaformer_nano", "qdq", folder, SMALL)
    with pytest.raises(BuildError, match="not laid out for a GPU: it transposes its image") as refused:
        TensorRtRtx().compile(program, tmp_path, {"compute_capability": "8.9"})
    assert "runtime: tensorrt under targets" in refused.value.hint
    assert "edgeseg export RECIPE --precision fp16 --force" in refused.value.hint


@pytest.mark.parametrize("layout", ["HWC", "NCHW"])
def test_either_layout(layout: str, tmp_path: Path) -> None:
    compiled(tiny_program(tmp_path / "tiny.onnx", layout), tmp_path, "8.9")


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    program = outside_weights(tiny_program(tmp_path / "tiny.onnx"))
    (tmp_path / "engine").mkdir()
    compiled(program, tmp_path / "engine", "8.9")


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
