"""Layouts of published checkpoints: each gives the same model, and the decoders are what upstream's code
computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseg.errors import DataError
from edgeseg.models import build_model
from edgeseg.models.weights import import_upstream, load_strict, to_our_keys
from golden_rule import upstream_state
from published import (
    CLASSES,
    State,
    assert_equal,
    hugging_face,
    hugging_face_5,
    mmseg_encoder,
    saved,
    segformer_mmseg,
    segformer_nvlabs,
)


def resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def normed(x: Tensor, state: State, name: str) -> Tensor:
    mean, var, gain, bias = (
        state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.relu(F.batch_norm(x, mean, var, gain, bias))


def nvlabs_decoder(state: State, feats: list[Tensor]) -> Tensor:
    """The decoder of NVlabs, restated with their names."""
    maps = []
    for i, x in reversed(list(enumerate(feats, 1))):
        weight, bias = (state[f"decode_head.linear_c{i}.proj.{part}"] for part in ("weight", "bias"))
        maps.append(resized(F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2), feats[0]))
    x = normed(
        F.conv2d(torch.cat(maps, 1), state["decode_head.linear_fuse.conv.weight"]),
        state,
        "decode_head.linear_fuse.bn",
    )
    return F.conv2d(x, state["decode_head.linear_pred.weight"], state["decode_head.linear_pred.bias"])


def mmseg_decoder(state: State, feats: list[Tensor]) -> Tensor:
    """The decoder of mmsegmentation, restated with its names: normed projections, the finest map first."""
    maps = []
    for i, x in enumerate(feats):
        name = f"decode_head.convs.{i}"
        maps.append(resized(normed(F.conv2d(x, state[f"{name}.conv.weight"]), state, f"{name}.bn"), feats[0]))
    x = F.conv2d(torch.cat(maps, 1), state["decode_head.fusion_conv.conv.weight"])
    x = normed(x, state, "decode_head.fusion_conv.bn")
    return F.conv2d(x, state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"])


@pytest.mark.parametrize(
    ("state", "restated"),
    [(segformer_nvlabs, nvlabs_decoder), (segformer_mmseg, mmseg_decoder)],
    ids=["NVlabs", "mmseg"],
)
@torch.inference_mode()
def test_the_decoder_is_upstreams(
    tmp_path: Path, state: Callable[[], State], restated: Callable[[State, list[Tensor]], Tensor]
) -> None:
    published = state()
    imported = import_upstream(saved(tmp_path, published), "segformer_b0")
    model = build_model("segformer_b0", CLASSES, **imported.options).eval()
    load_strict(model, imported.tensors)
    feats = model.encoder(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    theirs = restated(published, feats)
    assert (model.decoder(feats) - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("convert", [hugging_face, hugging_face_5])
def test_hugging_face_is_the_same_model(convert: Callable[[State], State]) -> None:
    nvlabs = segformer_nvlabs()
    converted = convert(nvlabs)
    assert not set(converted) & set(nvlabs) - {"decode_head.linear_fuse.weight"}
    (expected, _), (state, layout) = to_our_keys(nvlabs), to_our_keys(converted)
    assert str(layout) == "SegFormer on MiT (Hugging Face layout)"
    assert_equal(state, expected)


def test_mmsegs_encoder_is_the_same() -> None:
    nvlabs = segformer_nvlabs()
    (expected, _), (state, layout) = to_our_keys(nvlabs), to_our_keys(mmseg_encoder(nvlabs))
    assert str(layout) == "MiT alone (mmsegmentation layout)"
    assert_equal(state, {key: tensor for key, tensor in expected.items() if key.startswith("encoder.")})


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
def test_prefixes(prefix: str) -> None:
    nvlabs = segformer_nvlabs()
    assert_equal(
        to_our_keys({prefix + key: tensor for key, tensor in nvlabs.items()})[0], to_our_keys(nvlabs)[0]
    )


def test_two_tensors_of_one_name_are_refused() -> None:
    state = upstream_state("mit_b0")
    key = "norm1.weight"
    with pytest.raises(DataError, match=r"two tensors of the file are norm1\.weight"):
        to_our_keys({**state, f"module.{key}": state[key]})
    with pytest.raises(DataError, match=r"two tensors of the file are encoder\.stages\.0\.norm\.weight"):
        to_our_keys({**state, f"backbone.{key}": state[key]})


PIECES = [
    *(
        "backbone",
        "segformer",
        "encoder",
        "decode_head",
        "block1",
        "block",
        "layers",
        "patch_embed1",
        "patch_embeddings",
    ),
    *(
        "0",
        "1",
        "attn",
        "attention",
        "self",
        "key",
        "value",
        "q",
        "kv",
        "sr",
        "in_proj_weight",
        "ffn",
        "weight",
        "conv",
        "proj",
    ),
    *(
        "linear_c1",
        "linear_fuse",
        "fusion_conv",
        "batch_norm",
        "linear_pred",
        "theta",
        "features",
        "_blocks",
        "_bn0",
    ),
]
KEYS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map(".".join)


@settings(max_examples=150)
@given(st.dictionaries(KEYS, st.lists(st.integers(0, 4), max_size=4), max_size=6))
def test_no_keys_and_shapes_are_a_crash(shapes: dict[str, list[int]]) -> None:
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    try:
        ours, layout = to_our_keys(state)
        str(layout)
        load_strict(nn.Linear(1, 1), ours)
    except DataError:
        return
    pytest.fail("a Linear took it")
