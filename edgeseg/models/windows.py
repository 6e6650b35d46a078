"""Varying windows: a map cut into query windows, and around each of them a larger context window with as many
tokens.

Maps run channels-last, (B, H, W, C). A side of n pixels is cut into `count` windows of P = n / count. The
context of a window, at ratio R, is R P long and has the same centre; read in cells of R pixels a side, it has
P tokens a side again, whatever R is. Everything here is slices, concatenations and reshapes of sizes known
beforehand, so an exported graph holds no index.

Source: VWFormer (ICLR 2024, arXiv 2404.16573); yan-hao-tian/VW @ 9bc1891, vw_head.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""Windows along the height and along the width."""


def window_count(side: int) -> int:
    """Windows along a side: of its divisors the one nearest to 8 by ratio, the larger of two.

    The published code cuts every side into 8 and fails where 8 does not divide it; there, and only there,
    this is another number.
    """
    divisors = [d for d in range(1, side + 1) if side % d == 0]
    return min(divisors, key=lambda d: (max(d / 8, 8 / d), -d))


def query_windows(x: Tensor, grid: Grid) -> Tensor:
    """(B, H, W, C) -> (B, windows, tokens, C), both row by row. Each token is in one window."""
    batch, height, width, channels = map(int, x.shape)
    rows, columns = grid
    x = x.reshape(batch, rows, height // rows, columns, width // columns, channels).transpose(2, 3)
    return x.reshape(batch, rows * columns, -1, channels)


def merge_windows(windows: Tensor, grid: Grid, size_hw: tuple[int, int]) -> Tensor:
    """(B, windows, tokens, C) -> (B, H, W, C): the inverse of `query_windows`."""
    rows, columns = grid
    height, width = size_hw
    batch, channels = int(windows.shape[0]), int(windows.shape[3])
    x = windows.reshape(batch, rows, columns, height // rows, width // columns, channels).transpose(2, 3)
    return x.reshape(batch, height, width, channels)


def context_windows(x: Tensor, grid: Grid, ratio: int) -> Tensor:
    """(B, H, W, D) -> (B, windows, tokens, ratio^2 D): the context of every query window, as many tokens as
    that has.

    A token is a cell of ratio x ratio pixels, its channels ordered (row in the cell, column in the cell, D).
    """
    batch, height, width, depth = map(int, x.shape)
    rows, columns = grid
    x = overlapping_windows(copy_shift_pad(x, 1, rows, ratio), 1, rows, ratio)  # (B, rows, R Ph, W, D)
    x = overlapping_windows(
        copy_shift_pad(x, 3, columns, ratio), 3, columns, ratio
    )  # (B, rows, R Ph, columns, R Pw, D)
    x = x.reshape(batch, rows, height // rows, ratio, columns, width // columns, ratio, depth)
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)  # (B, rows, columns, Ph, Pw, R, R, D)
    return x.reshape(batch, rows * columns, -1, ratio * ratio * depth)


def copy_shift_pad(x: Tensor, dim: int, count: int, ratio: int) -> Tensor:
    """Copy-shift padding along `dim`, a side of n = count P: the result has (count + ratio - 1) P pixels.

    The context of window i starts at i P - L with L = R P - floor((R + 1) P / 2), which is (R - 1) P / 2, and
    half a pixel more where that is no whole number. A pixel beyond the border is the one R P further inside,
    so that a context at the border is a block of the map, turned round: no zero enters. Where R P > n, the
    map first gets zeros on both sides, to R P.
    """
    side = int(x.shape[dim])
    window = side // count
    context = ratio * window
    before = context - (ratio + 1) * window // 2
    after = context - window - before
    excess = max(context - side, 0)
    inside = F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [excess // 2, excess - excess // 2]) if excess else x
    head = inside.narrow(dim, context - before, before)
    tail = inside.narrow(dim, side + excess - context, after)
    return torch.cat([head, x, tail], dim)


def overlapping_windows(x: Tensor, dim: int, count: int, ratio: int) -> Tensor:
    """Windows of ratio P pixels, P apart, along `dim`, a side of (count + ratio - 1) P: it becomes two,
    (count, ratio P).
    """
    shape = [int(side) for side in x.shape]
    blocks = x.reshape(*shape[:dim], count + ratio - 1, shape[dim] // (count + ratio - 1), *shape[dim + 1 :])
    return torch.cat([blocks.narrow(dim, start, count) for start in range(ratio)], dim + 1)
