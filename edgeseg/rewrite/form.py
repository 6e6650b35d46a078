"""A trained model in the form that is deployed: what is exported, and what quantizers are put into.

The rewrites are exact, so the deployed model is the trained one to float rounding. Quantizers go in after
them: they then see the very tensors that an engine will compute with, and BatchNorm is folded already.

Forms for processors were chosen by the clock. That for GPUs was chosen by what TensorRT-RTX's builder makes
of each candidate; it lists an engine's kernels, and what each of them reads and writes, without a GPU
(`benchmarks/gpu_forms.py`). No form was timed on one. What decided:

- Attention is left whole. In the pieces that keep its scores in a processor's cache (`export.pieces`), each
  is a kernel.
- FFNs are computed on maps, as for ONNX Runtime: transposes around them go. On tokens, 15 % more kernels, 29
  % more traffic.
- Hidden widths are multiples of 16. Unpadded, 4 more kernels copy 18 MB in half precision; multiples of 32 or
  64 change nothing.
- LDA-AQU stays with GridSample. As matrix products over tiles it moves more bytes: 436 MB instead of 309
  (EDAFormer-T).
- VWFormer's queries keep their projection (`Choices.join_queries`): 9 attentions are fused instead of 6,
  151 kernels instead of 165. Its transposed convolutions stay: as convolutions they take as many kernels, and
  47 MB of memory instead of 22.

For SM 8.9 at 512x384, half precision, the form for ONNX Runtime -> that for GPUs; SM 8.6 and 12.0 are alike
to 0.1 MB:

    model                     kernels     traffic (MB)   memory (MB)     engine (MB)    attentions fused
    edaformer_t              416 -> 268    300 -> 270    55.5 -> 30.1    31.2 -> 23.4   20 of 22
    vwformer_mit_b0          297 -> 151    298 -> 249    19.2 -> 21.6    23.7 -> 17.9    9 of 11
    segformer_b0             251 -> 119    263 -> 231    44.5 -> 37.7    19.8 -> 14.1    6 of 8
    repsep_mit_b0            275 -> 143    273 -> 241    42.6 -> 32.2    21.1 -> 15.5    6 of 8
    segformer_mobilenet_v2    63 -> 63     185 -> 185    38.8 -> 38.8     5.3 -> 5.3    none there

Traffic is the sum over kernels of what they read and write, memory that of activations. The two attentions of
the first stage, which have one head, get no fused kernel in any form.

Source: docs.nvidia.com/deeplearning/tensorrt, "Fused Attention": 16 to 256 channels a head, a multiple of 8,
    half precision.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from edgeseg.rewrite.rewrites import Choices, fold_input_scale
from edgeseg.rewrite.simplify import first_conv, simplify
from edgeseg.specs import Form, ImageSpec

_REWRITES: Mapping[Form, Choices] = {
    Form.CPU: Choices(map_ffn=True, tile_lda_aqu=True),
    Form.CPU_OPENVINO: Choices(),
    Form.GPU: Choices(map_ffn=True, join_queries=False),
    Form.QDQ: Choices(map_ffn=True, tile_lda_aqu=True, transposed=False),
}
"""Choices of `simplify` for each form of a float model but `Form.PLAIN`."""


@dataclass(frozen=True)
class Deployed:
    """A model in its deployed form.

    Attributes:
        model: float32, on the CPU, in evaluation mode, no gradients: (1, 3, H, W), normalised as `image` says
            -> logits.
        image: what it takes. `std_rgb` is 1 where the division was folded into the first convolution.
    """

    model: nn.Module
    image: ImageSpec


def deploy(model: nn.Module, image: ImageSpec, form: Form = Form.CPU) -> Deployed:
    """The deployed form of `model`, at the ISR plan in force; the model itself is not changed."""
    deployed = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    if form == Form.PLAIN:
        return Deployed(deployed, image)
    simplify(deployed, _REWRITES[form])
    conv = first_conv(deployed)
    if conv is not None:
        fold_input_scale(conv, image.std_rgb)
        image = replace(image, std_rgb=(1.0, 1.0, 1.0))
    return Deployed(deployed, image)
