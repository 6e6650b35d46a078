"""Inverted residuals: shapes, padding, stochastic depth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from edgeseg.models.mobilenet import TENSORFLOW, TORCHVISION, ConvNorm, Group, InvertedResidual, mobilenet_v2
from edgeseg.models.segmentor import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB
from golden_rule import fill


@torch.inference_mode()
def test_maps_at_every_stride() -> None:
    encoder = mobilenet_v2().eval()
    feats = encoder(torch.randn(2, 3, 64, 96))
    expected = [
        (2, width, 64 // stride, 96 // stride)
        for width, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [tuple(feat.shape) for feat in feats] == expected
    assert encoder.channels == (24, 32, 96, 320)
    assert (encoder.mean_rgb, encoder.std_rgb) == (IMAGENET_MEAN_RGB, IMAGENET_STD_RGB)


@pytest.mark.parametrize("kernel", [3, 5])
@torch.inference_mode()
def test_tensorflow_pads_less_above_and_left(kernel: int) -> None:
    x = torch.randn(1, 4, 8, 12)
    layer = fill(ConvNorm(4, 4, kernel, 2, 1, TENSORFLOW, act=False)).eval()
    # TensorFlow: total = (ceil(n / 2) - 1) * 2 + kernel - n = kernel - 2 for even n, the odd pixel after.
    total = kernel - 2
    padded = F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))
    assert torch.equal(layer(x), layer.norm(F.conv2d(padded, layer.conv.weight, stride=2)))
    torchvision = fill(ConvNorm(4, 4, kernel, 2, 1, TORCHVISION, act=False)).eval()
    assert torchvision(x).shape == layer(x).shape
    assert not torch.allclose(torchvision(x), layer(x), atol=1e-2)


def test_only_equal_shapes_are_added() -> None:
    kept = {
        (stride, out): InvertedResidual(16, Group(3, stride, 6, out, 1), stride, 0.0, TORCHVISION).residual
        for stride in (1, 2)
        for out in (16, 24)
    }
    assert kept == {(1, 16): True, (1, 24): False, (2, 16): False, (2, 24): False}


def test_stochastic_depth_rises_over_the_blocks() -> None:
    blocks = mobilenet_v2(drop_path=0.17).blocks
    rates = [block.drop_path.rate for block in blocks]
    assert rates == pytest.approx([0.17 * index / len(blocks) for index in range(len(blocks))])
