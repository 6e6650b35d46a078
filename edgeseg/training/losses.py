"""Pixel losses, as sums with their counts: exact over processes and accumulated micro-batches; and
distillation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy:
    """Pixel cross-entropy with ignored labels, optional class weights and optional hard-example mining.

    Args:
        ignore_index: label that does not count.
        ohem_keep: keep this share of the labelled pixels of a micro-batch, the ones with the highest loss;
            None keeps all.
        class_weights: factor of each class on its pixels' losses, shape (K,).
    """

    ignore_index: int
    ohem_keep: float | None = None
    class_weights: Tensor | None = None

    def count(self, mask: Tensor) -> int:
        """Pixels of a mask batch that `total` will add up."""
        valid = int((mask != self.ignore_index).sum())
        return valid if self.ohem_keep is None else math.ceil(valid * self.ohem_keep)

    def total(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Sum of the counted pixel losses.

        Args:
            logits: (B, K, h, w), any stride; resized (bilinear) to the mask's size.
            mask: (B, H, W) class indices.
        """
        resized = F.interpolate(logits.float(), size=mask.shape[1:], mode="bilinear", align_corners=False)
        losses = F.cross_entropy(
            resized, mask.long(), weight=self.class_weights, ignore_index=self.ignore_index, reduction="none"
        )
        if self.ohem_keep is not None:
            losses = losses[mask != self.ignore_index].topk(self.count(mask), sorted=False).values
        return losses.sum()


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distance of class probabilities to a teacher's: T^2 KL(teacher || model), a mean over pixels (float32).

    T^2 keeps the size of its gradient what it is at T = 1. No label is needed, so unlabelled pixels teach as
    well.

    Args:
        logits, teacher: (B, K, h, w), at one stride.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531), section 2.
    """
    ours, theirs = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, teacher))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)  # (B, h, w)
    return divergence.mean() * temperature**2
