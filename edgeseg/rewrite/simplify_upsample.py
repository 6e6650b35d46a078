"""An exact rewrite of LDA-AQU for runtimes that multiply matrices much faster than they read single
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import Product, to_nchw, to_nhwc
from edgeseg.models.lda_aqu import LdaAqu
from edgeseg.models.windows import Grid, merge_windows, query_windows

MIN_TILE = 8
"""Pixels of the small map along a tile. Larger tiles multiply more zeros, smaller ones share less of what
surrounds them.
"""

_BILINEAR = "weights of bilinear reads, which place an object to a fraction of a pixel"


def tile_upsampling(part: nn.Module) -> None:
    """Rewrite every LDA-AQU with one head inside `part`, in place."""
    for parent in list(part.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LdaAqu) and child.heads == 1:
                parent.add_module(name, TiledLdaAqu(child))


def tile_side(side: int) -> int:
    """The smallest divisor of `side` from `MIN_TILE` on; `side` itself where that is smaller."""
    return next(d for d in range(min(side, MIN_TILE), side + 1) if side % d == 0)


class TiledLdaAqu(nn.Module):
    """LDA-AQU as matrix products over tiles, with no read at a computed position.

    To read a map bilinearly at (y, x), with zeros outside, is to sum tent(y - i) tent(x - j) map[i, j] over
    its pixels, where
    tent(t) = max(0, 1 - |t|). Let the rows of Ty and Tx be the tents of a pixel's
    neighbours along each axis. With query q, keys
    k and values v, the neighbours' scores are the row sums of (Ty (q . k)) * Tx, and with their softmax a the
    output is (Ty^T diag(a) Tx) . v. Each key and value is met once, for all neighbours together. Shifts are
    bounded, so that a tile's pixels need no more of the map than a window that is `halo` pixels larger on
    each side.

    Raises (init):
        ValueError: several heads, each of which would need products of its own.
    """

    keep_float: ClassVar = {"picked": _BILINEAR, "reads": _BILINEAR}

    def __init__(self, module: LdaAqu) -> None:
        super().__init__()
        if module.heads != 1:
            raise ValueError(f"this LDA-AQU has {module.heads} heads")
        self.module = module
        self.scores, self.picked, self.reads, self.weighted = Product(), Product(), Product(), Product()
        reach = max(map(max, module.neighbours)) + module.max_shift_px
        # One pixel more, as maps are aligned at their corners: in the middle, an output pixel lies up to one
        # pixel off its tile.
        self.halo = math.ceil(reach / module.scale) + 1

    def forward(self, x: Tensor) -> Tensor:
        module = self.module
        batch, channels, height, width = (int(side) for side in x.shape)
        grid = (height // tile_side(height), width // tile_side(width))
        q, k = module.project(x)
        size_hw = (int(q.shape[2]), int(q.shape[3]))
        shift_x, shift_y = module.shifts(q).unbind(2)
        tents_x = self._tents(shift_x, [x for x, _ in module.neighbours], 3, grid)
        tents_y = self._tents(shift_y, [y for _, y in module.neighbours], 2, grid)
        tiles, pixels, neighbours = (int(side) for side in tents_x.shape[1:4])
        window_hw = (int(tents_y.shape[4]), int(tents_x.shape[4]))

        def split(t: Tensor) -> Tensor:
            """(B groups, tiles, ...) -> (B, groups, tiles, ...)."""
            return t.reshape(batch, module.groups, *(int(side) for side in t.shape[1:]))

        q = q * module.logit_scale
        products = self.scores(
            _tiles(self._groups(q), grid), self._windows(self._groups(k), grid).transpose(-2, -1)
        )
        products = products.reshape(-1, tiles, pixels, *window_hw)
        scores = split((self.picked(tents_y, products) * tents_x).sum(-1)).sum(
            1
        )  # (B, tiles, pixels, neighbours)
        weights = (
            (scores + _tiles(module.position(q), grid))
            .softmax(-1)
            .reshape(batch, 1, tiles, pixels, neighbours, 1)
        )
        reads = self.reads(
            (split(tents_y) * weights).transpose(-2, -1), split(tents_x)
        )  # what a pixel takes of its window
        reads = reads.reshape(-1, tiles, pixels, window_hw[0] * window_hw[1])
        out = self.weighted(
            reads, self._windows(self._groups(x), grid)
        )  # (B groups, tiles, pixels, C / groups)
        return to_nchw(merge_windows(out, grid, size_hw)).reshape(batch, channels, *size_hw)

    def _tents(self, shift: Tensor, places: Sequence[int], dim: int, grid: Grid) -> Tensor:
        """Shifts along the axis `dim`, (n, neighbours, H, W) -> (n, tiles, pixels, neighbours, side of a
        window).
        """
        large = int(shift.shape[dim])
        side = large // self.module.scale
        tile, step = side // grid[dim - 2], (side - 1) / (large - 1)
        origin = [
            pixel * step - (pixel // (tile * self.module.scale) * tile - self.halo) for pixel in range(large)
        ]
        column = shift.new_tensor(origin).reshape((-1, 1) if dim == 2 else (1, -1))
        at = (shift + shift.new_tensor(places)[:, None, None]) * step + column
        distance = _tiles(at, grid).unsqueeze(-1) - shift.new_tensor(list(range(tile + 2 * self.halo)))
        return F.relu(1 - distance.abs())

    def _groups(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B groups, C / groups, h, w)."""
        batch, channels, height, width = (int(side) for side in x.shape)
        return x.reshape(batch * self.module.groups, channels // self.module.groups, height, width)

    def _windows(self, x: Tensor, grid: Grid) -> Tensor:
        """(n, C, h, w) -> (n, tiles, pixels of a window, C)."""
        tile_h, tile_w = (int(side) // count for side, count in zip(x.shape[2:], grid, strict=True))
        halo = self.halo
        x = F.pad(to_nhwc(x), (0, 0, halo, halo, halo, halo))
        x = torch.stack([x.narrow(1, i * tile_h, tile_h + 2 * halo) for i in range(grid[0])], dim=1)
        x = torch.stack([x.narrow(3, i * tile_w, tile_w + 2 * halo) for i in range(grid[1])], dim=2)
        return x.reshape(int(x.shape[0]), grid[0] * grid[1], -1, int(x.shape[5]))


def _tiles(x: Tensor, grid: Grid) -> Tensor:
    """(n, C, H, W) -> (n, tiles, pixels of a tile, C)."""
    return query_windows(to_nhwc(x), grid)
