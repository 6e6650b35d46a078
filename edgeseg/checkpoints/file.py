"""Weights on disk: safetensors with a JSON header that says what they are. Never pickle.

The header (`edgeseg` in safetensors' metadata) holds `kind`, the caller's facts and a digest over names and
tensor bytes; a file whose bytes do not match it is refused before any tensor reaches a model.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from edgeseg.errors import BuildError, DataError
from edgeseg.file_kinds import kind_of
from edgeseg.files import Target
from edgeseg.models.foreign import is_foreign
from edgeseg.models.refusals import import_command


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the facts that travel with them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save_checkpoint(
    place: Path | Target, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, half: bool = False
) -> int:
    """Write a checkpoint; an existing file is replaced only when the new one is complete. Returns its size in
    bytes.

    Args:
        half: store floating-point tensors as float16 (they come back as float32).
    Raises:
        BuildError: the disk is full or not writable; the earlier file is untouched.
    """
    stored = {
        name: (
            value.detach()
            .cpu()
            .to(torch.float16 if half and value.dtype.is_floating_point else value.dtype)
            .contiguous()
            .clone()
        )
        for name, value in tensors.items()
    }
    header = json.dumps({**meta, "sha256": _digest(stored)})
    content = serialise(stored, metadata={"edgeseg": header})
    Target.of(place, BuildError, "free disk space or choose another folder with --out").write(
        content, durable=True
    )
    return len(content)


def load_checkpoint(path: Path, arch: str = "NAME") -> Checkpoint:
    """Read a checkpoint, its digest checked; float16 tensors come back as float32.

    Args:
        arch: the catalogue name that the hint names where the file came from elsewhere.
    Raises:
        DataError: missing, truncated or altered file, or not one of ours.
    """
    hint = "copy the file again, or train anew"
    if path.is_dir() or is_foreign(path):
        raise _elsewhere(path, arch)
    if not path.is_file():
        raise DataError(
            f"{path}: no such checkpoint",
            hint="edgeseg train RECIPE writes checkpoints to runs/NAME/best.safetensors",
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("edgeseg")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        kind = kind_of(path)
        if kind is not None:
            raise DataError(f"{path}: not a checkpoint, but {kind.name}", hint=kind.cure or hint) from error
        raise DataError(f"{path}: not a readable safetensors file: {error}", hint=hint) from error
    if header is None:
        raise _elsewhere(path, arch)
    meta = json.loads(header)
    if _digest(tensors) != meta.pop("sha256"):
        raise DataError(f"{path}: its content does not match its digest", hint=hint)
    return Checkpoint(
        {name: v.float() if v.dtype == torch.float16 else v for name, v in tensors.items()}, meta
    )


def _elsewhere(path: Path, arch: str) -> DataError:
    ours = path.with_suffix(".edgeseg.safetensors")
    return DataError(
        f"{path}: not a checkpoint of edgeseg (it has no edgeseg header)",
        hint=(
            f"weights from elsewhere are imported first: {import_command(path, arch)}; then give"
            f" {shlex.quote(str(ours))}"
        ),
    )
