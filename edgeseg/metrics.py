"""Segmentation metrics on numpy arrays. Ratios are fractions; absent classes are NaN and leave the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.specs import MaskU8

FloatArray = npt.NDArray[np.float64]


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of masks; data-set-level metrics from them.

    Args:
        num_classes: K; predictions must lie in 0..K-1.
        ignore_index: true label that is not counted.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, true: MaskU8, predicted: MaskU8) -> None:
        """Add one pair of class maps of equal shape, integer dtype.

        Raises:
            ValueError: shapes differ, or a counted value is no class.
        """
        if true.shape != predicted.shape:
            raise ValueError(f"label {true.shape} and prediction {predicted.shape} differ in shape")
        valid = true != self.ignore_index
        t, p = true[valid].astype(np.int64), predicted[valid].astype(np.int64)
        for name, values in (("label", t), ("prediction", p)):
            if values.size and (values.min() < 0 or values.max() >= self.num_classes):
                raise ValueError(
                    f"{name} value {int(values.max())} is not one of the {self.num_classes} classes"
                )
        pairs = np.bincount(t * self.num_classes + p, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        self.counts += other.counts
        return self

    def iou(self) -> FloatArray:
        """Intersection over union of each class, shape (K,); NaN for a class neither present nor
        predicted.
        """
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        iou: FloatArray = np.divide(hit, union, out=np.full(self.num_classes, np.nan), where=union > 0)
        return iou

    def miou(self) -> float:
        """Mean IoU over the classes seen; NaN where nothing was counted."""
        iou = self.iou()
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right; NaN where nothing was counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """JSON-ready: mIoU, pixel accuracy, IoU and true-pixel share by class (null for absent classes)."""
        iou, share = self.iou(), self.counts.sum(1) / max(1, int(self.counts.sum()))
        return {
            "miou": _number(self.miou()),
            "pixel_accuracy": _number(self.pixel_accuracy()),
            "classes": {
                name: {"iou": _number(value), "pixel_share": float(s)}
                for name, value, s in zip(names, iou, share, strict=True)
            },
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def mask_agreement(a: MaskU8, b: MaskU8) -> float:
    """Share of equal pixels of two class maps of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"masks of shape {a.shape} and {b.shape} cannot be compared")
    return float(np.mean(a == b))


def sqnr_db(reference: npt.NDArray[Any], approximation: npt.NDArray[Any]) -> float:
    """Signal to quantization noise ratio in dB; inf where both are equal, -inf for a zero reference."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(reference, approximation, dtype=np.float64)).sum())
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def _boundary(mask: MaskU8) -> npt.NDArray[np.bool_]:
    """Pixels with a right or lower neighbour of another class."""
    edge = np.zeros(mask.shape, np.bool_)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1, :] |= mask[:-1, :] != mask[1:, :]
    return edge


def _dilate(region: npt.NDArray[np.bool_], radius_px: int) -> npt.NDArray[np.bool_]:
    """Dilation by a (2 r + 1) square, as two one-dimensional passes."""
    out: npt.NDArray[np.bool_] = region.copy()
    for axis in (0, 1):
        source = out.copy()
        for shift in range(1, min(radius_px, region.shape[axis] - 1) + 1):
            ahead = [slice(None)] * 2
            behind = [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            out[tuple(ahead)] |= source[tuple(behind)]
            out[tuple(behind)] |= source[tuple(ahead)]
    return out


def boundary_f1(true: MaskU8, predicted: MaskU8, tolerance_px: int = 2, ignore_index: int = 255) -> float:
    """F1 of class boundaries, matched within `tolerance_px` (square window); 1.0 where neither mask has a
    boundary.

    Pixels within the tolerance of an ignored label are not judged.

    Source: Csurka et al., What is a good evaluation measure for semantic segmentation? (BMVC 2013), over all
        classes jointly.
    """
    if true.shape != predicted.shape:
        raise ValueError(f"label {true.shape} and prediction {predicted.shape} differ in shape")
    judged = ~_dilate(true == ignore_index, tolerance_px + 1)
    t, p = _boundary(true) & judged, _boundary(predicted) & judged
    if not t.any() and not p.any():
        return 1.0
    if not t.any() or not p.any():
        return 0.0
    precision = (p & _dilate(t, tolerance_px)).sum() / p.sum()
    recall = (t & _dilate(p, tolerance_px)).sum() / t.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


@dataclass(frozen=True)
class OverSmoothness:
    """Mean cosines between the features of one map, each in -1..1, NaN where there is no such pair.

    Features grow alike as a transformer gets deeper. Separation lowers `overall` and `between`, and `within`
    hardly.

    Attributes:
        overall: over all pairs of positions.
        local: over all pairs of positions and one of their (up to eight) neighbours.
        within, between: over all pairs of labelled positions of one class, and of two classes.
    """

    overall: float
    local: float
    within: float
    between: float


def over_smoothness(
    features: npt.NDArray[Any], mask: MaskU8 | None = None, ignore_index: int = 255
) -> OverSmoothness:
    """How alike the features of a map are. Linear in the number of positions: sums over pairs are products of
    sums.

    Args:
        features: (C, H, W); a zero vector has cosine 0 to all others.
        mask: (H, W) classes of the positions, for `within` and `between`; None leaves both NaN.
    Raises:
        ValueError: mask and map differ in size.
    """
    if mask is not None and mask.shape != features.shape[1:]:
        raise ValueError(f"a mask {mask.shape} does not label a map {features.shape[1:]}")
    norm = np.linalg.norm(features.astype(np.float64), axis=0)
    unit = np.divide(features, norm, out=np.zeros(features.shape), where=norm > 0)
    overall = _pair_sum(unit.reshape(len(unit), -1))
    within, labelled = np.zeros(2), np.zeros(2)
    if mask is not None:
        within = sum(
            (_pair_sum(unit[:, mask == k]) for k in np.unique(mask[mask != ignore_index])), start=within
        )
        labelled = _pair_sum(unit[:, mask != ignore_index])
    return OverSmoothness(
        _ratio(overall), _ratio(_neighbour_sum(unit)), _ratio(within), _ratio(labelled - within)
    )


def _pair_sum(unit: FloatArray) -> FloatArray:
    """Sum of cosines over all ordered pairs of different columns of (C, N), and the number of such pairs."""
    total, n = unit.sum(1), unit.shape[1]
    return np.array([total @ total - np.square(unit).sum(), n * (n - 1)])


def _neighbour_sum(unit: FloatArray) -> FloatArray:
    """Sum of cosines over all pairs of neighbours in (C, H, W), diagonal ones too, and the number of such
    pairs.
    """
    sides = (
        (unit[:, :, 1:], unit[:, :, :-1]),
        (unit[:, 1:], unit[:, :-1]),
        (unit[:, 1:, 1:], unit[:, :-1, :-1]),
        (unit[:, 1:, :-1], unit[:, :-1, 1:]),
    )
    return np.array([sum(float((a * b).sum()) for a, b in sides), sum(a[0].size for a, _ in sides)])


def _ratio(sum_and_count: FloatArray) -> float:
    total, count = sum_and_count
    return float(total / count) if count else float("nan")
