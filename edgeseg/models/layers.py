"""Parts that several models share. Maps run channels-last, (B, H, W, C), from end to end.

In that layout LayerNorm, Linear and attention need no transpose, and a depthwise convolution sees the same
memory as a channels-last NCHW view, so switching between "tokens" and "map" is a reshape that moves no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_fn
from torch import Tensor, nn


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)


def init_weights(module: nn.Module) -> None:
    """Linear: truncated normal, std 0.02. Conv: normal, std sqrt(2 / fan_out). Norms: 1 and 0. Biases: 0.

    Source: EDAFormer's and PVTv2's initialisation (hyunwoo137/EDAFormer @ 9f98d76, eft.py).
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def is_distributed() -> bool:
    """Whether other processes train the same model."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class FoldableNorms(nn.Module):
    """Base of a module in which a BatchNorm directly follows a convolution, so that the exported form of a
    model holds both as one.

    Attributes:
        foldable_norms: name of the convolution -> that of its BatchNorm. Where either is another layer, or
            None, nothing is folded.
    """

    foldable_norms: ClassVar[Mapping[str, str]] = {"conv": "norm"}


class SamplingLayer(nn.Module):
    """Base of a layer that reads maps at computed positions: a rounded position is off by as much as the map
    is steep there, so that two runtimes agree less closely than on other layers.
    """


class Product(nn.Module):
    """Matrix product of two activations, (..., n, d) and (..., d, m) -> (..., n, m): a module, so that a
    quantizer finds it.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a whole residual branch per sample with probability `rate`.

    Source: Huang et al., Deep Networks with Stochastic Depth (2016), with the kept branches scaled by 1 / (1
        - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"a drop path rate lies in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics cover the batches of all processes, on any device.

    torch's SyncBatchNorm runs on accelerators only; this one reduces through autograd-aware collectives, so
    that two CPU processes train exactly as one process with their joint batch. Outside of distributed
    training it is nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        values = x.float()
        sums = torch.cat(
            [
                values.sum((0, 2, 3)),
                values.square().sum((0, 2, 3)),
                values.new_tensor([x.numel() / x.shape[1]]),
            ]
        )
        sums = dist_fn.all_reduce(sums)  # type: ignore[no-untyped-call]
        count = sums[-1]
        mean, mean_square = sums[:-1].div(count).chunk(2)
        var = (mean_square - mean.square()).clamp_min(0.0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class PatchEmbed(nn.Module):
    """Strided convolution, then LayerNorm: (B, H, W, C_in) -> (B, ceil(H / stride), ceil(W / stride),
    C_out).
    """

    round_outputs: ClassVar = ("conv",)

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(to_nhwc(self.conv(to_nchw(x))))


class ConvFFN(nn.Module):
    """Linear, optional ReLU, depthwise 3x3, GELU (exact), Linear, on (B, H, W, C).

    Source: PVTv2 (arXiv 2106.13797), section 3.2; the ReLU is that of its linear variant.
    """

    round_outputs: ClassVar = ("dwconv",)

    def __init__(self, channels: int, hidden: int, relu: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc1(x))
        x = to_nhwc(self.dwconv(to_nchw(x)))
        return self.fc2(self.act(x))
