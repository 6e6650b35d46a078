"""Rung P0: our VWFormer decoder, loaded through the importer, against what the published code computed; its
size and cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.models import load_upstream
from edgeseg.models.vwformer import VwDecoder
from golden_rule import upstream_state
from locations import FIXTURES

TOLERANCE = 1e-5
MIT_B0, MIT_B1 = (32, 64, 160, 256), (64, 128, 320, 512)
LIGHT = {"image_pool": False, "low_width": 32}


@torch.inference_mode()
def test_decoder_on_mit_b0_widths() -> None:
    model = torch.nn.ModuleDict({"decoder": VwDecoder(MIT_B0, 150)}).eval()
    load_upstream(
        model, {f"decode_head.{key}": value for key, value in upstream_state("vwformer_b0").items()}
    )
    feats = [
        torch.from_numpy(
            np.random.default_rng(i).standard_normal((1, channels, 64 >> i, 96 >> i)).astype(np.float32)
        )
        for i, channels in enumerate(MIT_B0)
    ]
    logits = model["decoder"](feats).numpy()
    with np.load(FIXTURES / "vwformer_b0.npz") as golden:
        for name, ours in (("logits_first2", logits[:, :2]), ("logits_every8", logits[:, :, ::8, ::8])):
            assert ours.shape == golden[name].shape
            assert np.abs(ours - golden[name]).max() <= TOLERANCE


def test_parameter_count_is_that_of_the_published_code() -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    published = sum(
        tensor.numel() for key, tensor in upstream_state("vwformer_b0").items() if not key.endswith(buffers)
    )
    assert published == 518_170
    assert sum(p.numel() for p in VwDecoder(MIT_B0, 150).parameters()) == published


# Millions of parameters and billions of multiply-adds at 512x512 with 150 classes, attention products
# counted, as the published code measures; the light form is that code with a branch less and 32 low-level
# channels.
@pytest.mark.parametrize(
    ("channels", "options", "parameters", "gmacs"),
    [
        (MIT_B0, {}, 0.5182, 2.584),
        (MIT_B0, LIGHT, 0.4826, 2.475),
        (MIT_B0, {"width": 512}, 7.179, 32.81),
        (MIT_B1, {}, 0.5811, 2.672),
        (MIT_B1, LIGHT, 0.5450, 2.554),
        (MIT_B1, {"width": 512}, 7.427, 33.09),
    ],
)
def test_size_and_cost(
    channels: tuple[int, ...], options: dict[str, Any], parameters: float, gmacs: float
) -> None:
    with torch.device("meta"):
        model = VwDecoder(channels, 150, **options).eval()
        feats = [torch.empty(1, c, 128 >> i, 128 >> i) for i, c in enumerate(channels)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(feats)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, rel=1e-4)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=3e-4)
