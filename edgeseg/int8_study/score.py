"""What a quantized variant is worth on images: mIoU, and how far its logits and masks are from the float
model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgeseg.images import resize_mask
from edgeseg.metrics import ConfusionMatrix
from edgeseg.specs import LabelSpace, MaskU8


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """Sums over images; scores add up.

    Attributes:
        hits, predicted, true: (K,) int64, pixels with a label: of a class and found, predicted as it,
        labelled as it. signal, noise: squares of the float model's logits, and of the differences to them.
        equal, pixels: mask pixels that agree with the float model's, and all.
    """

    hits: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    signal: float
    noise: float
    equal: int
    pixels: int

    def __add__(self, other: Score) -> Score:
        return Score(
            self.hits + other.hits,
            self.predicted + other.predicted,
            self.true + other.true,
            self.signal + other.signal,
            self.noise + other.noise,
            self.equal + other.equal,
            self.pixels + other.pixels,
        )

    @property
    def miou(self) -> float:
        """Mean IoU over the classes seen or predicted, at the labels' resolution."""
        union = self.true + self.predicted - self.hits
        return float(np.mean(self.hits[union > 0] / union[union > 0]))

    @property
    def iou(self) -> list[float | None]:
        """By class; None for a class neither seen nor predicted."""
        union = self.true + self.predicted - self.hits
        return [
            float(hit / both) if both else None
            for hit, both in zip(self.hits.tolist(), union.tolist(), strict=True)
        ]

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio of the logits; inf where they are the float model's."""
        return float("inf") if self.noise == 0.0 else float(10.0 * np.log10(self.signal / self.noise))

    @property
    def agreement(self) -> float:
        """Share of mask pixels that are the float model's."""
        return self.equal / self.pixels

    def to_json(self) -> dict[str, Any]:
        return {
            "hits": self.hits.tolist(),
            "predicted": self.predicted.tolist(),
            "true": self.true.tolist(),
            "signal": self.signal,
            "noise": self.noise,
            "equal": self.equal,
            "pixels": self.pixels,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Score:
        counts = {name: np.array(data[name], np.int64) for name in ("hits", "predicted", "true")}
        return cls(**{**data, **counts})

    def figures(self) -> dict[str, float | None]:
        """For tables: mIoU, SQNR (null where there is no noise) and agreement."""
        sqnr = self.sqnr_db
        return {
            "miou": self.miou,
            "sqnr_db": sqnr if np.isfinite(sqnr) else None,
            "agreement": self.agreement,
        }


def score(logits: Tensor, float_logits: Tensor, mask: MaskU8, labels: LabelSpace) -> Score:
    """Score one image.

    Args:
        logits, float_logits: (1, K, h, w), of the mask that a program would give.
        mask: (H, W) true classes.
    """
    found, expected = (x[0].argmax(0).cpu().numpy().astype(np.uint8) for x in (logits, float_logits))
    confusion = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    confusion.update(mask, resize_mask(found, (mask.shape[0], mask.shape[1])))
    counts = confusion.counts
    return Score(
        hits=np.diag(counts).copy(),
        predicted=counts.sum(0),
        true=counts.sum(1),
        signal=float(float_logits.double().square().sum()),
        noise=float((logits.double() - float_logits.double()).square().sum()),
        equal=int((found == expected).sum()),
        pixels=found.size,
    )
