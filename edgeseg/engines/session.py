"""Base of the sessions of all runtimes: what they accept, resizing, and closing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.images import resize_image, resize_mask
from edgeseg.specs import ImageU8, MaskU8, Program

if TYPE_CHECKING:
    from typing_extensions import Self

Port = tuple[str, tuple[int, ...]]
"""Element type, as numpy names it, and shape of a graph's input or output."""


class ProgramSession(ABC):
    """An `edgeseg.contracts.Session` but for the inference itself."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._closed = False

    @abstractmethod
    def _run(self, pixels: ImageU8) -> MaskU8:
        """The class map, in any shape of `program.mask_shape`'s size, in memory of its own.

        Args:
            pixels: of shape `program.image.input_shape`, in any memory order; not to be kept.
        """

    @abstractmethod
    def _release(self) -> None:
        """Let go of the engine; called once."""

    def infer(self, image_rgb: ImageU8) -> MaskU8:
        wanted = (*self.program.image.size_hw, 3)
        if image_rgb.shape != wanted or image_rgb.dtype != np.uint8:
            raise ValueError(
                f"the image is {image_rgb.dtype} {image_rgb.shape}, the program takes uint8 {wanted}"
            )
        if self._closed:
            raise ValueError("the session is closed")
        pixels = image_rgb if self.program.image.layout == "HWC" else image_rgb.transpose(2, 0, 1)
        return self._run(pixels[np.newaxis]).reshape(self.program.mask_shape)

    def segment(self, image_rgb: ImageU8) -> MaskU8:
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
            raise ValueError(f"the image is {image_rgb.dtype} {image_rgb.shape}, not uint8 (H, W, 3)")
        mask = self.infer(resize_image(image_rgb, self.program.image.size_hw))
        return resize_mask(mask, image_rgb.shape[:2])

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def misfit(inputs: Sequence[Port], outputs: Sequence[Port], program: Program) -> str | None:
    """Describe how a graph's inputs and outputs differ from what the program says, as a clause; None where
    they fit.
    """
    wanted = [("uint8", program.image.input_shape)]
    if list(inputs) != wanted:
        return f"it takes {list(inputs)}, not {wanted}"
    found, wanted_out = (
        [(kind, tuple(side for side in shape if side != 1)) for kind, shape in ports]
        for ports in (outputs, [("uint8", program.mask_shape)])
    )
    if found != wanted_out:
        return f"it gives {found}, not {wanted_out} (sides of 1 left out)"
    return None
