"""State dicts as other projects name, shape and wrap them, by the parameter rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden_rule import upstream_state, value

State = dict[str, Tensor]
CHANNELS = (32, 64, 160, 256)
WIDTH, CLASSES = 12, 7


def state_of(**shapes: tuple[int, ...]) -> State:
    """Tensors by the rule; `__` in a name stands for a dot."""
    return {(key := name.replace("__", ".")): value(key, shape) for name, shape in shapes.items()}


def norm_of(name: str) -> State:
    sizes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (WIDTH,))
    return {
        f"{name}.{key}": value(f"{name}.{key}", shape)
        for key, shape in {**sizes, "num_batches_tracked": ()}.items()
    }


def segformer_nvlabs(classes: int = CLASSES) -> State:
    """SegFormer-B0 of NVlabs with a narrow decoder, and the classifier that their code saves and never
    uses.
    """
    state = {f"backbone.{key}": tensor for key, tensor in upstream_state("mit_b0").items()}
    for i, channels in enumerate(CHANNELS, 1):
        name = f"decode_head__linear_c{i}__proj"
        state |= state_of(**{f"{name}__weight": (WIDTH, channels), f"{name}__bias": (WIDTH,)})
    state |= state_of(decode_head__linear_fuse__conv__weight=(WIDTH, 4 * WIDTH, 1, 1)) | norm_of(
        "decode_head.linear_fuse.bn"
    )
    state |= state_of(
        decode_head__linear_pred__weight=(classes, WIDTH, 1, 1), decode_head__linear_pred__bias=(classes,)
    )
    return state | state_of(
        decode_head__conv_seg__weight=(classes, 128, 1, 1), decode_head__conv_seg__bias=(classes,)
    )


def substituted(state: State, *rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> State:
    result = {}
    for key, tensor in state.items():
        for pattern, template in rules:
            key = re.sub(pattern, template, key)
        result[key] = tensor
    return result


def from_zero(match: re.Match[str]) -> str:
    return f"{match[1]}.{int(match[2]) - 1}."


def hugging_face(nvlabs: State) -> State:
    """The same tensors as transformers 4 names them: keys and values apart."""
    state = {}
    for key, tensor in nvlabs.items():
        if "conv_seg" in key:
            continue
        if ".attn.kv." in key:
            for part, half in zip(("key", "value"), tensor.chunk(2), strict=True):
                state[key.replace(".attn.kv.", f".attention.self.{part}.")] = half
        else:
            state[key] = tensor
    return substituted(
        state,
        (r"^(backbone\.patch_embed)(\d)\.", from_zero),
        (r"^(backbone\.block)(\d)\.", from_zero),
        (r"^backbone\.norm(\d)\.", lambda match: f"segformer.encoder.layer_norm.{int(match[1]) - 1}."),
        (r"^backbone\.patch_embed\.(\d)\.norm\.", r"backbone.patch_embed.\1.layer_norm."),
        (r"^backbone\.patch_embed\.", "segformer.encoder.patch_embeddings."),
        (r"^backbone\.", "segformer.encoder."),
        (r"\.attn\.q\.", ".attention.self.query."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.norm\.", ".attention.self.layer_norm."),
        (r"\.attn\.sr\.", ".attention.self.sr."),
        (r"(encoder\.block\.\d\.\d)\.norm(\d)\.", r"\1.layer_norm_\2."),
        (r"\.mlp\.fc(\d)\.", r".mlp.dense\1."),
        (r"(decode_head\.linear_c)(\d)\.", from_zero),
        (r"linear_fuse\.conv\.", "linear_fuse."),
        (r"linear_fuse\.bn\.", "batch_norm."),
        (r"linear_pred\.", "classifier."),
    )


def hugging_face_5(nvlabs: State) -> State:
    """The same tensors as transformers 5 names them."""
    return substituted(
        hugging_face(nvlabs),
        (r"encoder\.patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
        (r"encoder\.block\.(\d)\.(\d)\.", r"stages.\1.blocks.\2."),
        (r"encoder\.layer_norm\.(\d)\.", r"stages.\1.layer_norm."),
        (r"attention\.self\.(q|k|v)(uery|ey|alue)\.", r"attention.\1_proj."),
        (r"attention\.output\.dense\.", "attention.o_proj."),
        (r"attention\.self\.sr\.", "attention.sequence_reduction.sequence_reduction."),
        (r"attention\.self\.layer_norm\.", "attention.sequence_reduction.layer_norm."),
        (r"layer_norm_1\.", "layernorm_before."),
        (r"layer_norm_2\.", "layernorm_after."),
        (r"mlp\.dense(\d)\.", r"mlp.fc\1."),
        (r"linear_c\.", "linear_projections."),
    )


def mmseg_encoder(nvlabs: State) -> State:
    """The encoder's tensors as mmsegmentation names and shapes them: q, k and v in one, Linears of the FFN as
    convolutions.
    """
    state: State = {}
    for key, tensor in nvlabs.items():
        if ".attn.q." in key:
            joined = torch.cat([tensor, nvlabs[key.replace(".q.", ".kv.")]])
            state[re.sub(r"\.attn\.q\.", ".attn.attn.in_proj_", key)] = joined
        elif key.startswith("backbone.") and ".attn.kv." not in key:
            state[key] = tensor[:, :, None, None] if re.search(r"mlp\.fc\d\.weight", key) else tensor
    return substituted(
        state,
        (r"^backbone\.patch_embed(\d)\.", lambda match: f"backbone.layers.{int(match[1]) - 1}.0."),
        (r"\.0\.proj\.(weight|bias)$", r".0.projection.\1"),
        (r"^backbone\.block(\d)\.", lambda match: f"backbone.layers.{int(match[1]) - 1}.1."),
        (r"^backbone\.norm(\d)\.", lambda match: f"backbone.layers.{int(match[1]) - 1}.2."),
        (r"\.attn\.proj\.", ".attn.attn.out_proj."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0."),
        (r"\.mlp\.dwconv\.dwconv\.", ".ffn.layers.1."),
        (r"\.mlp\.fc2\.", ".ffn.layers.4."),
    )


def segformer_mmseg() -> State:
    state = mmseg_encoder(segformer_nvlabs())
    for i, channels in enumerate(CHANNELS):
        name = f"decode_head.convs.{i}"
        state |= {f"{name}.conv.weight": value(f"{name}.conv.weight", (WIDTH, channels, 1, 1))} | norm_of(
            f"{name}.bn"
        )
    state |= state_of(decode_head__fusion_conv__conv__weight=(WIDTH, 4 * WIDTH, 1, 1)) | norm_of(
        "decode_head.fusion_conv.bn"
    )
    return state | state_of(
        decode_head__conv_seg__weight=(CLASSES, WIDTH, 1, 1), decode_head__conv_seg__bias=(CLASSES,)
    )


def assert_equal(state: State, expected: State) -> None:
    assert set(state) == set(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())


def saved(folder: Path, content: Any, name: str = "published.pth") -> Path:
    path = folder / name
    torch.save(content, path)
    return path
