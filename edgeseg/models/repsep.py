"""Representation separation: a decoder that works against the over-smoothness of transformer features, in
three optional parts.

RSSeg (arXiv 2212.13764) names the parts. Only its abstract was available to us, and there is no official
code. From the abstract:

- a decoupled two-pathway network, whose second pathway enhances the discrepancy of local patches and passes
  it down, as a complement to the transformer's global representation (`LocalPath`);
- a spatially adaptive separation module, for more separate deep representations
  (`SpatiallyAdaptiveSeparation`);
- discriminative cross-attention, whose auxiliary supervisions make region representations more discriminative
  (`DiscriminativeCrossAttention`, with the training-only `region_losses.RegionLosses`).

Every equation, width, kernel, weight and initial value here is this project's definition, not the paper's,
and the paper's figures say nothing about it. The last two parts map (B, C, H, W) to the same and can stand in
any decoder; there is no wrapper that puts them into one from outside, because a decoder does not show its
deep map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.models.layers import BatchNorm2d, init_weights
from edgeseg.models.region_losses import RegionLosses
from edgeseg.models.segmentor import Decoder, Losses
from edgeseg.models.upsample import make_upsample

_NORM_EPS = 1e-6


def _conv_norm(in_channels: int, out_channels: int, kernel: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm: (B, C_in, H, W) -> (B, C_out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        BatchNorm2d(out_channels),
    )


def local_mean(x: Tensor, window: int) -> Tensor:
    """Mean over a `window` x `window` neighbourhood; at the border, over the part of it that lies inside."""
    return F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)


def similar_mean(x: Tensor, window: int, temperature: float) -> Tensor:
    """Mean over a `window` x `window` neighbourhood, weighted by softmax(cosine to the centre / temperature).

    Beyond the border the nearest position repeats. Written as shifted slices, so that the graph gathers
    nothing by index.
    """
    height, width, reach = int(x.shape[2]), int(x.shape[3]), window // 2
    unit = x * torch.rsqrt(x.square().sum(1, keepdim=True) + _NORM_EPS)
    padded, padded_unit = (_repeat_border(_repeat_border(t, reach, 2), reach, 3) for t in (x, unit))
    shifts = [(slice(i, i + height), slice(j, j + width)) for i in range(window) for j in range(window)]
    cosine = torch.cat([(unit * padded_unit[:, :, i, j]).sum(1, keepdim=True) for i, j in shifts], dim=1)
    weight = (cosine / temperature).softmax(1)
    mean = torch.zeros_like(x)
    for n, (i, j) in enumerate(shifts):
        mean = mean + weight[:, n : n + 1] * padded[:, :, i, j]
    return mean


def _repeat_border(x: Tensor, reach: int, dim: int) -> Tensor:
    """`x` with its first and last slice along `dim` repeated `reach` times: replicate padding that exports as
    one Concat.
    """
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, int(x.shape[dim]) - 1, 1)
    return torch.cat([*[first] * reach, x, *[last] * reach], dim=dim)


class LocalPath(nn.Module):
    """Second pathway: the map of stride 4, what differs from its surroundings enhanced: (B, C_in, H, W) ->
    (B, C, H, W).

    x is a 1x1 convolution and two residual 3x3 ones; the result is x + beta (x - mean of 7x7), beta learned
    by channel, 1 at the start. It reads the encoder's first stage only and nothing flows back into it, so it
    stays decoupled from the global path.

    Args:
        light: depthwise 3x3 and 1x1 convolutions instead of full 3x3 ones: at width 64, a seventh of the
            multiply-adds.
    """

    def __init__(self, in_channels: int, channels: int, *, light: bool, window: int = 7) -> None:
        super().__init__()
        self.window = window
        self.stem = nn.Sequential(_conv_norm(in_channels, channels), nn.ReLU())
        self.blocks = nn.ModuleList()
        for _ in range(2):
            layers = [_conv_norm(channels, channels, 1 if light else 3), nn.ReLU()]
            if light:
                layers.insert(0, nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
            self.blocks.append(nn.Sequential(*layers))
        self.enhancement = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x + self.enhancement[:, None, None] * (x - local_mean(x, self.window))


class SpatiallyAdaptiveSeparation(nn.Module):
    """Move every position away from the mean of its surroundings, as far as the net asks for there: (B, C, H,
    W) -> the same.

    G' = G + gamma (G - mu), so that the deviation from mu grows by 1 + gamma; gamma (one value a position, 0
    .. 2) is the scaled sigmoid of a 1x1 convolution of G and, where there is one, of the local path's map.
    Constant maps do not change.

    Args:
        guide_channels: width of the second input; 0 for none.
        kind: mu is the "uniform" mean of 5x5 positions, or the mean of 3x3 weighted by similarity
            ("attention").
    """

    max_strength = 2.0
    temperature = 0.1

    def __init__(self, channels: int, guide_channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.gate = nn.Conv2d(channels + guide_channels, 1, 1)
        self.reset()

    def reset(self) -> None:
        """Start with the same weak separation everywhere: gamma = 2 sigmoid(-2) = 0.24."""
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -2.0)  # type: ignore[arg-type]  # it has a bias

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        mean = local_mean(x, 5) if self.kind == "uniform" else similar_mean(x, 3, self.temperature)
        strength = (
            self.max_strength * self.gate(x if guide is None else torch.cat([x, guide], dim=1)).sigmoid()
        )
        return x + strength * (x - mean)


class DiscriminativeCrossAttention(nn.Module):
    """One learned query a class gathers a region's representation, and the regions are handed back to their
    pixels.

    With queries T (K, C), pixels X (C, N) and projections Wq, Wk, Wv, Wo:
        scores M = (T Wq) (Wk X) / sqrt(C), a mask of each class (K, N);
        regions R = softmax over N of M, times (Wv X)^T (K, C);
        output X + Wo R^T softmax over K of M (C, N).
    Keys, values and output are linear and rows of a softmax sum to one, so the projections move to the K
    queries and regions: the same answer for 3 K C N multiply-adds instead of 3 (K + C) C N.

    Returns (forward): refined map (B, C, H, W), scores (B, K, H, W), regions (B, K, C). `RegionLosses`
        supervises the last two.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.queries = nn.Parameter(torch.randn(num_classes, channels))
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.reset()

    def reset(self) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, height, width = (int(side) for side in x.shape)
        pixels = x.reshape(batch, channels, height * width)  # (B, C, N)
        query = self.query(self.queries) * self.scale  # (K, C)
        scores = (query @ self.key.weight) @ pixels + (query @ self.key.bias)[:, None]  # (B, K, N)
        gathered = pixels @ scores.softmax(2).transpose(1, 2)  # (B, C, K)
        regions = self.value(gathered.transpose(1, 2))  # (B, K, C)
        refined = self.out(regions).transpose(1, 2) @ scores.softmax(1)  # (B, C, N)
        return (
            x + refined.reshape(batch, channels, height, width),
            scores.reshape(batch, -1, height, width),
            regions,
        )


class RepSepDecoder(Decoder):
    """Maps of strides 4 to 32 -> logits at stride 4. Without its three parts it is a plain fusion of the deep
    maps.

    The deep maps meet at stride 8: each through a 1x1 convolution with BatchNorm at its own size, resized
    (bilinear), summed, ReLU. There the map is separated (`sasm`) and refined by class regions (`dca`). At
    stride 4 it is joined with the local path in the same way. Convolving before resizing gives what
    convolving their concatenation would, for a fraction of the cost.

    Args:
        channels: widths of the encoder's four maps, strides 4, 8, 16 and 32.
        width: of the deep map and of the fused one.
        local_path: "none", "light" or "full".
        local_width: of the local path.
        sasm: "none", "uniform" or "attention".
        dca: class regions; its losses exist in training only, and their classifier is in no exported graph.
        upsample: from stride 8 to 4, see `upsample.make_upsample`.
        mask_weight, region_weight, separation_weight: of the terms of `RegionLosses`; 0 leaves a term out.
        dropout: share of fused channels dropped before the classifier.

    Raises:
        ValueError: unknown kind of a part, or a negative weight.
    """

    output_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        width: int = 128,
        *,
        local_path: str = "light",
        local_width: int = 64,
        sasm: str = "uniform",
        dca: bool = True,
        upsample: str = "bilinear",
        mask_weight: float = 0.4,
        region_weight: float = 0.1,
        separation_weight: float = 0.05,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, kind, kinds in (
            ("local_path", local_path, ("light", "full")),
            ("sasm", sasm, ("uniform", "attention")),
        ):
            if kind not in ("none", *kinds):
                raise ValueError(f"{name} is {kind!r}; it can be none, {' or '.join(kinds)}")
        self.num_classes = num_classes
        has_local = local_path != "none"
        self.local_path = (
            LocalPath(channels[0], local_width, light=local_path == "light") if has_local else None
        )
        self.deep = nn.ModuleList(_conv_norm(c, width) for c in channels[1:])
        guide_channels = local_width if has_local else 0
        self.sasm = SpatiallyAdaptiveSeparation(width, guide_channels, sasm) if sasm != "none" else None
        self.dca = DiscriminativeCrossAttention(width, num_classes) if dca else None
        self.region_losses = (
            RegionLosses(width, num_classes, mask_weight, region_weight, separation_weight) if dca else None
        )
        self.fuse_deep = _conv_norm(width, width)
        self.fuse_local = _conv_norm(local_width, width) if has_local else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.apply(_init_weights)
        self.upsample = make_upsample(upsample, width, 2)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        local, x = self._separated(feats)
        if self.dca is not None:
            x = self.dca(x)[0]
        return self._classified(local, x)

    def forward_train(
        self, feats: Sequence[Tensor], mask: Tensor, ignore_index: int
    ) -> tuple[Tensor, Losses]:
        local, x = self._separated(feats)
        losses: Losses = {}
        if self.dca is not None and self.region_losses is not None:
            x, scores, regions = self.dca(x)
            losses = self.region_losses(scores, regions, mask, ignore_index)
        return self._classified(local, x), losses

    def _separated(self, feats: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
        """Local map at stride 4, or None, and separated deep map at stride 8."""
        maps = [conv(feat) for conv, feat in zip(self.deep, feats[1:], strict=True)]
        x = maps[0]
        for i, deep in enumerate(maps[1:], 1):
            x = x + F.interpolate(deep, scale_factor=float(2**i), mode="bilinear", align_corners=False)
        x = F.relu(x)
        local = self.local_path(feats[0]) if self.local_path is not None else None
        if self.sasm is not None:
            x = self.sasm(x, F.avg_pool2d(local, 2) if local is not None else None)
        return local, x

    def _classified(self, local: Tensor | None, x: Tensor) -> Tensor:
        """Logits from the local and the deep map, fused at stride 4."""
        x = self.upsample(self.fuse_deep(x))
        if local is not None and self.fuse_local is not None:
            x = x + self.fuse_local(local)
        logits: Tensor = self.classifier(self.dropout(F.relu(x)))
        return logits


def _init_weights(module: nn.Module) -> None:
    init_weights(module)
    if isinstance(module, (SpatiallyAdaptiveSeparation, DiscriminativeCrossAttention)):
        module.reset()  # after its layers: `apply` visits children first
