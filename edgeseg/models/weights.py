"""Published checkpoints: reading foreign files safely, recognising their layout, and strict loading."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edgeseg.errors import DataError
from edgeseg.models.catalog import CATALOGUE, build_model, model_options
from edgeseg.models.keymap import KeyMap
from edgeseg.models.keymaps import DECODERS, ENCODERS

_SHOWN = 10
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "ema_state_dict")
"""Entries that hold the weights, best first: averaged weights are what their authors evaluate. mmengine is last, because it
swaps the two before it saves: its `state_dict` is the average, its `ema_state_dict` the raw weights."""
_COUNTERS = ("n_averaged", "steps")
"""What averaging keeps beside the weights."""

_UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError, OSError, EOFError),
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ArithmeticError, struct.error),
)
"""What the readers raise; the second line is what torch's unpickler lets through on bytes that are no checkpoint."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The layouts of a published file's parts; None for a part that it does not hold, or that is not known."""

    encoder: KeyMap | None
    decoder: KeyMap | None

    def __str__(self) -> str:
        found = [part for part in (self.decoder, self.encoder) if part is not None]
        if not found:
            return "no layout that is known"
        models = " on ".join(part.model for part in found) if self.decoder else f"{found[0].model} alone"
        return f"{models} ({', '.join(dict.fromkeys(part.layout for part in found))} layout)"


@dataclass(frozen=True, slots=True)
class Imported:
    """A published checkpoint in our names.

    Attributes:
        tensors: of the whole model, or of `encoder.*` alone where the file holds no decoder.
        layout: what the file looked like.
        num_classes: None without a decoder.
        options: model options that the file implies; a recipe for it needs the same in `model.options`.
        parameters: how many the tensors hold, buffers not counted.
    """

    tensors: dict[str, Tensor]
    layout: str
    num_classes: int | None
    options: dict[str, Any]
    parameters: int


def to_our_keys(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Layout]:
    """Our names and shapes for a published state dict, and the layout it was in. Unknown keys keep their name.

    Raises:
        DataError: two tensors get one name.
    """
    ours = _unique((re.sub(r"^((module|model|_orig_mod)\.)+", "", key), value) for key, value in state.items())
    layout = Layout(
        next((keymap for keymap in ENCODERS if keymap.recognises(ours)), None),
        next((keymap for keymap in DECODERS if keymap.recognises(ours)), None),
    )
    for keymap in (layout.encoder, layout.decoder):
        if keymap is not None:
            renamed = ((keymap.rename(key), value) for key, value in ours.items())
            ours = keymap.arrange(_unique((key, value) for key, value in renamed if key is not None))
    return ours, layout


def _unique(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in pairs:
        if key in state:
            raise DataError(f"two tensors of the file are {key}", hint="save one model's state dict, without its copies")
        state[key] = value
    return state


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
    load_strict(model, to_our_keys(state_dict)[0], allow_missing)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint file that came from elsewhere: safetensors, or a torch file with tensors only.

    Wrappers such as `state_dict` and `model` are opened; of raw and averaged weights the averaged are taken. Pickled code is
    refused by the reader and never run.

    Raises:
        DataError: missing, truncated or unreadable file, one that holds more than tensors and plain values, or one of ours.
    """
    hint = "re-save it as plain tensors: torch.save(model.state_dict(), FILE), or as safetensors"
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="check the path of the checkpoint")
    loaded: Any
    try:
        loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a checkpoint of plain tensors: {reason}", hint=hint) from error
    entries = loaded if isinstance(loaded, dict) else {}
    for _ in _WRAPPERS:  # one may hold another
        entries = next((entries[name] for name in _WRAPPERS if isinstance(entries.get(name), dict)), entries)
    tensors = {str(k): v for k, v in entries.items() if isinstance(v, Tensor) and k not in _COUNTERS}
    if not tensors:
        raise DataError(f"{path}: holds no tensors", hint=hint)
    return tensors


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        # Of other pickle protocols than its own it reads what it knows, and fails at the rest, which is all that we ask.
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        if "edgeseg" in (file.metadata() or {}):
            raise DataError(f"{path}: is a checkpoint of edgeseg", hint="use it as it is: --checkpoint or --init takes it")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def import_upstream(path: Path, arch: str, allow_missing: Sequence[str] = ()) -> Imported:
    """Read a published checkpoint for a catalogue model; its classes are counted in the file.

    Args:
        allow_missing: glob patterns of our parameters that the file may lack; they keep fresh values.
    Raises:
        RecipeError: unknown architecture.
        DataError: the file's layout is not known, or is another architecture's, or its tensors do not fit.
    """
    with torch.device("meta"):
        parts = build_model(arch, 1)
    state, layout = to_our_keys(read_state_dict(path))
    if layout.encoder is None:
        known = dict.fromkeys(f"{keymap.model} ({keymap.layout})" for keymap in (*ENCODERS, *DECODERS))
        keys = ", ".join(list(state)[:_SHOWN])
        raise DataError(f"{path}: its layout is not known; its keys start with {keys}", hint=f"known: {', '.join(known)}")
    classifier = state.get("decoder.classifier.weight")
    if layout.decoder is not None and classifier is None:
        raise DataError(f"{path}: {layout} without a classifier", hint="take a file that was saved with it")
    found = {} if layout.decoder is None else layout.decoder.options(state)
    num_classes = None if classifier is None else classifier.shape[0]
    kinds = [(parts.encoder, layout.encoder), (parts.decoder, layout.decoder)]
    if any(keymap is not None and type(ours) is not keymap.part for ours, keymap in kinds):
        raise DataError(f"{path}: looks like {layout}, not {arch}", hint=_fitting(state, num_classes))
    defaults = model_options(arch)
    options = {name: value for name, value in found.items() if value != defaults[name]}
    model = build_model(arch, num_classes or 1, **options)
    try:
        load_strict(model, state, allow_missing if layout.decoder else ("decoder.*", *allow_missing))
    except DataError as error:
        raise DataError(f"{path}, {layout}, is not {arch}: {error}", hint=_fitting(state, num_classes)) from error
    prefix = "" if layout.decoder else "encoder."
    return Imported(
        {name: value for name, value in model.state_dict().items() if name.startswith(prefix)},
        str(layout),
        num_classes,
        options,
        sum(value.numel() for name, value in model.named_parameters() if name.startswith(prefix)),
    )


def _fitting(state: Mapping[str, Tensor], num_classes: int | None) -> str:
    """A hint: the architectures whose tensors are exactly these."""
    shapes = {name: value.shape for name, value in state.items()}
    fitting = []
    for name in CATALOGUE:
        with torch.device("meta"):
            model = build_model(name, num_classes or 1)
        whole = model if num_classes else nn.ModuleDict({"encoder": model.encoder})
        if {key: value.shape for key, value in whole.state_dict().items()} == shapes:
            fitting.append(name)
    if fitting:
        return f"--arch {' or '.join(fitting)} takes this file"
    return "no model here takes this file whole; --allow-missing GLOB lets parameters of ours keep fresh values"
