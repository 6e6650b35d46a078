"""Joint augmentation of image and label. Every draw comes from (seed, epoch, index), so neither the number of
workers nor processes, nor a resume in the middle of an epoch, changes a sample.

Order and defaults: EDAFormer's training pipeline (mmseg 0.13): rescale, crop with class balance, flip,
photometric, pad.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.images import opencv, resize_image, resize_mask
from edgeseg.recipe.schema import Augment
from edgeseg.specs import ImageU8, MaskU8

_CROP_TRIES = 10


def fit_scale(size_hw: tuple[int, int], base_hw: tuple[int, int] | None) -> float:
    """Factor that brings an image into `base_hw`, aspect kept and orientation free; 1.0 where there is no
    base.
    """
    if base_hw is None:
        return 1.0
    return min(max(base_hw) / max(size_hw), min(base_hw) / min(size_hw))


@dataclass(frozen=True)
class TrainTransform:
    """Callable: (image, mask, epoch, index) -> (crop, mask crop), both uint8 of size `augment.crop_hw`.

    Args:
        augment: the recipe's section.
        pad_rgb: colour of padding, the mean of the normalisation, so that padding is zero to the network.
        ignore_index: label of padding.
        seed: the recipe's seed.
    """

    augment: Augment
    pad_rgb: tuple[float, float, float]
    ignore_index: int
    seed: int

    def __call__(self, image_rgb: ImageU8, mask: MaskU8, epoch: int, index: int) -> tuple[ImageU8, MaskU8]:
        rng = np.random.default_rng((self.seed, epoch, index))
        image_rgb, mask = self._rescale(image_rgb, mask, rng)
        image_rgb, mask = self._crop(image_rgb, mask, rng)
        if rng.random() < self.augment.flip:
            image_rgb, mask = image_rgb[:, ::-1], mask[:, ::-1]
        image_rgb = self._photometric(np.ascontiguousarray(image_rgb), rng)
        return self._pad(image_rgb, np.ascontiguousarray(mask))

    def _rescale(self, image_rgb: ImageU8, mask: MaskU8, rng: np.random.Generator) -> tuple[ImageU8, MaskU8]:
        height, width = mask.shape
        scale = fit_scale((height, width), self.augment.base_hw) * rng.uniform(*self.augment.scale_range)
        size_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
        return resize_image(image_rgb, size_hw), resize_mask(mask, size_hw)

    def _crop(self, image_rgb: ImageU8, mask: MaskU8, rng: np.random.Generator) -> tuple[ImageU8, MaskU8]:
        """A window in which no class owns more than `max_class_share` of the labelled pixels, if ten tries
        find one.
        """
        height, width = mask.shape
        crop_h, crop_w = self.augment.crop_hw
        window = (slice(0), slice(0))
        for _ in range(_CROP_TRIES):
            top = int(rng.integers(max(0, height - crop_h) + 1))
            left = int(rng.integers(max(0, width - crop_w) + 1))
            window = (slice(top, top + crop_h), slice(left, left + crop_w))
            counts = np.bincount(mask[window].ravel(), minlength=256)
            counts[self.ignore_index] = 0
            if np.count_nonzero(counts) > 1 and counts.max() < self.augment.max_class_share * counts.sum():
                break
        return image_rgb[window], mask[window]

    def _photometric(self, image_rgb: ImageU8, rng: np.random.Generator) -> ImageU8:
        """Brightness, contrast, saturation and hue, each with probability one half; contrast before or after
        colour.
        """
        a = self.augment
        brightness, contrast_draw, saturation_draw, hue_draw, contrast_first = rng.random(5) < 0.5
        shift = rng.uniform(-a.brightness, a.brightness) if brightness else 0.0
        contrast = rng.uniform(*a.contrast) if contrast_draw else 1.0
        saturation = rng.uniform(*a.saturation) if saturation_draw else 1.0
        hue = rng.uniform(-a.hue, a.hue) if hue_draw else 0.0
        image_rgb = _affine(image_rgb, contrast if contrast_first else 1.0, shift)
        image_rgb = _colour(image_rgb, saturation, hue)
        return image_rgb if contrast_first else _affine(image_rgb, contrast, 0.0)

    def _pad(self, image_rgb: ImageU8, mask: MaskU8) -> tuple[ImageU8, MaskU8]:
        height, width = mask.shape
        crop_h, crop_w = self.augment.crop_hw
        if (height, width) == (crop_h, crop_w):
            return image_rgb, mask
        image = np.empty((crop_h, crop_w, 3), np.uint8)
        image[:] = np.round(self.pad_rgb)
        image[:height, :width] = image_rgb
        label = np.full((crop_h, crop_w), self.ignore_index, np.uint8)
        label[:height, :width] = mask
        return image, label


def _affine(image: ImageU8, gain: float, shift: float) -> ImageU8:
    """gain * image + shift, rounded and saturated."""
    if gain == 1.0 and shift == 0.0:
        return image
    table = np.clip(np.round(np.arange(256) * gain + shift), 0, 255).astype(np.uint8)
    out: ImageU8 = opencv().LUT(image, table)
    return out


def _colour(image_rgb: ImageU8, saturation: float, hue: float) -> ImageU8:
    """Scale saturation and turn hue (OpenCV's scale, 180 = full turn), through HSV."""
    if saturation == 1.0 and hue == 0.0:
        return image_rgb
    cv2 = opencv()
    values = np.arange(256)
    tables = np.stack(
        [
            (values + round(hue)) % 180,
            np.clip(np.round(values * saturation), 0, 255),
            values,
        ],
        axis=-1,
    ).astype(np.uint8)
    hsv = cv2.LUT(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2HSV), tables[None])
    out: ImageU8 = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return out
