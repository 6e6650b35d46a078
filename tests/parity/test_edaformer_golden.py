"""Rung P0: our EDAFormer, loaded through the importer, against what the published code computed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from edgeseg.models import build_model, load_upstream
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import IsrPlan
from golden_rule import upstream_state
from locations import FIXTURES

TOLERANCE = 1e-5
ISR = IsrPlan((2, 2, 1, 1), (2, 2, 2))


@pytest.fixture(scope="module")
def golden() -> Mapping[str, npt.NDArray[np.float32]]:
    with np.load(FIXTURES / "edaformer_t.npz") as file:
        return dict(file)


@pytest.fixture
def model() -> Segmentor:
    model = build_model("edaformer_t", 150)
    load_upstream(model, upstream_state("edaformer_t"))
    return model.eval()


def error(ours: Tensor, theirs: npt.NDArray[np.float32]) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max())


@torch.inference_mode()
def test_base_plan(model: Segmentor, golden: Mapping[str, npt.NDArray[np.float32]]) -> None:
    taps: list[Tensor] = []
    model.decoder.dropout.register_forward_pre_hook(lambda _, inputs: taps.append(inputs[0]))
    image = torch.from_numpy(golden["input"])
    stages = model.encoder(image)
    assert error(stages[0][:, :, ::4, ::4], golden["stage1_base"]) <= TOLERANCE
    assert error(stages[1][:, :, ::2, ::2], golden["stage2_base"]) <= TOLERANCE
    assert error(stages[2], golden["stage3_base"]) <= TOLERANCE
    assert error(stages[3], golden["stage4_base"]) <= TOLERANCE
    logits = model.decoder(stages)
    assert error(taps[0][:, ::4], golden["tap_dec_fuse"]) <= TOLERANCE
    assert error(logits, golden["logits_base"]) <= TOLERANCE


@torch.inference_mode()
def test_isr_plan(model: Segmentor, golden: Mapping[str, npt.NDArray[np.float32]]) -> None:
    model.set_isr(ISR)
    image = torch.from_numpy(golden["input"])
    stages = model.encoder(image)
    assert error(stages[0][:, :, ::4, ::4], golden["stage1_isr"]) <= TOLERANCE
    assert error(stages[1][:, :, ::2, ::2], golden["stage2_isr"]) <= TOLERANCE
    logits = model.decoder(stages)
    assert error(logits, golden["logits_isr"]) <= TOLERANCE
    assert error(logits, golden["logits_base"]) > 100 * TOLERANCE, (
        "the plan must matter for this test to mean anything"
    )


# Upstream saves a classifier that it never uses (decode_head.conv_seg); the importer drops it.
@pytest.mark.parametrize(
    ("name", "upstream", "unused"), [("edaformer_t", 4_949_264, 19_350), ("edaformer_b", 29_457_516, 19_350)]
)
def test_parameter_count(name: str, upstream: int, unused: int) -> None:
    state = upstream_state(name)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(tensor.numel() for key, tensor in state.items() if not key.endswith(buffers)) == upstream
    assert sum(tensor.numel() for key, tensor in state.items() if "conv_seg" in key) == unused
    model = build_model(name, 150)
    assert sum(parameter.numel() for parameter in model.parameters()) == upstream - unused
    load_upstream(model, state)  # strict: every parameter is named, and every key but the unused has a home
