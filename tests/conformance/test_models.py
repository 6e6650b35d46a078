"""What every row of the model catalogue must do. Nano rows run; full sizes are checked without data, and
whole with `slow`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.export.parity.float import compare
from edgeseg.export.parity.thresholds import Thresholds
from edgeseg.export.program import Form, export_program
from edgeseg.models.catalog import CATALOGUE, build_model, model_options
from edgeseg.models.reference import TorchReference
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import IsrPlan, LabelSpace
from edgeseg.testing.models import check_facts, check_model, check_shapes
from golden_rule import fill

NUM_CLASSES = 5
SIZE_HW = (64, 128)
NANO = [name for name in CATALOGUE if name.endswith("_nano")]
FULL = [name for name in CATALOGUE if not name.endswith("_nano")]
EVERY = [*NANO, *(pytest.param(name, marks=pytest.mark.slow) for name in FULL)]
LABELS = LabelSpace(
    tuple(f"class{i}" for i in range(NUM_CLASSES)), tuple((i, i, i) for i in range(NUM_CLASSES))
)

FORBIDDEN = {
    "dynamic": {"Loop", "If", "Scan", "Range", "NonZero", "Shape", "SequenceAt"},
    "index by index": {"Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements"},
    "left over": {"Identity", "Dropout", "BatchNormalization"},
    "LayerNorm in pieces": {"ReduceMean", "Sqrt", "Pow"},
}
WITHOUT_GRADIENT = {
    "decoder.mix.windows.*.key.bias": "adds the same to all scores of a query, which softmax ignores",
}


@lru_cache(maxsize=len(NANO))
def filled(name: str) -> Segmentor:
    """The model with parameters that are all different from zero, in evaluation, at its base plan. Tests
    leave it so.
    """
    return fill(build_model(name, NUM_CLASSES)).eval()


def noise(size_hw: tuple[int, int] = SIZE_HW, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size_hw, generator=torch.Generator().manual_seed(sum(size_hw)))


def plan_of(model: Segmentor, multipliers: list[int]) -> IsrPlan:
    stages = len(model.encoder.attention())
    return IsrPlan(tuple(multipliers[:stages]), tuple(multipliers[stages:]))


def without_drops(name: str) -> Segmentor:
    drops = {
        option: 0.0
        for option in model_options(name)
        if option in ("drop_path", "decoder_drop_path", "dropout")
    }
    return build_model(name, NUM_CLASSES, **drops)


def loss_of(model: Segmentor, images: Tensor, mask: Tensor) -> Tensor:
    """Pixel cross-entropy at full size and what the decoder adds to it, as in training."""
    output = model(images, mask)
    assert isinstance(output, tuple)
    logits, extra = output
    return F.cross_entropy(F.interpolate(logits, mask.shape[1:], mode="bilinear"), mask) + sum(extra.values())


def blocks_of_classes(batch: int, size_hw: tuple[int, int]) -> Tensor:
    """(B, H, W), rectangles of classes, so that there is something to learn and every class occurs."""
    coarse = torch.arange(batch * 8).reshape(batch, 2, 4) % NUM_CLASSES
    return F.interpolate(coarse[:, None].float(), size_hw, mode="nearest")[:, 0].long()


@pytest.mark.parametrize("name", CATALOGUE)
def test_maps_logits_and_plans_have_the_shapes_that_the_parts_say(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, NUM_CLASSES).eval()
    check_facts(name, model)
    check_shapes(model, (128, 192))
    assert all(choice[0] == 1 and len(choice) > 1 for choice in model.isr_choices((128, 192)))


@pytest.mark.parametrize("name", NANO)
def test_it_keeps_the_contract(name: str) -> None:
    check_model(name, num_classes=NUM_CLASSES, size_hw=SIZE_HW)


@pytest.mark.parametrize("name", NANO)
@settings(max_examples=3)
@given(data=st.data())
@torch.inference_mode()
def test_a_plan_changes_the_answer_never_its_shape_and_one_is_the_identity(
    name: str, data: st.DataObject
) -> None:
    model = filled(name)
    base, plan_before = model(noise()), model.isr_plan
    multipliers = [data.draw(st.sampled_from(choice)) for choice in model.isr_choices(SIZE_HW)]
    model.set_isr(plan_of(model, multipliers))
    try:
        planned = model(noise())
    finally:
        model.set_isr(plan_before)
    assert planned.shape == base.shape
    assert torch.equal(planned, base) == all(multiplier == 1 for multiplier in multipliers)
    assert torch.equal(model(noise()), base)


@pytest.mark.parametrize("name", NANO)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = fill(without_drops(name)).train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()  # batch statistics take away every constant in front of them, and its gradient
    loss_of(model, noise(batch=2), blocks_of_classes(2, SIZE_HW)).backward()
    largest = {
        key: 0.0 if p.grad is None else float(p.grad.abs().max()) for key, p in model.named_parameters()
    }
    noise_level = 1e-6 * max(largest.values())
    unreached = {key for key, gradient in largest.items() if gradient <= noise_level}
    excused = {key for key in largest if any(fnmatchcase(key, pattern) for pattern in WITHOUT_GRADIENT)}
    assert unreached == excused


@pytest.mark.parametrize("name", EVERY)
@torch.inference_mode()
def test_torch_export_captures_the_whole_model(name: str) -> None:
    model = filled(name)
    captured = torch.export.export(model, (noise(),), strict=False).module()
    expected = model(noise())
    assert torch.allclose(captured(noise()), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("form", "opset"), [("onnxruntime", 17), ("plain", 20)])
@pytest.mark.parametrize("name", EVERY)
def test_the_exported_program_says_what_the_model_says(
    name: str, form: Form, opset: int, tmp_path: Path
) -> None:
    model = filled(name)
    spec = model.image_spec(SIZE_HW)
    program = export_program(
        model,
        image=spec,
        labels=LABELS,
        mask_stride=4,
        arch=name,
        out=tmp_path / "model.onnx",
        opset=opset,
        form=form,
    )
    graph = onnx.load(program.onnx_path)
    onnx.checker.check_model(graph, full_check=True)
    operators = [node.op_type for node in graph.graph.node]
    for reason, forbidden in FORBIDDEN.items():
        assert not forbidden & set(operators), reason
    norms = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert operators.count("LayerNormalization") == norms
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    report = compare(
        TorchReference(model, spec, 4), program, [image], Thresholds(logits_error=1e-4, mask_agreement=0.995)
    )
    assert report["rungs"]["mask"]["passed"]
