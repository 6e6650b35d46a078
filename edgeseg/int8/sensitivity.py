"""Which layers INT8 hurts most: switching quantizers layer by layer, and reverting layers until a budget
holds.

What is measured is the caller's: this file switches, orders and chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from edgeseg.int8.rules import quantizers

Mode = Literal["float-one", "quantize-one"]
"""All layers INT8 but one, or one INT8 and all others float."""


class LayerSwitch:
    """The INT8 layers of a model with quantizers, each of which can be made float and INT8 again.

    Attributes:
        names: layers whose quantizers are on, in the model's order. Those that the rules keep float are not
            among them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._quantizers: dict[str, list[Any]] = {}
        for layer, _, quantizer in quantizers(model):
            if quantizer.is_enabled:
                self._quantizers.setdefault(layer, []).append(quantizer)
        modules = dict(model.named_modules())
        self.modules: dict[str, nn.Module] = {name: modules[name] for name in self._quantizers}
        self.names = tuple(self._quantizers)

    @contextmanager
    def only(self, int8: Iterable[str]) -> Iterator[None]:
        """In this context these layers are INT8, and all others float. Afterwards all are INT8."""
        wanted = set(int8)
        if unknown := wanted - set(self.names):
            raise ValueError(f"no INT8 layers: {', '.join(sorted(unknown))}")
        try:
            for name in self.names:
                self._switch(name, name in wanted)
            yield
        finally:
            for name in self.names:
                self._switch(name, True)

    def base(self, mode: Mode) -> tuple[str, ...]:
        """The INT8 layers of what a sweep's variants are compared with: all of them, or none."""
        return self.names if mode == "float-one" else ()

    @contextmanager
    def flipped(self, name: str, mode: Mode) -> Iterator[None]:
        """Within `only(base(mode))`: one layer the other way round."""
        self._switch(name, mode == "quantize-one")
        try:
            yield
        finally:
            self._switch(name, mode == "float-one")

    def _switch(self, name: str, on: bool) -> None:
        for quantizer in self._quantizers[name]:
            quantizer.enable() if on else quantizer.disable()


def fewest(ranked: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> Sequence[str] | None:
    """The shortest beginning of `ranked` for which `holds` is true; None where it is not even true of all.

    Lengths 0, 1, 2, 4, ... are tried until one holds, then the gap before it is halved: about 2 log2(n)
    trials. Where `holds` is not monotone (accuracy is nearly so), the beginning that is returned holds, but a
    shorter one might.
    """
    low, high = -1, 0
    while not holds(ranked[:high]):
        if high == len(ranked):
            return None
        low, high = high, min(max(1, 2 * high), len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        if holds(ranked[:middle]):
            high = middle
        else:
            low = middle
    return ranked[:high]
