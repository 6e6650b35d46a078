"""Everything a run needs to continue as if it had never stopped: weights, optimiser, averages, random state,
counters.

The data position is no part of it: the stream of samples follows from the seed and the step (see
data.loader).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint
from edgeseg.training.distributed import Processes
from edgeseg.training.optim import Ema

_KEPT = 2
_NAME = re.compile(r"step_(\d{8})\.safetensors")


class OtherRecipe(Exception):
    """A state belongs to a run of another recipe; the loop says what the user can do."""


@dataclass
class Counters:
    """Where the run stands.

    Attributes:
        step: optimiser steps done.
        best_miou: best validation mIoU so far; -1 before the first.
        best_step: where it was reached.
        stale: validations since.
        seconds: training time spent, over all sittings.
    """

    step: int = 0
    best_miou: float = -1.0
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    counters: Counters,
    digest: str,
    here: Processes,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write the state of this step to `folder`; older states beyond the last two are removed afterwards.

    `data` says what the run is trained with, as `resume.data_facts` does. All processes call it; the first
    one writes, with the random states of all.
    """
    random_states = here.gather(_random_state(here.device))
    if not here.is_first:
        return
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": value for name, value in ema.state.items()}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            tensors |= {
                f"optimizer.{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()
            }
    tensors |= {f"random.{rank}": value for rank, value in enumerate(random_states)}
    path = folder / f"step_{counters.step:08d}.safetensors"
    save_checkpoint(
        path, tensors, {"kind": "state", "recipe_sha256": digest, "counters": asdict(counters), "data": data}
    )
    for old in _states(folder)[:-_KEPT]:
        old.unlink(missing_ok=True)


def _random_state(device: torch.device) -> Tensor:
    """The generator that dropout on this device draws from, as bytes."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(value: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(value, device)
    else:
        torch.set_rng_state(value)


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*.safetensors") if _NAME.fullmatch(path.name))


def latest_state(folder: Path) -> Path | None:
    """The newest resumable state, or None."""
    states = _states(folder)
    return states[-1] if states else None


def restore_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    digest: str,
    here: Processes,
) -> tuple[Counters, dict[str, Any]]:
    """Put a saved state into model, optimiser, averages and random generator.

    Returns the counters, and what the run was trained with, empty where the state does not say.

    With another number of processes, or on another kind of device, the run continues with fresh dropout
    draws.

    Raises:
        DataError: damaged file.
        OtherRecipe: a run of another recipe.
    """
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    if meta.get("kind") != "state" or meta.get("recipe_sha256") != digest:
        raise OtherRecipe(path)
    tensors = checkpoint.tensors
    model.load_state_dict(_below(tensors, "model."))
    if ema is not None:
        for name, value in _below(tensors, "ema.").items():
            ema.state[name].copy_(value)
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            entry = _below(tensors, f"optimizer.{name}.")
            if entry:
                state: dict[str, Any] = optimizer.state[parameter]
                state.update({k: v if k == "step" else v.to(parameter.device) for k, v in entry.items()})
    saved = tensors.get(f"random.{here.rank}")
    if saved is not None and saved.shape == _random_state(here.device).shape:
        _set_random_state(saved, here.device)
    return Counters(**meta["counters"]), meta.get("data") or {}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
