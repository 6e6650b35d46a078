"""Published checkpoints: their names for our parameters, and strict loading."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeseg.errors import DataError
from edgeseg.models.catalog import build_model
from edgeseg.models.segmentor import Segmentor

_SHOWN = 10

# (pattern on the upstream key, our key; None drops the tensor). First match wins. Source: hyunwoo137/EDAFormer @ 9f98d76.
_BLOCK = (
    (r"attn\.sr\.", "attn.key_conv."),
    (r"attn\.norm\.", "attn.key_norm."),
    (r"mlp\.dwconv\.dwconv\.", "ffn.dwconv."),
    (r"mlp\.", "ffn."),
)
_DECODER_BLOCKS = {"attn2": (0, 0), "attn3": (1, 0), "attn33": (1, 1), "attn4": (2, 0), "attn44": (2, 1), "attn444": (2, 2)}
_ENCODER_DEPTH_KEY = re.compile(r"backbone\.block(\d)\.(\d+)\.")


def _block_key(rest: str) -> str:
    for pattern, ours in _BLOCK:
        rest, hits = re.subn(f"^{pattern}", ours, rest)
        if hits:
            break
    return rest


def _our_key(key: str, depths: Sequence[int]) -> str | None:
    """Our name for one upstream EDAFormer key; None for tensors that upstream saves and never uses."""
    part, _, rest = key.partition(".")
    if part == "backbone":
        name, _, rest = rest.partition(".")
        if match := re.fullmatch(r"patch_embed([1-4])", name):
            rest = rest.replace("proj.", "conv.", 1)
            return f"encoder.stages.{int(match[1]) - 1}.0.{rest}"
        if match := re.fullmatch(r"block([1-4])", name):
            index, _, rest = rest.partition(".")
            return f"encoder.stages.{int(match[1]) - 1}.{int(index) + 1}.{_block_key(rest)}"
        if match := re.fullmatch(r"norm([1-4])", name):
            stage = int(match[1]) - 1
            return f"encoder.stages.{stage}.{depths[stage] + 1}.{rest}"
    if part == "decode_head":
        name, _, rest = rest.partition(".")
        if name == "conv_seg":
            return None
        if name in _DECODER_BLOCKS:
            branch, place = _DECODER_BLOCKS[name]
            return f"decoder.branches.{branch}.{place}.{_block_key(rest)}"
        if name == "linear_fuse":
            return "decoder." + rest.replace("conv.", "fuse.", 1).replace("bn.", "fuse_norm.", 1)
        if name == "linear_pred":
            return f"decoder.classifier.{rest}"
    return key


def to_our_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an EDAFormer checkpoint (mmseg layout, `module.` prefix allowed). Unknown keys keep their name."""
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    depths = [0, 0, 0, 0]
    for key in plain:
        if match := _ENCODER_DEPTH_KEY.match(key):
            stage = int(match[1]) - 1
            if 0 <= stage < 4:
                depths[stage] = max(depths[stage], int(match[2]) + 1)
    renamed = ((_our_key(key, depths), value) for key, value in plain.items())
    return {key: value for key, value in renamed if key is not None}


def load_strict(model: nn.Module, state: Mapping[str, Tensor], allow_missing: Sequence[str] = ()) -> None:
    """Load a state dict whole or not at all.

    Args:
        allow_missing: glob patterns of parameters that may keep their present value.
    Raises:
        DataError: missing, unexpected or mis-shaped tensors, the first ten of each and the count.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state and not any(fnmatchcase(k, p) for p in allow_missing)]
    unexpected = [k for k in state if k not in own]
    misshaped = [
        f"{k} {tuple(state[k].shape)}, model {tuple(own[k].shape)}" for k in own if k in state and state[k].shape != own[k].shape
    ]
    problems = []
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped)):
        if keys:
            more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            problems.append(f"{len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}")
    if problems:
        raise DataError(
            "the weights do not fit the model: " + "; ".join(problems),
            hint="check the architecture and the number of classes the file was trained with",
        )
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def load_upstream(model: nn.Module, state_dict: Mapping[str, Tensor], allow_missing: Sequence[str] = ()) -> None:
    """Load a published checkpoint's state dict into our model. Raises DataError naming the keys that do not fit."""
    load_strict(model, to_our_keys(state_dict), allow_missing)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint file that came from elsewhere: safetensors, or a torch file with tensors only.

    `state_dict` and `model` wrappers are opened. Pickled code is refused by the reader and never run.

    Raises:
        DataError: missing, truncated or unreadable file, or one that holds more than tensors and plain values.
    """
    hint = "re-save it as plain tensors: torch.save(model.state_dict(), FILE), or as safetensors"
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path of the checkpoint")
    loaded: Any
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a checkpoint of plain tensors: {reason}", hint=hint) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise DataError(f"{path}: holds no tensors", hint=hint)
    return tensors


def import_upstream(path: Path, arch: str, allow_missing: Sequence[str] = ()) -> Segmentor:
    """Build a catalogue model and fill it from a published checkpoint; the classes are counted in the file.

    Raises:
        RecipeError: unknown architecture.
        DataError: the file does not fit it.
    """
    state = to_our_keys(read_state_dict(path))
    classifier = state.get("decoder.classifier.weight")
    if classifier is None:
        raise DataError(
            f"{path}: has no classifier (decode_head.linear_pred), so it is no whole EDAFormer segmentor",
            hint="check --arch, or ask for the segmentation checkpoint instead of the backbone's",
        )
    model = build_model(arch, classifier.shape[0])
    load_strict(model, state, allow_missing)
    return model
