"""Exact rewrites of the representation-separation decoder: what no image changes is computed beforehand."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from edgeseg.models.layers import Product
from edgeseg.models.repsep import DiscriminativeCrossAttention, RepSepDecoder
from edgeseg.models.segmentor import Decoder
from edgeseg.rewrite.rewrites import Choices, linear, pointwise, rewritten


@rewritten.register
def simplify_repsep(decoder: RepSepDecoder, choices: Choices) -> Decoder:
    """Rewrite the decoder in place; what only training needs is left out."""
    decoder.region_losses = None
    if isinstance(decoder.dca, DiscriminativeCrossAttention):
        decoder.add_module("dca", ConstantQueries(decoder.dca))
    return decoder


class ConstantQueries(nn.Module):
    """Discriminative cross-attention with its queries worked out: (B, C, H, W) -> the refined map alone, in a
    tuple.

    The classes' queries do not depend on the image: with the key projection, they are a 1x1 convolution. The
    projections of values and outputs are linear and follow each other: they are one.
    """

    keep_float: ClassVar = {
        "gathered": "its softmax runs over all pixels: most weights would be less than one step of INT8"
    }

    def __init__(self, attention: DiscriminativeCrossAttention) -> None:
        super().__init__()
        query = attention.query(attention.queries) * attention.scale  # (K, C)
        self.scores = pointwise(query @ attention.key.weight, query @ attention.key.bias)
        out = attention.out
        self.regions = linear(
            out.weight @ attention.value.weight, out.weight @ attention.value.bias + out.bias
        )
        self.gathered, self.handed_back = Product(), Product()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        batch, channels, height, width = (int(side) for side in x.shape)
        scores = self.scores(x).reshape(batch, -1, height * width)  # (B, K, N)
        pixels = x.reshape(batch, channels, height * width)
        gathered = self.gathered(scores.softmax(2), pixels.transpose(1, 2))  # (B, K, C)
        refined = self.handed_back(self.regions(gathered).transpose(1, 2), scores.softmax(1))  # (B, C, N)
        return (x + refined.reshape(batch, channels, height, width),)
