"""What users do with masks: how much of a part of the picture belongs to which class, and an alarm where it
is too much.

Alarms have hysteresis: one is raised when a share has been past a limit for a while, and cleared when it has
been back past another. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import StreamError
from edgeseg.images import opencv
from edgeseg.specs import LabelSpace, MaskU8
from edgeseg.stream.watch.regions import REGION_HINT, THRESHOLD_HINT, Region, Threshold


def rasterise(points: Sequence[tuple[float, float]], size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels whose centres lie inside a polygon (even-odd rule), (H, W) bool.

    Polygons that share a side share no pixel and leave none out between them.

    Args:
        points: corners (x, y) in pixels; those outside of the picture are fine.
    """
    height, width = size_hw
    crossings = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if y0 == y1:
            continue
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # The rows whose centres lie between its ends; from the first centre right of it on, pixels are on its
        # other side.
        rows = np.arange(max(0, math.ceil(y0 - 0.5)), min(height, math.ceil(y1 - 0.5)))
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.intp)
        crossings[rows, columns] ^= 1
    inside: npt.NDArray[np.bool_] = np.bitwise_xor.accumulate(crossings, axis=1)[:, :width].astype(bool)
    return inside


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alarm that was raised or cleared, or a region that follows a frame of another size: what an event
    tells.

    `reason` is for people, `details` are plain JSON values.
    """

    reason: str
    details: Mapping[str, Any]
    kind: str = "region"


class Alarm:
    """The hysteresis of one threshold."""

    def __init__(self, threshold: Threshold) -> None:
        self.threshold = threshold
        self.raised = False
        self._since_s: float | None = None

    def update(self, share: float, at_s: float) -> bool:
        """Take the share of one frame; True where the alarm was raised or cleared by it (see `raised`).

        Args:
            at_s: time of the frame in seconds. Where time runs back, waiting begins again.
        """
        wanted = self.threshold
        if self.raised:
            there = share <= wanted.clear_at if wanted.above else share >= wanted.clear_at
        else:
            there = share > wanted.raise_at if wanted.above else share < wanted.raise_at
        if not there:
            self._since_s = None
            return False
        if self._since_s is None or at_s < self._since_s:
            self._since_s = at_s
        if at_s - self._since_s < wanted.for_s:
            return False
        self.raised, self._since_s = not self.raised, None
        return True

    def forget(self) -> None:
        """What was seen before says nothing of what follows: waiting begins again."""
        self._since_s = None


class RegionMonitor:
    """The regions and alarms of one source. One thread calls it.

    Regions follow the frame's size; those in pixels are of the first frame, and scaled with it.

    Raises:
        StreamError: two regions or two thresholds of one name, or a threshold whose region or class does not
            exist.
    """

    def __init__(
        self, regions: Sequence[Region], thresholds: Sequence[Threshold], labels: LabelSpace
    ) -> None:
        _check_distinct("region", [region.name for region in regions], REGION_HINT)
        _check_distinct("threshold", [threshold.name for threshold in thresholds], THRESHOLD_HINT)
        names = [region.name for region in regions]
        for threshold in thresholds:
            _check_known(threshold, "region", [threshold.region], names)
            _check_known(threshold, "class", threshold.classes, labels.names)
        self.regions, self.labels = tuple(regions), labels
        self._alarms = [Alarm(threshold) for threshold in thresholds]
        self._connection = 0
        self._first_hw: tuple[int, int] | None = None
        self._size_hw: tuple[int, int] | None = None
        self._areas: dict[str, _Area] = {}

    def update(
        self, mask: MaskU8, at_s: float, connection: int = 0
    ) -> tuple[dict[str, dict[str, float]], list[Crossing]]:
        """Take the mask of one frame.

        Args:
            mask: (H, W) uint8 class indices; H and W may change between frames.
            at_s: time of the frame in seconds.
            connection: of a live source, from 1. What alarms wait for must last within one: nobody knows what
                was between two. 0 for a recording.
        Returns:
            By region name, the share of its pixels by class name, classes present only; then the alarms
            raised or cleared, and what a new frame size means for a region.
        Raises:
            StreamError: a region that holds no pixel of the first frame.
        """
        crossings = (
            [] if mask.shape == self._size_hw else self._fit((mask.shape[0], mask.shape[1]), connection > 0)
        )
        if connection != self._connection:
            self._connection = connection
            for alarm in self._alarms:
                alarm.forget()
        names = self.labels.names
        measured = {name: area.shares(mask) for name, area in self._areas.items()}
        shares = {
            region: {name: round(float(share), 6) for name, share in zip(names, of, strict=False) if share}
            for region, of in measured.items()
        }
        for alarm in self._alarms:
            threshold = alarm.threshold
            of = measured.get(threshold.region)
            if of is None:
                alarm.forget()
                continue
            share = float(sum(of[names.index(name)] for name in threshold.classes))
            # Rounded, because 1 - 0.65 is a little more than 0.35.
            share = round(1.0 - share if threshold.others else share, 9)
            if alarm.update(share, at_s):
                crossings.append(_crossing(alarm, share))
        return shares, crossings

    def raised(self) -> list[str]:
        """Names of the thresholds whose alarms are raised now."""
        return [alarm.threshold.name for alarm in self._alarms if alarm.raised]

    def outlines(self, size_hw: tuple[int, int]) -> dict[str, list[tuple[float, float]]]:
        """The corners of each region in pixels of a frame of this size, for drawing."""
        self._first_hw = self._first_hw or size_hw
        return {region.name: self._corners(region, size_hw) for region in self.regions}

    def _fit(self, size_hw: tuple[int, int], is_live: bool) -> list[Crossing]:
        """Find the regions' pixels in a frame of another size. What is to be told of it: pictures of a folder
        just differ.
        """
        size, told = f"{size_hw[1]}x{size_hw[0]}", []
        corners = self.outlines(size_hw)
        areas = {name: rasterise(points, size_hw) for name, points in corners.items()}
        for region in self.regions:
            details = {"region": region.name, "size_hw": list(size_hw)}
            if not areas[region.name].any():
                said = f"region {region.name}: holds no pixel of a frame of {size}"
                if self._size_hw is None:
                    raise StreamError(said, hint=_misfit_hint(region))
                told.append(Crossing(f"{said}, and is not measured", details, "resized"))
            elif region.in_pixels and is_live and self._size_hw is not None and self._first_hw is not None:
                first = f"{self._first_hw[1]}x{self._first_hw[0]}"
                told.append(
                    Crossing(f"region {region.name}: drawn on {first}, scaled to {size}", details, "resized")
                )
            elif self._size_hw is None and any(
                x > size_hw[1] + 1 or y > size_hw[0] + 1 for x, y in corners[region.name]
            ):
                told.append(
                    Crossing(
                        f"region {region.name}: is cut where it reaches beyond {size}", details, "resized"
                    )
                )
        self._areas = {name: _Area(inside) for name, inside in areas.items() if inside.any()}
        self._size_hw = size_hw
        return told

    def _corners(self, region: Region, size_hw: tuple[int, int]) -> list[tuple[float, float]]:
        height, width = size_hw
        first_h, first_w = (self._first_hw or size_hw) if region.in_pixels else (1, 1)
        return [(x * width / first_w, y * height / first_h) for x, y in region.points]


class _Area:
    """The pixels of a region, cut to the smallest rectangle around them."""

    def __init__(self, inside: npt.NDArray[np.bool_]) -> None:
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        self._window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        self._inside = inside[self._window].astype(np.uint8)
        self._pixels = int(self._inside.sum())

    def shares(self, mask: MaskU8) -> npt.NDArray[np.float64]:
        """Share of the area's pixels of each value, shape (256,)."""
        cv2, counts = opencv(), np.zeros(256)
        window = mask[self._window]
        # OpenCV counts in float32: exact up to 2**24 pixels.
        parts = -(-window.size // 2**24)
        for values, inside in zip(
            np.array_split(window, parts), np.array_split(self._inside, parts), strict=True
        ):
            counts += cv2.calcHist([values], [0], inside, [256], [0, 256]).ravel()
        shares: npt.NDArray[np.float64] = counts / self._pixels
        return shares


def _crossing(alarm: Alarm, share: float) -> Crossing:
    threshold = alarm.threshold
    text = f"{threshold.region}: {threshold.name} {100 * share:.0f} %" + (
        "" if alarm.raised else ", no longer"
    )
    return Crossing(
        text,
        {
            "threshold": threshold.name,
            "region": threshold.region,
            "classes": [f"!{name}" if threshold.others else name for name in threshold.classes],
            "raised": alarm.raised,
            "share": round(share, 6),
            "limit": threshold.raise_at if alarm.raised else threshold.clear_at,
        },
    )


def _misfit_hint(region: Region) -> str:
    name = region.name
    if not region.in_pixels:
        return f"draw it larger, or for another source alone: --region 'SOURCE:{name}=...'"
    return (
        f"say what picture its pixels are of, --region '{name}@1920x1080=...', or whose they are, --region"
        f" 'SOURCE:{name}=...'"
    )


def _check_distinct(kind: str, names: Sequence[str], hint: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise StreamError(f"two {kind}s are called {name}", hint=hint)


def _check_known(threshold: Threshold, kind: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            raise StreamError(
                f"threshold {threshold.name}: no {kind} is called {name}",
                hint=f"there are: {', '.join(known) or 'none'}",
            )
