"""Runs a model again on the same input with one layer changed, from that layer on: what comes before gives
what it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class _Call:
    """One call of a module: when it began and ended, counted in calls, and what it returned."""

    begin: int
    end: int = -1
    output: Any = None


class Replay:
    """One input's pass through a model, kept block by block.

    Exact: a replay computes bit for bit what a whole pass would. A block that finished before the changed
        layer began returns a
    copy of what it returned; everything else runs. Kept are the outputs of modules that hold further modules
    and run once.

    Args:
        model: in evaluation mode; the state that `replay` is to be compared with is in force.
        x: its input.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._model, self._x = model, x
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._clock = 0
        handles = []
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(self._begin))
            handles.append(module.register_forward_hook(self._end))
        try:
            self.output: Tensor = model(x)
        finally:
            for handle in handles:
                handle.remove()
        self._blocks = sorted(
            (
                (calls[0].end, module, calls[0].output)
                for module, calls in self._calls.items()
                if len(calls) == 1 and calls[0].output is not None and module is not model
            ),
            key=lambda block: block[0],
        )

    def runs(self, module: nn.Module) -> bool:
        """Whether the model calls this module at all."""
        return module in self._calls

    @torch.no_grad()
    def replay(self, changed: nn.Module) -> Tensor:
        """The model's output now, when nothing but `changed` differs from the pass that was kept.

        Raises:
            ValueError: the model does not call `changed`.
        """
        if changed not in self._calls:
            raise ValueError("the model does not call this module: nothing to replay")
        begin = self._calls[changed][0].begin
        with _returning({module: output for end, module, output in self._blocks if end < begin}):
            out: Tensor = self._model(self._x)
            return out

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._clock += 1
        self._calls.setdefault(module, []).append(_Call(self._clock))

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._clock += 1
        call = next(call for call in reversed(self._calls[module]) if call.end < 0)
        call.end = self._clock
        if _is_block(module):
            call.output = _copy(output)


@contextmanager
def _returning(outputs: Mapping[nn.Module, Any]) -> Iterator[None]:
    """In this context modules return copies of what is given for them, and do not run."""
    before = {module: module.__dict__.get("forward") for module in outputs}
    for module, output in outputs.items():
        module.__dict__["forward"] = _constant(output)  # not setattr: modelopt's modules watch it
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _constant(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _copy(output)


def _is_block(module: nn.Module) -> bool:
    """Whether a module holds others, a layer's own quantizers not counted."""
    return any(not name.endswith("_quantizer") for name, _ in module.named_children())


def _copy(output: Any) -> Any:
    """A copy, as what follows may write into it; None where the output is not made of tensors."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, list | tuple):
        copies = [_copy(item) for item in output]
        return None if any(copy is None for copy in copies) else type(output)(copies)
    return None
