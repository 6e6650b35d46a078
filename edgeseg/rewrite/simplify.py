"""Rewrites that change a model's arithmetic and not its answer, made on the copy that is exported.

None depends on the image; outputs agree to float rounding. Parts that have no rewrites are passed over, so
the same call serves every model. Dropout and stochastic depth need none: in evaluation they are the identity
and leave no trace in a graph.

A family of models has its rewrites in `simplify_FAMILY.py`, registered for its parts (`rewritten`); a package
registers those of its own beside its models.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.segmentor import Segmentor
from edgeseg.rewrite import (  # noqa: F401 - each registers the parts of its family
    simplify_edaformer,
    simplify_repsep,
    simplify_segformer,
    simplify_vw,
)
from edgeseg.rewrite.rewrites import Choices, rewritten
from edgeseg.rewrite.simplify_norms import fold_norms
from edgeseg.rewrite.simplify_upsample import tile_upsampling


@torch.no_grad()
def simplify(model: nn.Module, choices: Choices) -> None:
    """Apply every rewrite that the model's parts have, in place; it can be exported, but no longer trained or
    loaded into.
    """
    if not isinstance(model, Segmentor):
        return
    if choices.tile_lda_aqu:
        tile_upsampling(model.decoder)
    model.add_module("encoder", rewritten(model.encoder, choices))
    model.add_module("decoder", rewritten(model.decoder, choices))
    fold_norms(model)


def first_conv(model: nn.Module) -> nn.Conv2d | None:
    """The convolution that alone sees the image: the encoder's only one with three input channels. None where
    there is none.
    """
    if not isinstance(model, Segmentor):
        return None
    convs = [
        m
        for m in model.encoder.modules()
        if isinstance(m, nn.Conv2d) and m.in_channels == 3 and m.groups == 1
    ]
    return convs[0] if len(convs) == 1 else None
