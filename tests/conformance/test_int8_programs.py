"""Every family of models as an INT8 program: what is said to be INT8 runs in integers, and every form says
the same.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeseg.devices.integers import integers_here
from edgeseg.engines.onnxruntime.backend import OnnxRuntime
from edgeseg.engines.onnxruntime.operators import FLOAT_PRODUCTS, fused_ops, optimised_ops
from edgeseg.export.graph.dialects import write_dialect
from edgeseg.export.graph.editor import count_ops
from edgeseg.export.onnx_qdq import export_qdq
from edgeseg.int8.coverage import coverage
from edgeseg.metrics import mask_agreement
from edgeseg.specs import DIALECTS, Program
from processor import pretend
from quantized import SETTINGS, QuantizedModel, quantized_model

SIZE_HW = (64, 128)
FAMILIES = [
    "edaformer_nano",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("segformer_nano", "vwformer_nano", "repsep_nano")
    ),
]
THREADS = {"threads": 2}


@cache
def model(name: str) -> QuantizedModel:
    return quantized_model(name, SIZE_HW)


@cache
def program(name: str, form: str, folder: Path) -> Program:
    out = folder / f"{name}-{form}.onnx"
    if form == "qdq":
        return export_qdq(model(name), mask_stride=8, out=out)
    return write_dialect(program(name, "qdq", folder), form, out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_canonical_program(name: str, folder: Path) -> None:
    graph = onnx.load(program(name, "qdq", folder).onnx_path)
    counts = count_ops(graph)
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    weights = [
        node for node in graph.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in kinds
    ]
    int8 = [layer for layer in coverage_of(name).layers if layer.precision == "int8"]
    assert {kinds[node.input[0]] for node in weights} == {onnx.TensorProto.INT8}
    assert len(weights) == sum(layer.kind != "Product" for layer in int8)
    assert counts["DequantizeLinear"] == counts["QuantizeLinear"] + len(weights)
    assert counts["ReduceMean"] == 0, "a LayerNorm in parts"
    assert {entry.domain for entry in graph.opset_import} == {""}
    assert counts["ArgMax"] == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_int8_runs_in_integers(name: str, folder: Path) -> None:
    covered = coverage_of(name)
    counts = optimised_ops(program(name, OnnxRuntime().form_for("int8"), folder), THREADS)
    assert sum(fused_ops(counts).values()) == sum(layer.precision == "int8" for layer in covered.layers)
    floats = sum(layer.precision == "float" for layer in covered.layers)
    assert sum(fused_ops(counts, FLOAT_PRODUCTS).values()) <= floats


@pytest.mark.parametrize("name", FAMILIES)
def test_every_form_that_is_exact_here_says_the_same(name: str, folder: Path, tmp_path: Path) -> None:
    backend = OnnxRuntime()
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    masks = []
    for form in ("qdq", *(form for form in DIALECTS if form not in integers_here().wrong)):
        made = program(name, form, folder)
        (tmp_path / form).mkdir()
        with backend.load(made, backend.compile(made, tmp_path / form, THREADS), THREADS) as session:
            masks.append(session.infer(image))
    assert min(mask_agreement(masks[0], mask) for mask in masks) >= 0.99
    assert len(np.unique(masks[0])) > 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_canonical_program_runs_where_the_runtime_makes_its_weights_unsigned(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on x86 without VNNI: ONNX Runtime names the new constants by the old ones, and fails where two
    weights share one.
    """
    pretend(monkeypatch, "avx2")
    image, masks = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8), []
    for form in ("qdq", "arm"):
        made = program(name, form, folder)
        (tmp_path / form).mkdir()
        with OnnxRuntime().load(
            made, OnnxRuntime().compile(made, tmp_path / form, THREADS), THREADS
        ) as session:
            masks.append(session.infer(image))
    assert mask_agreement(*masks) >= 0.99


def coverage_of(name: str):  # type: ignore[no-untyped-def]
    made = model(name)
    return coverage(made.model, made.hints, SETTINGS, SIZE_HW)
