"""A torch model behind the same door as an engine: the reference that every engine is compared with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.images import resize_image, resize_mask
from edgeseg.specs import ImageSpec, ImageU8, MaskU8


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, (x - mean) / std; channels-last in memory."""
    mean = torch.tensor(spec.mean_rgb, device=images.device)
    std = torch.tensor(spec.std_rgb, device=images.device)
    return images.float().sub_(mean).div_(std).permute(0, 3, 1, 2)


class TorchReference:
    """Segments with a torch model exactly as a program does.

    Args:
        model: any segmentation model, (B, 3, H, W) -> logits; put into eval mode.
        image: size and normalisation.
        mask_stride: masks leave at 1 / mask_stride of `image.size_hw`.
    """

    def __init__(self, model: nn.Module, image: ImageSpec, mask_stride: int) -> None:
        self.model = model.eval()
        self.image = image
        self.mask_stride = mask_stride
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def logits(self, image_rgb: ImageU8) -> Tensor:
        """(H, W, 3) uint8 of the program's size -> (1, K, H / mask_stride, W / mask_stride) float32."""
        if image_rgb.shape != (*self.image.size_hw, 3):
            raise ValueError(f"expected an image of shape {(*self.image.size_hw, 3)}, not {image_rgb.shape}")
        batch = torch.from_numpy(np.ascontiguousarray(image_rgb)).to(self.device)[None]
        logits: Tensor = self.model(normalise(batch, self.image)).float()
        return self.at_stride(logits, self.image.size_hw, self.mask_stride)

    @staticmethod
    def at_stride(logits: Tensor, size_hw: tuple[int, int], mask_stride: int) -> Tensor:
        """A model's logits at the resolution of a program's mask: (B, K, H / mask_stride, W /
        mask_stride).
        """
        height, width = (side // mask_stride for side in size_hw)
        return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)

    def infer(self, image_rgb: ImageU8) -> MaskU8:
        """(H, W, 3) uint8 of the program's size -> (H / mask_stride, W / mask_stride) uint8 class indices."""
        mask: MaskU8 = self.logits(image_rgb)[0].argmax(0).to(torch.uint8).cpu().numpy()
        return mask

    def segment(self, image_rgb: ImageU8) -> MaskU8:
        """(H, W, 3) uint8 of any size -> (H, W) uint8 class indices."""
        mask = self.infer(resize_image(image_rgb, self.image.size_hw))
        return resize_mask(mask, (image_rgb.shape[0], image_rgb.shape[1]))
