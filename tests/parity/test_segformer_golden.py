"""Rung P0: our MiT, loaded through the importer, against what the published code computed; SegFormer's size
and cost.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg.models import load_upstream
from edgeseg.models.mit import mit
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.segmentor import Segmentor
from golden_rule import upstream_state
from locations import FIXTURES

TOLERANCE = 5e-5


@torch.inference_mode()
def test_mit_b0() -> None:
    model = torch.nn.ModuleDict({"encoder": mit("b0")}).eval()
    load_upstream(model, upstream_state("mit_b0"))
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 128, 160)).astype(np.float32))
    with np.load(FIXTURES / "mit_b0.npz") as golden:
        for i, (stage, step) in enumerate(zip(model["encoder"](image), (2, 2, 1, 1), strict=True)):
            theirs = golden[f"stage{i}"]
            ours = stage[:, :, ::step, ::step].numpy()
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= TOLERANCE


# Millions of parameters, and billions of multiply-adds at 512x512 with 150 classes: the paper's figures.
@pytest.mark.parametrize(
    ("size", "width", "encoder", "whole", "published"),
    [
        ("b0", 256, 3_319_392, 3_752_694, (3.8, 8.4)),
        ("b1", 256, 13_151_424, 13_715_798, (13.7, 15.9)),
        ("b2", 768, 24_196_288, 27_461_974, (27.5, 62.4)),
        ("b3", 768, 44_072_128, 47_337_814, (47.3, 79.0)),
        ("b4", 768, 60_842_688, 64_108_374, (64.1, 95.7)),
        ("b5", 768, 81_443_008, 84_708_694, (84.7, None)),  # measured at 640x640
    ],
)
def test_size_and_cost(
    size: str, width: int, encoder: int, whole: int, published: tuple[float, float | None]
) -> None:
    with torch.device("meta"):
        body = mit(size)
        model = Segmentor(body, SegformerDecoder(body.channels, 150, width)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 512, 512))
    assert sum(p.numel() for p in body.parameters()) == encoder
    assert sum(p.numel() for p in model.parameters()) == whole
    assert whole / 1e6 == pytest.approx(published[0], abs=0.05)
    if published[1] is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(published[1], abs=0.15)
