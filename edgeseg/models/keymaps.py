"""Names of published checkpoints for our parameters, one map for each layout of an encoder or a decoder.

A published file holds an encoder, a decoder or both. Keys that a map does not know keep their name, so that
strict loading can report them.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from edgeseg.models.edaformer import EdaDecoder
from edgeseg.models.eft import Eft
from edgeseg.models.keymap import KeyMap, State, by_rules
from edgeseg.models.mit import Mit
from edgeseg.models.mobilenet import InvertedResidualEncoder
from edgeseg.models.segformer import SegformerDecoder
from edgeseg.models.vwformer import VwDecoder

# Encoders of the PVT family. Rules name their stages embed, block.N and norm; `_stages` then counts these as
# our stages do.

_FFN = ((r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."), (r"\.mlp\.", ".ffn."))
_PVT = (
    (r"^head\..*", ""),  # the ImageNet classifier
    (r"^backbone\.", ""),
    (r"^patch_embed([1-4])\.proj\.", r"encoder.stages.<\1>.embed.conv."),
    (r"^patch_embed([1-4])\.", r"encoder.stages.<\1>.embed."),
    (r"^block([1-4])\.", r"encoder.stages.<\1>.block."),
    (r"^norm([1-4])\.", r"encoder.stages.<\1>.norm."),
    *_FFN,
)
_EFA = ((r"\.attn\.sr\.", ".attn.key_conv."), (r"\.attn\.norm\.", ".attn.key_norm."))
_REDUCTION = ((r"\.attn\.sr\.", ".attn.reduce."), (r"\.attn\.norm\.", ".attn.reduce_norm."))

_MIT_MMSEG = (
    (r"^backbone\.", ""),
    (r"^layers\.(\d)\.0\.projection\.", r"encoder.stages.\1.embed.conv."),
    (r"^layers\.(\d)\.0\.", r"encoder.stages.\1.embed."),
    (r"^layers\.(\d)\.1\.", r"encoder.stages.\1.block."),
    (r"^layers\.(\d)\.2\.", r"encoder.stages.\1.norm."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.ffn\.layers\.0\.", ".ffn.fc1."),
    (r"\.ffn\.layers\.1\.", ".ffn.dwconv."),
    (r"\.ffn\.layers\.4\.", ".ffn.fc2."),
    *_REDUCTION,
)

# Hugging Face renamed its modules in transformers 5; files of both generations are about.
_MIT_HF = (
    (r"^classifier\..*", ""),
    (r"^segformer\.", ""),
    (r"^encoder\.patch_embeddings\.(\d)\.", r"encoder.stages.\1.embed."),
    (r"^encoder\.block\.(\d)\.", r"encoder.stages.\1.block."),
    (r"^encoder\.layer_norm\.(\d)\.", r"encoder.stages.\1.norm."),
    (r"^stages\.(\d)\.patch_embeddings\.", r"encoder.stages.\1.embed."),
    (r"^stages\.(\d)\.blocks\.", r"encoder.stages.\1.block."),
    (r"^stages\.(\d)\.layer_norm\.", r"encoder.stages.\1.norm."),
    (r"\.embed\.proj\.", ".embed.conv."),
    (r"\.embed\.layer_norm\.", ".embed.norm."),
    (r"\.(?:layer_norm_1|layernorm_before)\.", ".norm1."),
    (r"\.(?:layer_norm_2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.(?:self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:self\.sr|sequence_reduction\.sequence_reduction)\.", ".attn.reduce."),
    (r"\.attention\.(?:self|sequence_reduction)\.layer_norm\.", ".attn.reduce_norm."),
    (r"\.mlp\.dense([12])\.", r".ffn.fc\1."),
    *_FFN,
)


def _stages(state: State) -> State:
    """Number a stage's embedding, blocks and norm as the items of one sequence."""
    block = re.compile(r"encoder\.stages\.(\d)\.block\.(\d+)\.")
    depths = [0] * 10
    for match in filter(None, map(block.match, state)):
        depths[int(match[1])] = max(depths[int(match[1])], int(match[2]) + 1)

    def numbered(key: str) -> str:
        key = re.sub(r"^(encoder\.stages\.\d)\.embed\.", r"\1.0.", key)
        key = block.sub(lambda match: f"encoder.stages.{match[1]}.{int(match[2]) + 1}.", key)
        return re.sub(
            r"^(encoder\.stages\.(\d))\.norm\.", lambda match: f"{match[1]}.{depths[int(match[2])] + 1}.", key
        )

    return {numbered(key): value for key, value in state.items()}


def _mit_mmseg(state: State) -> State:
    """Queries, keys and values come as one tensor, the FFN's Linears as 1x1 convolutions."""
    arranged: State = {}
    for key, value in state.items():
        if ".attn.qkv." in key and value.shape[0] % 3 == 0:
            q, kv = value.split([value.shape[0] // 3, value.shape[0] // 3 * 2])
            arranged[key.replace(".qkv.", ".q.")], arranged[key.replace(".qkv.", ".kv.")] = q, kv
        elif re.search(r"\.ffn\.fc[12]\.weight$", key) and value.shape[2:] == (1, 1):
            arranged[key] = value[:, :, 0, 0]
        else:
            arranged[key] = value
    return _stages(arranged)


def _mit_hf(state: State) -> State:
    """Keys and values come as two tensors."""
    arranged = dict(state)
    for key in [key for key in state if ".attn.k." in key]:
        k, v = state[key], state.get(key.replace(".k.", ".v."))
        if v is not None and v.shape == k.shape:
            del arranged[key], arranged[key.replace(".k.", ".v.")]
            arranged[key.replace(".k.", ".kv.")] = torch.cat([k, v])
    return _stages(arranged)


# Decoders. NVlabs' code and what grew from it also save a `conv_seg` that they never use.

_EDA_DECODER = (
    (r"^decode_head\.conv_seg\..*", ""),
    (r"^decode_head\.attn2\.", "decoder.branches.0.0."),
    (r"^decode_head\.attn3\.", "decoder.branches.1.0."),
    (r"^decode_head\.attn33\.", "decoder.branches.1.1."),
    (r"^decode_head\.attn4\.", "decoder.branches.2.0."),
    (r"^decode_head\.attn44\.", "decoder.branches.2.1."),
    (r"^decode_head\.attn444\.", "decoder.branches.2.2."),
    (r"^decode_head\.linear_fuse\.conv\.", "decoder.fuse."),
    (r"^decode_head\.linear_fuse\.bn\.", "decoder.fuse_norm."),
    (r"^decode_head\.linear_pred\.", "decoder.classifier."),
    *_EFA,
    *_FFN,
)
_SEGFORMER_NVLABS = (
    (r"^decode_head\.conv_seg\..*", ""),
    (r"^decode_head\.linear_c([1-4])\.proj\.", r"decoder.branches.<\1>.conv."),
    (r"^decode_head\.linear_fuse\.conv\.", "decoder.fuse."),
    (r"^decode_head\.linear_fuse\.bn\.", "decoder.fuse_norm."),
    (r"^decode_head\.linear_pred\.", "decoder.classifier."),
)
_SEGFORMER_MMSEG = (
    (r"^decode_head\.convs\.(\d)\.conv\.", r"decoder.branches.\1.conv."),
    (r"^decode_head\.convs\.(\d)\.bn\.", r"decoder.branches.\1.norm."),
    (r"^decode_head\.fusion_conv\.conv\.", "decoder.fuse."),
    (r"^decode_head\.fusion_conv\.bn\.", "decoder.fuse_norm."),
    (r"^decode_head\.conv_seg\.", "decoder.classifier."),
)
_SEGFORMER_HF = (
    (r"^decode_head\.linear_(?:c|projections)\.(\d)\.proj\.", r"decoder.branches.\1.conv."),
    (r"^decode_head\.linear_fuse\.", "decoder.fuse."),
    (r"^decode_head\.batch_norm\.", "decoder.fuse_norm."),
    (r"^decode_head\.classifier\.", "decoder.classifier."),
)
_VWFORMER = (
    (r"^decode_head\.linear_c1\.proj\.", "decoder.refine.low."),
    (r"^decode_head\.linear_c2\.proj\.", "decoder.aggregate.branches.0."),
    (r"^decode_head\.linear_c3\.proj\.", "decoder.aggregate.branches.1."),
    (r"^decode_head\.linear_c4\.proj\.", "decoder.aggregate.branches.2."),
    (r"^decode_head\.linear_fuse\.", "decoder.aggregate.fuse."),
    (r"^decode_head\.short_path\.", "decoder.mix.pixel."),
    (r"^decode_head\.image_pool\.1\.", "decoder.mix.pool.conv."),
    (r"^decode_head\.cat\.", "decoder.mix.fuse."),
    (r"^decode_head\.low_level_fuse\.", "decoder.refine.fuse."),
    (r"^decode_head\.conv_seg\.", "decoder.classifier."),
    (r"^decode_head\.ds\.(\d)\.", r"decoder.mix.windows.\1.embed."),
    (r"^decode_head\.attn\.(\d)\.conv_out\.", r"decoder.mix.windows.\1.proj."),
    (r"^decode_head\.attn\.(\d)\.theta\.conv\.", r"decoder.mix.windows.\1.query."),
    (r"^decode_head\.attn\.(\d)\.phi\.conv\.", r"decoder.mix.windows.\1.key."),
    (r"^decode_head\.attn\.(\d)\.g\.conv\.", r"decoder.mix.windows.\1.value."),
    (r"\.bn\.", ".norm."),
)


def _branch_linears(state: State) -> State:
    """The projections come as Linears and are 1x1 convolutions here."""
    projection = re.compile(r"decoder\.(branches\.\d\.conv|aggregate\.branches\.\d|refine\.low)\.weight")
    return {
        k: v[:, :, None, None] if projection.fullmatch(k) and v.ndim == 2 else v for k, v in state.items()
    }


def _segformer_options(state: State) -> dict[str, Any]:
    width = {"width": state["decoder.fuse.weight"].shape[0]} if "decoder.fuse.weight" in state else {}
    return {**width, "branch_norm": "decoder.branches.0.norm.weight" in state}


def _vwformer_options(state: State) -> dict[str, Any]:
    sizes = {"width": "decoder.mix.fuse.conv.weight", "low_width": "decoder.refine.low.weight"}
    found = {option: state[key].shape[0] for option, key in sizes.items() if key in state}
    return {**found, "image_pool": any(key.startswith("decoder.mix.pool.") for key in state)}


def _fuse_deepest_first(state: State) -> State:
    """mmsegmentation concatenates the finest map first; here, as in the original code, the deepest is
    first.
    """
    fuse = state.get("decoder.fuse.weight")
    if fuse is None or fuse.ndim != 4 or fuse.shape[1] % 4:
        return state
    return {**state, "decoder.fuse.weight": torch.cat(fuse.chunk(4, dim=1)[::-1], dim=1)}


# Encoders of inverted residuals.

_EFFICIENTNET_CONVS = {
    "_expand_conv": "expand.conv",
    "_depthwise_conv": "depthwise.conv",
    "_project_conv": "project.conv",
}
_EFFICIENTNET_NORMS = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}


def efficientnet_lite_key(key: str) -> str | None:
    """ImageNet classifiers of `efficientnet-lite-pytorch` 0.1.0; the classifier and its wide convolution are
    dropped.
    """
    part, _, rest = key.partition(".")
    if part in ("_conv_head", "_bn1", "_fc"):
        return None
    if part in ("_conv_stem", "_bn0"):
        return f"encoder.stem.{'conv' if part == '_conv_stem' else 'norm'}.{rest}"
    if match := re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", key):
        name = {**_EFFICIENTNET_CONVS, **_EFFICIENTNET_NORMS}.get(match[2], match[2])
        return f"encoder.blocks.{match[1]}.{name}.{match[3]}"
    return key


def mobilenet_v2_key(key: str) -> str | None:
    """ImageNet classifiers of torchvision's mobilenet_v2; the classifier and its wide convolution are
    dropped.
    """
    if re.match(r"classifier\.|features\.18\.", key):
        return None
    layers = ("conv", "norm")
    if match := re.fullmatch(r"features\.0\.([01])\.(\w+)", key):
        return f"encoder.stem.{layers[int(match[1])]}.{match[2]}"
    if match := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
        # The first block does not widen, so its sequence starts with the depthwise convolution.
        names = ("depthwise", "project") if match[1] == "1" else ("expand", "depthwise", "project")
        place = [int(number) for number in match[2].split(".")]
        if len(place) == 2:
            name, layer = names[place[0]], place[1]
        else:  # the last convolution and its norm stand in the sequence themselves
            name, layer = names[-1], place[0] - len(names) + 1
        return f"encoder.blocks.{int(match[1]) - 1}.{name}.{layers[layer]}.{match[3]}"
    return key


ENCODERS = (
    KeyMap(
        "MiT", "NVlabs", Mit, r"(backbone\.)?block1\.0\.attn\.kv\.", by_rules(*_PVT, *_REDUCTION), _stages
    ),
    KeyMap(
        "MiT",
        "mmsegmentation",
        Mit,
        r"(backbone\.)?layers\.0\.1\.0\.attn\.attn\.",
        by_rules(*_MIT_MMSEG),
        _mit_mmseg,
    ),
    KeyMap(
        "MiT",
        "Hugging Face",
        Mit,
        r"(segformer\.)?(encoder|stages\.\d)\.patch_embeddings\.",
        by_rules(*_MIT_HF),
        _mit_hf,
    ),
    KeyMap(
        "EFT",
        "hyunwoo137/EDAFormer",
        Eft,
        r"(backbone\.)?block1\.0\.attn\.sr\.",
        by_rules(*_PVT, *_EFA),
        _stages,
    ),
    KeyMap(
        "EfficientNet-Lite",
        "efficientnet-lite-pytorch",
        InvertedResidualEncoder,
        r"_blocks\.0\.",
        efficientnet_lite_key,
    ),
    KeyMap("MobileNetV2", "torchvision", InvertedResidualEncoder, r"features\.1\.conv\.", mobilenet_v2_key),
)
"""In the order in which they are tried."""

DECODERS = (
    KeyMap("EDAFormer", "hyunwoo137/EDAFormer", EdaDecoder, r"decode_head\.attn2\.", by_rules(*_EDA_DECODER)),
    KeyMap(
        "VWFormer",
        "yan-hao-tian/VW",
        VwDecoder,
        r"decode_head\.attn\.0\.theta\.",
        by_rules(*_VWFORMER),
        _branch_linears,
        _vwformer_options,
    ),
    KeyMap(
        "SegFormer",
        "NVlabs",
        SegformerDecoder,
        r"decode_head\.linear_pred\.",
        by_rules(*_SEGFORMER_NVLABS),
        _branch_linears,
        _segformer_options,
    ),
    KeyMap(
        "SegFormer",
        "mmsegmentation",
        SegformerDecoder,
        r"decode_head\.fusion_conv\.",
        by_rules(*_SEGFORMER_MMSEG),
        _fuse_deepest_first,
        _segformer_options,
    ),
    KeyMap(
        "SegFormer",
        "Hugging Face",
        SegformerDecoder,
        r"decode_head\.batch_norm\.",
        by_rules(*_SEGFORMER_HF),
        _branch_linears,
        _segformer_options,
    ),
)
"""In the order in which they are tried."""


_LDA_AQU = {
    "relative_position_bias_table": "position.weight",
    "proj_q": "query",
    "proj_k": "key",
    "layer_norm.norm": "norm",
    "conv_offset.0": "shift_conv",
    "conv_offset.1.norm": "shift_norm",
    "conv_offset.3": "shift",
}


def lda_aqu_state(state: State) -> State:
    """The tensors of one `LdaAqu` from those of an LDA_AQU of duzw9311/LDA-AQU, as its prefix in a detector
    is cut off.

    There, position vectors are (1, heads, 1, neighbours, d), and a neighbour's shifts come as y, x.
    """
    arranged: State = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        ours = _LDA_AQU.get(key) or (f"{_LDA_AQU[module]}.{name}" if module in _LDA_AQU else key)
        if ours == "position.weight":
            value = value.flatten(0, 3)[:, :, None, None]
        elif module == "conv_offset.3":
            value = value.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        arranged[ours] = value
    return arranged
