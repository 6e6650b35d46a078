"""What picture sinks show of a frame and its mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.images import colour_mask, overlay, square_pixels
from edgeseg.results import Result
from edgeseg.specs import ImageU8, LabelSpace, MaskU8
from edgeseg.stream.sinks.options import choice

_Draw = Callable[[ImageU8, MaskU8, LabelSpace, float], ImageU8]


def _side_by_side(image_rgb: ImageU8, mask: MaskU8, labels: LabelSpace, opacity: float) -> ImageU8:
    return np.concatenate([image_rgb, overlay(image_rgb, mask, labels, opacity)], axis=1)


VIEWS: Mapping[str, _Draw] = {
    "overlay": overlay,
    "side": _side_by_side,
    "mask": lambda image_rgb, mask, labels, opacity: colour_mask(mask, labels),
    "frame": lambda image_rgb, mask, labels, opacity: image_rgb,
}
"""By name: class colours over the frame, the frame beside that, the colours alone, the frame alone."""
VIEW = {"view": choice(*VIEWS)}
"""The option that sinks of pictures take."""


@dataclass(frozen=True, slots=True)
class View:
    """One way to show a frame.

    Attributes:
        name: a key of VIEWS.
        opacity: share of the class colour in overlays, 0..1.
    """

    name: str = "overlay"
    opacity: float = 0.5

    def size_hw(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of what is shown for a frame of `frame_hw`."""
        height, width = frame_hw
        return height, 2 * width if self.name == "side" else width

    def show(self, result: Result) -> ImageU8:
        """The picture for eyes that cannot be told the shape of its pixels: these are made square."""
        return square_pixels(self.draw(result), result.frame.pixel_aspect)

    def draw(self, result: Result) -> ImageU8:
        """The picture as it is stored, (H, W, 3) uint8 RGB; not to be written to, for it may be the frame
        itself.
        """
        return VIEWS[self.name](result.frame.image_rgb, result.mask, result.labels, self.opacity)


def view_of(options: Mapping[str, Any], opacity: float) -> View:
    """Return the view that a sink's options ask for; an overlay where they ask for none."""
    return View(options.get("view", "overlay"), opacity)
