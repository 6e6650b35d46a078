"""What every model is: an encoder, a decoder, and what both must say of themselves.

A new encoder or decoder is one class with the attributes below, a row in `parts.py` and its facts in
`recipe.parts`; or all of it in a package of its own. Exact rewrites for export are registered for its class
(`rewrite.rewrites.rewritten`); what quantization must know its modules say (`Segmentor.quant_hints`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from edgeseg.models.layers import Product
from edgeseg.specs import ImageSpec, IsrPlan, Layout, QuantHints

RGB = tuple[float, float, float]
Losses = dict[str, Tensor]
"""Weighted scalar losses by name."""
IMAGENET_MEAN_RGB: RGB = (123.675, 116.28, 103.53)
IMAGENET_STD_RGB: RGB = (58.395, 57.12, 57.375)


class ReducedAttention(Protocol):
    """An attention whose keys and values are pooled by `ratio`, as trained, times `multiplier`, as ISR
    chooses.
    """

    ratio: int
    multiplier: int


class Part(nn.Module):
    """What encoders and decoders share. ISR reaches `attention`, by stage; a part without ISR leaves it
    empty.
    """

    attention_strides: tuple[int, ...] = ()
    """Stride of the maps that each stage of `attention` works on, fine to coarse."""

    def attention(self) -> list[list[ReducedAttention]]:
        """Attention modules whose pooling ISR may raise, by stage."""
        return []


class Encoder(Part):
    """Image (B, 3, H, W), normalised -> maps (B, C_i, H / s_i, W / s_i), fine to coarse.

    Attributes:
        channels, strides: of the maps.
        mean_rgb, std_rgb: normalisation that the weights expect, on the 0..255 scale; it travels with the
        encoder into
            training, evaluation and export.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = (4, 8, 16, 32)
    mean_rgb: RGB = IMAGENET_MEAN_RGB
    std_rgb: RGB = IMAGENET_STD_RGB


class Decoder(Part):
    """The encoder's maps -> logits (B, num_classes, H / output_stride, W / output_stride)."""

    num_classes: int
    output_stride: int

    def forward_train(
        self, feats: Sequence[Tensor], mask: Tensor, ignore_index: int
    ) -> tuple[Tensor, Losses]:
        """Logits, and the losses that this decoder adds to the pixel cross-entropy in training; most add
        none.

        Each loss is weighted, and a mean over the images of the batch in which every image counts the same.
        Their mean over micro-batches and processes of one size is then the loss of the joint batch.

        Args:
            mask: (B, H, W) class indices, or `ignore_index`.
        """
        return self(feats), {}


class Segmentor(nn.Module):
    """Encoder and decoder. `forward`: image (B, 3, H, W), normalised -> logits (B, K, H / stride, W /
    stride).

    In training, `forward(image, mask)` gives (logits, auxiliary losses by name), see `Decoder.forward_train`.
    They come out of `forward` because that is all that DistributedDataParallel sees of a model. In evaluation
    a mask changes nothing.

    H and W must be multiples of `size_multiple_px`: that of the deepest map at the base plan, more under ISR.
    Anything else is a ValueError, in training as in export; a deployed program has one fixed size, and frames
    are resized to it.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(
        self, image: Tensor, mask: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor | tuple[Tensor, Losses]:
        self.check_size((int(image.shape[2]), int(image.shape[3])))
        feats = self.encoder(image)
        if self.training and mask is not None:
            return self.decoder.forward_train(feats, mask, ignore_index)
        logits: Tensor = self.decoder(feats)
        return logits

    @property
    def num_classes(self) -> int:
        return self.decoder.num_classes

    @property
    def output_stride(self) -> int:
        return self.decoder.output_stride

    def image_spec(self, size_hw: tuple[int, int], layout: Layout = "HWC") -> ImageSpec:
        """The image that this model takes, at the plan in force. Raises ValueError for a size that it does
        not take.
        """
        self.check_size(size_hw)
        return ImageSpec(size_hw, self.encoder.mean_rgb, self.encoder.std_rgb, layout, self.size_multiple_px)

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raises ValueError where the sides are not multiples of `size_multiple_px`."""
        multiple = self.size_multiple_px
        height, width = size_hw
        if height <= 0 or width <= 0 or height % multiple or width % multiple:
            raise ValueError(
                f"{height}x{width} px is not a multiple of {multiple} px on both sides, at the ISR plan in"
                " force"
            )

    def quant_hints(self) -> QuantHints:
        """What must be known to quantize this model, in the form that it has now.

        Any module inside may say `keep_float`, a mapping from the names of its layers to the reason that they
        stay float, and `round_outputs`, the names of its layers whose output is rounded as well.
        """
        modules = dict(self.named_modules())
        firsts = [
            name
            for name, layer in modules.items()
            if isinstance(layer, nn.Conv2d) and _sees_image(name, layer)
        ]
        return QuantHints(
            products=tuple(name for name, module in modules.items() if isinstance(module, Product)),
            keep_float=tuple(
                (f"{name}.{layer}", reason)
                for name, module in modules.items()
                for layer, reason in getattr(module, "keep_float", {}).items()
            ),
            outputs=tuple(
                f"{name}.{layer}"
                for name, module in modules.items()
                for layer in getattr(module, "round_outputs", ())
            ),
            first=firsts[0] if len(firsts) == 1 else None,
            classifier="decoder.classifier" if "decoder.classifier" in modules else None,
        )

    @property
    def size_multiple_px(self) -> int:
        """Image sides must be multiples of this, at the plan in force."""
        windows = [
            stride * stage[0].ratio * stage[0].multiplier
            for part in (self.encoder, self.decoder)
            for stage, stride in zip(part.attention(), part.attention_strides, strict=True)
        ]
        return math.lcm(self.encoder.strides[-1], *windows)

    @property
    def isr_plan(self) -> IsrPlan:
        """The plan in force; a part without ISR has no multipliers."""
        return IsrPlan(
            *(
                tuple(stage[0].multiplier for stage in part.attention())
                for part in (self.encoder, self.decoder)
            )
        )

    def set_isr(self, plan: IsrPlan) -> None:
        """Put a plan in force. No weight changes. Raises ValueError where the plan has another number of
        stages.
        """
        parts = (
            (self.encoder.attention(), plan.encoder, "encoder"),
            (self.decoder.attention(), plan.decoder, "decoder"),
        )
        for stages, multipliers, name in parts:  # before anything changes
            if len(stages) != len(multipliers):
                raise ValueError(
                    f"the plan {plan} has {len(multipliers)} {name} multipliers; this model has {len(stages)}"
                )
        for stages, multipliers, _ in parts:
            for stage, multiplier in zip(stages, multipliers, strict=True):
                for attention in stage:
                    attention.multiplier = multiplier

    def isr_choices(self, size_hw: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        """Legal multipliers of each encoder stage, then of each decoder stage, for an image of this size.

        Legal is what pools the map without a remainder. Empty for a model without ISR.
        """
        choices = []
        for part in (self.encoder, self.decoder):
            for stage, stride in zip(part.attention(), part.attention_strides, strict=True):
                height, width = (side // stride // stage[0].ratio for side in size_hw)
                limit = math.gcd(height, width)
                choices.append(tuple(m for m in range(1, limit + 1) if limit % m == 0))
        return tuple(choices)


def _sees_image(name: str, conv: nn.Conv2d) -> bool:
    return name.startswith("encoder.") and conv.in_channels == 3 and conv.groups == 1
