"""Rung P0: our LDA-AQU, loaded through its key map, against what the published code computed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeseg.models.keymaps import lda_aqu_state
from edgeseg.models.lda_aqu import LdaAqu
from golden_rule import value
from locations import FIXTURES

CHANNELS = 64
TOLERANCE = 1e-4
"""In float32 the published code itself is 2e-5 from float64: shifts of several pixels are computed from
features.
"""


def loaded(heads: int) -> LdaAqu:
    shapes = dict(json.loads((FIXTURES / "lda_aqu.keys.json").read_text()))
    shapes["relative_position_bias_table"] = (1, heads, 1, 9, CHANNELS // 4 // heads)
    model = LdaAqu(CHANNELS, heads=heads)
    model.load_state_dict(lda_aqu_state({key: value(key, tuple(shape)) for key, shape in shapes.items()}))
    return model.eval()


@pytest.mark.parametrize(("heads", "name", "every"), [(1, "out", 4), (2, "out_heads2", 8)])
@torch.inference_mode()
def test_output_and_shifts(heads: int, name: str, every: int) -> None:
    model = loaded(heads)
    shifts: list[Tensor] = []
    model.shift.register_forward_hook(lambda _module, _inputs, output: shifts.append(output))
    x = np.random.default_rng(0).standard_normal((1, CHANNELS, 16, 24)).astype(np.float32)
    output = model(torch.from_numpy(x)).numpy()
    with np.load(FIXTURES / "lda_aqu.npz") as golden:
        assert np.abs(output[:, ::every] - golden[name]).max() <= TOLERANCE
        # Theirs are along y, then x.
        ours = shifts[0].unflatten(1, (-1, 2)).flip(2).flatten(1, 2)[..., ::2, ::2].numpy()
        assert np.abs(ours - golden["shift"]).max() <= TOLERANCE
        assert np.abs(np.tanh(golden["shift"])).mean() > 0.1, (
            "shifts must matter for this test to mean anything"
        )


def test_parameters() -> None:
    assert sum(p.numel() for p in LdaAqu(64).parameters()) == 3_722
    assert sum(p.numel() for p in LdaAqu(256).parameters()) == 39_410
