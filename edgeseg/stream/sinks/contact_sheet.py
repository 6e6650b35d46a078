"""A few frames kept from a run, spread evenly over it, for a contact sheet."""

from __future__ import annotations

from edgeseg.images import contact_sheet, resize_mask, shrink_image, squared_hw
from edgeseg.results import Result
from edgeseg.specs import ImageU8, LabelSpace, MaskU8


class FrameSampler:
    """Keeps `count` frames of a stream of unknown length, in memory that does not grow. Give it to `run` as
    `on_result`.

    It keeps every n-th frame, and doubles n whenever it holds twice as many as are wanted.
    """

    def __init__(self, count: int = 12, width_px: int = 480) -> None:
        self._count = count
        self._width_px = width_px
        self._stride = 1
        self._kept: list[tuple[ImageU8, MaskU8]] = []

    def __call__(self, result: Result) -> None:
        frame, mask = result.frame, result.mask
        if frame.index % self._stride:
            return
        height, width = squared_hw((mask.shape[0], mask.shape[1]), frame.pixel_aspect)
        scale = min(1.0, self._width_px / width)
        size_hw = max(1, round(height * scale)), max(1, round(width * scale))
        self._kept.append((shrink_image(frame.image_rgb, size_hw), resize_mask(mask, size_hw).copy()))
        if len(self._kept) == 2 * self._count:
            self._kept = self._kept[::2]
            self._stride *= 2

    def sheet(self, labels: LabelSpace, opacity: float = 0.5) -> ImageU8:
        """The contact sheet of what was kept. Raises ValueError before the first frame."""
        wanted = min(self._count, len(self._kept))
        last = len(self._kept) - 1
        picked = [self._kept[round(place * last / max(1, wanted - 1))] for place in range(wanted)]
        return contact_sheet(
            [image for image, _ in picked], [mask for _, mask in picked], labels, opacity=opacity
        )
