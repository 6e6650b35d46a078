"""Rewrites that change a model's arithmetic and not its answer, made on the copy that is exported.

None depends on the image; outputs agree to float rounding. Parts that have no rewrites are passed over, so
the same call serves every model. Dropout and stochastic depth need none: in evaluation they are the identity
and leave no trace in a graph.

A family of models has its rewrites in `simplify_FAMILY.py`, and a line here for each part that it rewrites.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import Eft
from edgeseg.models.mit import Mit
from edgeseg.models.repsep import RepSepDecoder
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.segmentor import Segmentor
from edgeseg.models.vwformer import VwDecoder
from edgeseg.rewrite.simplify_edaformer import simplify_blocks, simplify_fusion
from edgeseg.rewrite.simplify_norms import fold_norms
from edgeseg.rewrite.simplify_repsep import simplify_repsep
from edgeseg.rewrite.simplify_segformer import simplify_decoder, simplify_mit
from edgeseg.rewrite.simplify_upsample import tile_upsampling
from edgeseg.rewrite.simplify_vw import simplify_vw


@torch.no_grad()
def simplify(
    model: nn.Module,
    *,
    map_ffn: bool,
    tile_lda_aqu: bool = False,
    transposed: bool = True,
    join_queries: bool = True,
) -> None:
    """Apply every rewrite that the model's parts have, in place; it can be exported, but no longer trained or
    loaded into.

    Args:
        map_ffn, tile_lda_aqu: also compute FFNs on maps (`MapFFN`), and LDA-AQU as matrix products
        (`TiledLdaAqu`). These two
            are not faster everywhere.
        transposed: transposed convolutions where they are faster; no runtime has an integer kernel for them.
        join_queries: let the projection of keys do that of queries where there is one head
            (`MergedAttention`): fewer multiply-adds, but the width of keys is then no multiple of 8, and no
            GPU has a kernel for such an attention.
    """
    if not isinstance(model, Segmentor):
        return
    encoder, decoder = model.encoder, model.decoder
    if tile_lda_aqu:
        tile_upsampling(decoder)
    if isinstance(encoder, Eft):
        simplify_blocks(encoder, map_ffn=map_ffn)
    if isinstance(encoder, Mit):
        simplify_mit(encoder, map_ffn=map_ffn)
    if isinstance(decoder, EdaDecoder):
        simplify_blocks(decoder, map_ffn=map_ffn)
        model.add_module("decoder", simplify_fusion(decoder))
    if isinstance(decoder, SegformerDecoder):
        model.add_module("decoder", simplify_decoder(decoder))
    if isinstance(decoder, VwDecoder):
        simplify_vw(decoder, transposed=transposed, join_queries=join_queries)
    if isinstance(decoder, RepSepDecoder):
        simplify_repsep(decoder)
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
