"""Training-only supervision of class regions.

RSSeg (arXiv 2212.13764) says in its abstract that its cross-attention learns "through novel auxiliary
supervisions"; which ones was not available to us. The three terms and their weights are this project's
definition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.segmentor import Losses


class RegionLosses(nn.Module):
    """What class scores and region representations should be, as losses; no part of a deployed model.

    loss_mask: cross-entropy of the scores as a segmentation of their own.
    loss_region: cross-entropy of a linear classifier on each region's representation, which should tell its
        class.
    loss_separation: mean over pairs of classes of relu(cosine of their regions).

    Labels are those at the centres of the scores' cells. Ignored cells and classes that are absent from an
    image do not count, and an image without any label adds zero. Each loss is a mean over images, see
    `Decoder.forward_train`.

    Args:
        channels: width of the regions.
        mask_weight, region_weight, separation_weight: factors; 0 leaves a term out, its classifier with it.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        mask_weight: float,
        region_weight: float,
        separation_weight: float,
    ) -> None:
        super().__init__()
        self.mask_weight, self.region_weight, self.separation_weight = (
            mask_weight,
            region_weight,
            separation_weight,
        )
        if min(mask_weight, region_weight, separation_weight) < 0:
            raise ValueError(
                f"loss weights {mask_weight}, {region_weight}, {separation_weight} must not be negative"
            )
        self.classifier = nn.Linear(channels, num_classes) if region_weight > 0 else None

    def forward(self, scores: Tensor, regions: Tensor, mask: Tensor, ignore_index: int) -> Losses:
        """Losses by name, in float32 whatever autocast says.

        Args:
            scores: (B, K, h, w).
            regions: (B, K, C).
            mask: (B, H, W) class indices or `ignore_index`; H and W are the same multiple of h and w.
        """
        with torch.autocast(scores.device.type, enabled=False):
            return self._losses(scores.float(), regions.float(), mask, ignore_index)

    def _losses(self, scores: Tensor, regions: Tensor, mask: Tensor, ignore_index: int) -> Losses:
        step = mask.shape[1] // scores.shape[2]
        labels = mask[:, step // 2 :: step, step // 2 :: step].long()  # (B, h, w)
        losses: Losses = {}
        if self.mask_weight > 0:
            each = F.cross_entropy(scores, labels, ignore_index=ignore_index, reduction="none")
            losses["loss_mask"] = self.mask_weight * _mean_where(each, labels != ignore_index)
        present = _present(labels, scores.shape[1], ignore_index)  # (B, K)
        if self.classifier is not None:
            own = torch.arange(scores.shape[1], device=scores.device).expand(present.shape)
            told = self.classifier(regions).transpose(1, 2)  # (B, classes told, K regions)
            losses["loss_region"] = self.region_weight * _mean_where(
                F.cross_entropy(told, own, reduction="none"), present
            )
        if self.separation_weight > 0:
            unit = F.normalize(regions, dim=2)
            excess = F.relu(unit @ unit.transpose(1, 2))  # (B, K, K)
            pairs = (present[:, :, None] & present[:, None, :]).triu(1)
            losses["loss_separation"] = self.separation_weight * _mean_where(excess, pairs)
        return losses


def _present(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Labels (B, h, w) -> (B, K) whether the class occurs in the image."""
    bins = torch.where(labels == ignore_index, num_classes, labels).flatten(1)
    return (
        torch.zeros(len(labels), num_classes + 1, device=labels.device).scatter_(1, bins, 1.0)[
            :, :num_classes
        ]
        > 0
    )


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over images of each image's mean over its counted values; an image that counts none adds zero."""
    values, counted = values.flatten(1), counted.flatten(1)
    return ((values * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
