"""BatchNorm folded into the convolution before it, wherever a family's own rewrites have left one."""

from __future__ import annotations

from torch import nn

from edgeseg.models.layers import FoldableNorms
from edgeseg.rewrite.rewrites import fold_batch_norm


def fold_norms(model: nn.Module) -> None:
    """Fold every BatchNorm that follows a convolution, in place. Runtimes do it too, but not once quantizers
    stand between.

    It follows in an `nn.Sequential`, and where a module says so (`models.layers.FoldableNorms`).
    """
    for module in list(model.modules()):
        if isinstance(module, FoldableNorms):
            for conv, norm in module.foldable_norms.items():
                _fold(module, conv, norm)
        elif isinstance(module, nn.Sequential):
            for index in range(1, len(module)):
                _fold(module, str(index - 1), str(index))


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = parent.get_submodule(conv_name), getattr(parent, norm_name)
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        fold_batch_norm(conv, norm)
        parent.add_module(norm_name, nn.Identity())
