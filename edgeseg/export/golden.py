"""Golden frames: a few images with the torch model's masks. They travel in the bundle, so a device can check
its engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeseg.bundle.golden import GoldenFrame
from edgeseg.contracts import SegDataset
from edgeseg.images import resize_image
from edgeseg.models.reference import TorchReference
from edgeseg.specs import ImageU8, Precision


def golden_images(dataset: SegDataset, count: int, size_hw: tuple[int, int]) -> list[tuple[str, ImageU8]]:
    """`count` images spread evenly over a data set, resized to the program's size, each with a name
    `golden_NN`.

    Spread, because neighbours in a data set are often neighbours in time. A data set with fewer images gives
    all it has.

    Raises:
        ValueError: `count` is below 1, or the data set is empty.
    """
    if count < 1 or not len(dataset):
        raise ValueError(f"{count} golden frames cannot be taken from {len(dataset)} images")
    count = min(count, len(dataset))
    indices = [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]
    return [
        (f"golden_{n:02}", resize_image(dataset.load(index)[0], size_hw)) for n, index in enumerate(indices)
    ]


def golden_frames(
    reference: TorchReference,
    images: Sequence[tuple[str, ImageU8]],
    level: int = 0,
    precision: Precision = "float",
) -> list[GoldenFrame]:
    """The frames of one program: each image with the mask that the torch model gives at the program's mask
    stride.

    Args:
        reference: the torch model at the level's ISR plan, the program's size and mask stride; quantized for
            an INT8 program.
        images: names and images, (H, W, 3) uint8 RGB of the program's size. Levels of one bundle share them.
    """
    return [
        GoldenFrame(name, image_rgb, reference.infer(image_rgb), level, precision)
        for name, image_rgb in images
    ]
