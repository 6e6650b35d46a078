"""What a stream or a call gives for one picture: the mask, what is in it, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.files import Target
from edgeseg.images import encode_png, opencv, overlay, square_pixels
from edgeseg.specs import Frame, ImageU8, LabelSpace, MaskU8

_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that can be saved, and that shows itself in a notebook.

    Attributes:
        image_rgb: (H, W, 3) uint8 RGB.
    """

    image_rgb: ImageU8

    def save(self, path: str | Path) -> Path:
        """Write it as PNG or JPEG, by the suffix; the file is whole or not there. Returns its path.

        Raises:
            DataError: another suffix, or the place cannot be written.
        """
        place = Path(path)
        suffix = place.suffix.lower()
        if suffix not in _SUFFIXES:
            raise DataError(f"{place}: a picture is saved as .png or .jpg", hint=f"{place.stem or 'out'}.png")
        data = encode_png(self.image_rgb) if suffix == ".png" else _jpeg(self.image_rgb)
        Target(place, DataError).write(data)
        return place

    def __repr__(self) -> str:
        height, width = self.image_rgb.shape[:2]
        return f"<Picture {width}x{height}>"

    def _repr_png_(self) -> bytes:
        return encode_png(self.image_rgb)


@dataclass(frozen=True)
class Result:
    """One picture, segmented.

    Attributes:
        frame: the picture as it came.
        mask: (H, W) uint8 class indices, of the frame's size.
        labels: names and colours of the classes.
        share: share of the frame's pixels, 0..1, by class name; every class has one.
        time_s: presentation time of the frame in seconds; None for pictures without a rate.
        infer_ms, latency_ms: what the engine took; and with resizing and what follows, without waiting.
        age_ms: from the frame's arrival to the finished mask, waiting included.
        level, level_reason: the bundle's level that computed it, and why that one.
        regions: region -> class -> share of the region's pixels; of the regions that are watched.
    """

    frame: Frame
    mask: MaskU8
    labels: LabelSpace
    share: Mapping[str, float]
    time_s: float | None = None
    infer_ms: float = 0.0
    latency_ms: float = 0.0
    age_ms: float = 0.0
    level: int = 0
    level_reason: str = "fixed"
    regions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the frame came from, without credentials."""
        return self.frame.source_id

    @property
    def index(self) -> int:
        """Position of the frame in its source, from 0."""
        return self.frame.index

    def overlay(self, opacity: float = 0.5) -> Picture:
        """The frame under the colours of its classes, with square pixels; `opacity` is the colours' share."""
        drawn = overlay(self.frame.image_rgb, self.mask, self.labels, opacity)
        return Picture(square_pixels(drawn, self.frame.pixel_aspect))

    def to_json(self) -> dict[str, Any]:
        """The result's record, plain JSON values: what NDJSON files, MQTT and the live page hold."""
        return self._record

    @cached_property
    def _record(self) -> dict[str, Any]:
        frame = self.frame
        return {
            "index": frame.index,
            "pts_s": None if self.time_s is None else round(self.time_s, 6),
            "source": frame.source_id,
            "name": frame.name,
            "class_share": {name: round(share, 6) for name, share in self.share.items() if share},
            **({"regions": self.regions} if self.regions else {}),
            "infer_ms": round(self.infer_ms, 3),
            "latency_ms": round(self.latency_ms, 3),
            "age_ms": round(self.age_ms, 3),
            **({"pixel_aspect": round(frame.pixel_aspect, 6)} if frame.pixel_aspect != 1 else {}),
            **({"damaged": True} if frame.damaged else {}),
            "level": self.level,
            "level_reason": self.level_reason,
        }

    def __repr__(self) -> str:
        height, width = self.mask.shape
        largest = sorted(self.share.items(), key=lambda one: -one[1])[:3]
        found = ", ".join(f"{name} {100 * share:.0f} %" for name, share in largest if share)
        what = self.frame.name or f"{self.source} frame {self.index}"
        return f"<Result {what}: {width}x{height}, {found}, {self.latency_ms:.1f} ms>"

    def _repr_png_(self) -> bytes:
        return self.overlay()._repr_png_()


def value_shares(mask: MaskU8) -> npt.NDArray[np.float64]:
    """Share of a mask's pixels of each value, shape (256,)."""
    cv2 = opencv()
    # OpenCV's histogram is fast, but counts in float32: exact up to 2**24 pixels.
    counts = np.zeros(256)
    for part in np.array_split(mask, -(-mask.size // 2**24)):
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel()
    shares: npt.NDArray[np.float64] = counts / mask.size
    return shares


def class_shares(shares: npt.NDArray[np.float64], labels: LabelSpace) -> dict[str, float]:
    """Shares by class name, of shares by mask value."""
    return {name: float(share) for name, share in zip(labels.names, shares, strict=False)}


def _jpeg(image_rgb: ImageU8) -> bytes:
    cv2 = opencv()
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
