"""EfficientNet-Lite: the three sizes, and what TensorFlow's training left in them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeseg.models.efficientnet_lite import efficientnet_lite

# Parameters of the published classifiers without their 1280-wide convolution, its norm and the 1000-class
# layer.
SIZES = {
    0: ((24, 40, 112, 320), 16, 4_652_008 - 320 * 1280 - 2 * 1280 - 1281 * 1000),
    1: ((24, 40, 112, 320), 21, 5_416_680 - 320 * 1280 - 2 * 1280 - 1281 * 1000),
    2: ((24, 48, 120, 352), 21, 6_092_072 - 352 * 1280 - 2 * 1280 - 1281 * 1000),
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int) -> None:
    channels, blocks, parameters = SIZES[size]
    encoder = efficientnet_lite(size)
    assert (encoder.channels, len(encoder.blocks)) == (channels, blocks)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.stem.conv.out_channels == 32, "the stem does not widen"


def test_normalisation_is_that_of_its_training() -> None:
    encoder = efficientnet_lite(0)
    assert encoder.mean_rgb == (127.0, 127.0, 127.0) and encoder.std_rgb == (128.0, 128.0, 128.0)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@torch.inference_mode()
def test_maps_at_every_stride() -> None:
    encoder = efficientnet_lite(2).eval()
    feats = encoder(torch.randn(1, 3, 64, 96))
    assert [tuple(feat.shape[1:]) for feat in feats] == [(24, 16, 24), (48, 8, 12), (120, 4, 6), (352, 2, 3)]
