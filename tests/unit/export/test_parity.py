"""The parity ladder: P1 of INT8 finds every kind of misplacement and nothing else; rungs, their report, and
the command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from edgeseg.bundle.golden import GoldenFrame
from edgeseg.checkpoints.models import Quantized
from edgeseg.cli.main import run
from edgeseg.devices.integers import integers_here
from edgeseg.errors import ParityError
from edgeseg.export.graph.dialects import write_dialect
from edgeseg.export.onnx_qdq import export_qdq
from edgeseg.export.parity.ladder import Rung, accuracy_rung, check, golden_rung, graph_rung, optimised_rung
from edgeseg.export.parity.thresholds import Limit
from edgeseg.int8.fake import fake_quantize
from edgeseg.models.reference import TorchReference
from edgeseg.specs import DIALECTS, Form, ImageSpec, ImageU8, IsrPlan, LabelSpace, Program
from processor import pretend
from tiny import tiny_bundle, tiny_precisions

SIZE_HW = (32, 64)


class Rounding(nn.Module):
    """What modelopt's quantizer is to the ladder, without modelopt."""

    is_enabled = True
    amax: Tensor

    def __init__(self, amax: Tensor, narrow_range: bool) -> None:
        super().__init__()
        self.narrow_range = narrow_range
        self.register_buffer("amax", amax)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self)


class RoundedConv(nn.Conv2d):
    def __init__(self, *shape: int, stride: int, peak: float) -> None:
        super().__init__(*shape, stride=stride, padding=1)
        self.input_quantizer = Rounding(torch.tensor(peak), narrow_range=False)
        self.weight_quantizer = Rounding(
            self.weight.detach().abs().amax((1, 2, 3), keepdim=True), narrow_range=True
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_quantizer(self.weight)
        return F.conv2d(self.input_quantizer(x), weight, self.bias, self.stride, self.padding)


@pytest.fixture(scope="module")
def quantized() -> Quantized:
    torch.manual_seed(0)
    model = nn.Sequential(
        RoundedConv(3, 8, 3, stride=2, peak=120.0),
        nn.ReLU(),
        RoundedConv(8, 16, 3, stride=2, peak=90.0),
        nn.GELU(),
        RoundedConv(16, 4, 3, stride=1, peak=30.0),
    )
    labels = LabelSpace(tuple("abcd"), tuple((n, n, n) for n in range(4)))
    image = ImageSpec(SIZE_HW, std_rgb=(1.0, 1.0, 1.0))
    other: Any = None
    return Quantized(
        model.eval().requires_grad_(False), other, image, labels, "tiny", IsrPlan(), other, "", {}
    )


@pytest.fixture
def program(quantized: Quantized, tmp_path: Path) -> Program:
    return export_qdq(quantized, mask_stride=4, out=tmp_path / "qdq.onnx")


@pytest.fixture
def images() -> list[ImageU8]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*SIZE_HW, 3), np.uint8) for _ in range(2)]


def test_the_same_integers_on_both_sides_leave_only_the_order_of_additions(
    quantized: Quantized, program: Program, images: list[ImageU8]
) -> None:
    rung = graph_rung(quantized.reference(4), program, images)
    assert rung.passed, rung
    assert rung.figures["different_codes"] == 0
    assert rung.figures["logits_error"] < 1e-6
    assert rung.details["quantizers"] == 3
    assert rung.details["codes"] == 2 * (32 * 64 * 3 + 16 * 32 * 8 + 8 * 16 * 16)
    assert set(rung.details["worst_inputs"]) == {"0.input", "2.input", "4.input"}
    assert not any(module._forward_hooks for module in quantized.model.modules())


def first(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op)


def changed(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    """Change a constant in place."""
    tensor = next((one for one in model.graph.initializer if one.name == name), None)
    if tensor is None:
        tensor = next(node.attribute[0].t for node in model.graph.node if node.output[0] == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(values.copy()), values.dtype), tensor.name))


def one_more(values: Any) -> Any:
    values.flat[5] += 1
    return values


def stored_weight(model: onnx.ModelProto) -> str:
    """Name of the integers that the first convolution's weight is made of."""
    made = first(model, "Conv").input[1]
    return str(next(node.input[0] for node in model.graph.node if node.output[0] == made))


def without_rounding(model: onnx.ModelProto) -> None:
    """The second convolution takes what comes before its quantizer."""
    quantize = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][1]
    dequantize = next(node for node in model.graph.node if quantize.output[0] in node.input)
    for node in model.graph.node:
        node.input[:] = [quantize.input[0] if name == dequantize.output[0] else name for name in node.input]
    model.graph.node.remove(quantize)
    model.graph.node.remove(dequantize)


def rounded_twice(model: onnx.ModelProto) -> None:
    """What follows the first ReLU is rounded to other steps on the way."""
    relu, quantize = first(model, "Relu"), first(model, "QuantizeLinear")
    dequantize = next(node for node in model.graph.node if quantize.output[0] in node.input)
    pair = [onnx.NodeProto(), onnx.NodeProto()]
    for copied, node in zip(pair, (quantize, dequantize), strict=True):
        copied.CopyFrom(node)
        copied.name, copied.output[0] = f"extra_{node.op_type}", f"extra_{node.op_type}"
    pair[0].input[0], pair[1].input[0] = relu.output[0], pair[0].output[0]
    for node in model.graph.node:
        node.input[:] = [pair[1].output[0] if name == relu.output[0] else name for name in node.input]
    at = list(model.graph.node).index(relu) + 1
    for offset, node in enumerate(pair):
        model.graph.node.insert(at + offset, node)


def zero_point(model: onnx.ModelProto) -> None:
    """Of one quantizer alone, and of the node that reads it, so that only codes are wrong."""
    quantize = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][1]
    dequantize = next(node for node in model.graph.node if quantize.output[0] in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int8), "odd"))
    quantize.input[2] = dequantize.input[2] = "odd"


MISTAKES: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "another scale": (
        lambda m: changed(m, first(m, "QuantizeLinear").input[1], lambda s: s * 1.001),
        "has no quantizer like it",
    ),
    "one weight a step off": (lambda m: changed(m, stored_weight(m), one_more), "input_error_steps"),
    "another bias": (lambda m: changed(m, first(m, "Conv").input[2], one_more), "input_error_steps"),
    "a quantizer is missing": (without_rounding, "has no quantizer like it"),
    "a quantizer too many": (rounded_twice, "1 quantizers that the model lacks: extra_QuantizeLinear"),
    "another zero point": (zero_point, "different_codes"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_p1_finds(mistake: str, quantized: Quantized, program: Program, images: list[ImageU8]) -> None:
    change, told = MISTAKES[mistake]
    model = onnx.load(program.onnx_path)
    change(model)
    onnx.save(model, program.onnx_path)
    rung = graph_rung(quantized.reference(4), program, images[:1])
    assert rung.passed is False
    assert any(told in reason for reason in rung.broken), rung.broken
    with pytest.raises(ParityError, match="rung P1") as caught:
        check("it", [rung])
    assert caught.value.report["rungs"][0]["passed"] is False


def test_p2_holds_every_form_and_finds_a_wrong_one(
    program: Program, images: list[ImageU8], tmp_path: Path
) -> None:
    forms = {form: write_dialect(program, form, tmp_path / f"{form}.onnx") for form in DIALECTS}
    forms[Form.QDQ] = program
    rung = optimised_rung(program, forms, images)
    assert rung.passed, rung
    assert set(rung.details["forms"]) | set(rung.details["not_run_here"]) == {"qdq", *DIALECTS}
    assert tuple(rung.details["not_run_here"]) == integers_here().wrong
    model = onnx.load(forms["arm"].onnx_path)
    bias = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32)
    changed(model, bias.name, lambda values: values + 4000)
    onnx.save(model, forms["arm"].onnx_path)
    broken = optimised_rung(program, forms, images)
    assert broken.passed is False
    assert broken.details["forms"]["qdq"] == rung.details["forms"]["qdq"]


def test_a_form_that_saturates_here_is_left_out_and_told(
    program: Program, images: list[ImageU8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "avx2")
    forms = {Form.QDQ: program, Form.ORT_X86: replace(program, onnx_path=tmp_path / "is_never_opened.onnx")}
    assert optimised_rung(program, forms, images[:1]).details["not_run_here"] == ["x86"]


def test_p0_and_p4(quantized: Quantized, images: list[ImageU8]) -> None:
    reference: TorchReference = quantized.reference(4)
    frames = [GoldenFrame(str(n), image, reference.infer(image), 0, "int8") for n, image in enumerate(images)]
    assert golden_rung(reference, frames, "int8").passed
    spoilt = frames[1]._replace(mask=(frames[1].mask + 1) % 4)
    assert golden_rung(reference, [frames[0], spoilt], "int8").broken == ["mask_agreement 0, wanted >= 0.99"]
    assert accuracy_rung(-0.01, "gate.max_miou_drop", 0.005, {}).passed
    assert accuracy_rung(0.006, "gate.max_miou_drop", 0.005, {}).broken == [
        "miou_drop 0.006, wanted <= 0.005"
    ]


def test_rungs_as_json_and_as_error() -> None:
    equal = Rung("P2", "a against b", {"sqnr_db": float("inf")}, {"sqnr_db": Limit(least=30)})
    assert equal.passed
    assert json.loads(json.dumps(equal.to_json(), allow_nan=False))["figures"] == {"sqnr_db": None}
    lost = Rung("P3", "a against c", {"sqnr_db": float("nan")}, {"sqnr_db": Limit(least=30)})
    skipped = Rung("P4", "engine", skipped="no data")
    assert (lost.passed, skipped.passed, skipped.broken) == (False, None, [])
    check("it", [equal, skipped])
    with pytest.raises(
        ParityError, match=r"it: rung P3 \(a against c\) broke: sqnr_db nan, wanted >= 30"
    ) as caught:
        check("it", [equal, lost, skipped])
    assert [rung["passed"] for rung in caught.value.report["rungs"]] == [True, False, None]


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_bundle(tmp_path / "b.edgeseg", **tiny_precisions(tmp_path)).path
    assert run(["parity", str(path), "--json"]) == 0
    ladders = json.loads(capsys.readouterr().out)["ladders"]
    assert [(ladder["level"], ladder["precision"]) for ladder in ladders] == [(0, "float"), (0, "int8")]
    for ladder in ladders:
        found = {rung["rung"]: rung for rung in ladder["rungs"]}
        assert list(found) == ["P0", "P1", "P2", "P3", "P4"]
        assert (found["P1"]["passed"], found["P2"]["passed"], found["P4"]["passed"]) == (None, True, None)
        assert all(rung["skipped"] for rung in ladder["rungs"] if rung["passed"] is None)
    assert run(["parity", str(path), "--precision", "int8"]) == 0
    shown = capsys.readouterr().out
    assert "no --quantized: give the quantized checkpoint" in shown
    assert "float" not in shown.split("\n")[0]


def test_a_broken_rung_ends_the_command_and_leaves_the_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tiny_precisions(tmp_path)
    names = {program.form: program.onnx_path for program in parts["programs"] if program.precision == "int8"}
    model = onnx.load(names["arm"])
    changed(model, "bias", lambda values: values[::-1])
    onnx.save(model, names["arm"])
    path = tiny_bundle(tmp_path / "b.edgeseg", **parts).path
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert run(["parity", str(path), "--json"]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert "level 0 int8: rung P2" in error["message"]
    assert [ladder["precision"] for ladder in error["report"]["ladders"]] == ["float", "int8"]
    assert run(["parity", str(path)]) == 5
    assert "BROKEN" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
