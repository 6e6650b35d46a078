"""Golden frames: images with the reference model's class maps, by which a device checks its engine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeseg.errors import GateFailed
from edgeseg.images import opencv
from edgeseg.specs import ImageU8, MaskU8, Precision, Program


class GoldenFrame(NamedTuple):
    """An image (H, W, 3) uint8 RGB at the program's size, and the reference class map at its mask size, for
    one program.
    """

    name: str
    image_rgb: ImageU8
    mask: MaskU8
    level: int = 0
    precision: Precision = "float"


def check_gate(what: str, agreement: Mapping[str, float], minimum: float, *, hint: str) -> None:
    """Raise GateFailed, with the figures, where an engine agrees with the reference model on less than
    `minimum` of any frame.
    """
    if agreement and min(agreement.values()) < minimum:
        figures = ", ".join(f"{name} {share:.4f}" for name, share in agreement.items())
        raise GateFailed(
            f"{what}: mask agreement below gate.min_mask_agreement {minimum}: {figures}",
            hint=hint,
            report={"mask_agreement": dict(agreement), "min_mask_agreement": minimum},
        )


def check_golden(frames: Sequence[GoldenFrame], programs: Mapping[tuple[int, Precision], Program]) -> None:
    """Raise ValueError where frames do not fit their programs, by level and precision, or where a program has
    none.
    """
    seen: set[tuple[int, Precision, str]] = set()
    images: dict[str, ImageU8] = {}
    for frame in frames:
        program = programs.get((frame.level, frame.precision))
        if program is None:
            raise ValueError(
                f"golden frame {frame.name}: there is no {frame.precision} program at level {frame.level}"
            )
        key = (frame.level, frame.precision, frame.name)
        if not re.fullmatch(r"[\w-][\w.-]*", frame.name) or key in seen:
            raise ValueError(f"golden frame {frame.name!r}: names are distinct plain file stems")
        seen.add(key)
        if not np.array_equal(images.setdefault(frame.name, frame.image_rgb), frame.image_rgb):
            raise ValueError(f"golden frame {frame.name}: programs show different images under one name")
        for what, array, shape in (
            ("image", frame.image_rgb, (*program.image.size_hw, 3)),
            ("mask", frame.mask, program.mask_shape),
        ):
            if array.shape != shape or array.dtype != np.uint8:
                raise ValueError(
                    f"golden frame {frame.name}: the {what} is {array.dtype} {array.shape}, not uint8 {shape}"
                )
    if {(level, precision) for level, precision, _ in seen} != set(programs):
        raise ValueError("every program needs a golden frame")


def png(image_bgr: ImageU8 | MaskU8) -> bytes:
    """A PNG file of a colour image (H, W, 3), blue first as OpenCV has it, or of a class map (H, W)."""
    ok, data = opencv().imencode(".png", np.ascontiguousarray(image_bgr))
    if not ok:
        raise ValueError(f"no PNG can be made of an array of shape {image_bgr.shape}")
    return bytes(data)
