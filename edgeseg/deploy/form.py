"""A trained model in the form that is deployed: what is exported, and what quantizers are put into.

The rewrites are exact, so the deployed model is the trained one to float rounding. Quantizers go in after them: they then see the
very tensors that an engine will compute with, and BatchNorm is folded already.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from edgeseg.deploy.rewrites import fold_input_scale
from edgeseg.deploy.simplify import first_conv, simplify
from edgeseg.specs import ImageSpec

Form = Literal["onnxruntime", "openvino", "qdq", "plain"]
"""Which runtime a model is laid out for; "qdq": what quantizers are put into. All compute the same; "plain" is the model as it is
written."""


@dataclass(frozen=True)
class Deployed:
    """A model in its deployed form.

    Attributes:
        model: float32, on the CPU, in evaluation mode, no gradients: (1, 3, H, W), normalised as `image` says -> logits.
        image: what it takes. `std_rgb` is 1 where the division was folded into the first convolution.
    """

    model: nn.Module
    image: ImageSpec


def deploy(model: nn.Module, image: ImageSpec, form: Form = "onnxruntime") -> Deployed:
    """The deployed form of `model`, at the ISR plan in force; the model itself is not changed."""
    deployed = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    if form == "plain":
        return Deployed(deployed, image)
    on_maps = form in ("onnxruntime", "qdq")
    simplify(deployed, map_ffn=on_maps, tile_lda_aqu=on_maps, transposed=form != "qdq")
    conv = first_conv(deployed)
    if conv is not None:
        fold_input_scale(conv, image.std_rgb)
        image = replace(image, std_rgb=(1.0, 1.0, 1.0))
    return Deployed(deployed, image)
