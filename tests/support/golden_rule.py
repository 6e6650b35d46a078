"""Parameters by rule: every tensor is a function of its key and shape, so any two implementations can be
given the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from locations import FIXTURES

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def value(key: str, shape: tuple[int, ...]) -> Tensor:
    """The value of one tensor of a state dict; the rule is written out in parity/fixtures/README.md."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    n = np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif len(shape) >= 2:
        n = n / np.sqrt(np.prod(shape[1:]))
    elif key.endswith(("bias", "running_mean")):
        n = 0.1 * n
    else:
        n = 1 + 0.1 * n
    return torch.from_numpy(n.astype(np.float32))


def upstream_state(name: str) -> dict[str, Tensor]:
    """An upstream-style state dict of the model whose keys `fixtures/NAME.keys.json` lists."""
    keys = json.loads((FIXTURES / f"{name}.keys.json").read_text())
    return {key: value(key, tuple(shape)) for key, shape in keys}


def fill(model: AnyModule) -> AnyModule:
    """Give every parameter and buffer of `model` the rule's value, so that no bias is zero and no norm the
    identity.
    """
    model.load_state_dict({key: value(key, tuple(old.shape)) for key, old in model.state_dict().items()})
    return model
