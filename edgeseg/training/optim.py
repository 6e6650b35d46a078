"""Optimiser, learning-rate schedule and weight averaging.

Source: EDAFormer's training configuration (hyunwoo137/EDAFormer @ 9f98d76): AdamW, decoder at ten times the
    encoder's rate,
no decay on encoder norms, linear warm-up multiplied onto polynomial decay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.recipe.schema import Train

_WARMUP_START = 1e-6


def parameter_groups(model: nn.Module, train: Train) -> list[dict[str, object]]:
    """Groups for AdamW: encoder, encoder norms (no weight decay), everything else (the decoder).

    Each group carries `names`, `params`, `lr` and `weight_decay`; a group without parameters is left out.
    Upstream's rule matches parameter names; decoder norms are decayed there too, since the first matching
    rule wins.
    """
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
        for name, _ in module.named_parameters(recurse=False)
    }
    rows: tuple[tuple[str, float, float, list[tuple[str, nn.Parameter]]], ...] = (
        ("encoder", train.lr, train.weight_decay, []),
        ("encoder norms", train.lr, 0.0, []),
        ("decoder", train.lr * train.decoder_lr_factor, train.weight_decay, []),
    )
    for name, parameter in model.named_parameters():
        row = 2 if not name.startswith("encoder.") else int(name in norms)
        rows[row][3].append((name, parameter))
    return [
        {
            "label": label,
            "lr": lr,
            "peak_lr": lr,
            "weight_decay": decay,
            "names": [n for n, _ in named],
            "params": [p for _, p in named],
        }
        for label, lr, decay, named in rows
        if named
    ]


def lr_factor(step: int, train: Train) -> float:
    """Learning rate over its peak at a 0-based step: linear warm-up times (1 - step / steps) **
    poly_power.
    """
    decay = (1.0 - step / train.steps) ** train.poly_power
    if step >= train.warmup_steps:
        return float(decay)
    return float(decay * (_WARMUP_START + (1.0 - _WARMUP_START) * (step + 1) / train.warmup_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, train: Train) -> None:
    """Put the schedule's value for this step into every group."""
    factor = lr_factor(step, train)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


class Ema:
    """Exponential moving average of a model's floating-point state; integer buffers are copied.

    The decay rises from 0 as (1 + step) / (10 + step), so that early averages are not held back by the
    initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                averages.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1.0 - decay)
