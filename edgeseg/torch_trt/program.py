"""An ONNX program as a torch module that torch.export takes: operator by operator, shapes fixed, no onnx
package, no model code.

Only the process that compiles with Torch-TensorRT imports this file: torch is at its top. Types are those
that the program names, half precision where it does. Every pair of QuantizeLinear and DequantizeLinear
becomes one call of a function that rounds to INT8 and back, which whoever compiles hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from edgeseg.engines.onnx_files.graph import Array, Graph, Node
from edgeseg.engines.onnx_files.quantizers import FAKE_QUANTIZE, with_fake_quantizers
from edgeseg.torch_trt.operators import OPERATORS, check, run

Rounding = Callable[[Tensor, Tensor, bool], Tensor]
"""As `round_to_int8`."""


class TorchProgram(nn.Module):
    """A program: uint8 image in the program's layout -> uint8 class map, in any shape of its size.

    Args:
        quantize: what rounds to INT8 and back; None where the program does not.
    Raises:
        ValueError: an operator that programs do not have, or one that is used as in no program; also when it
            runs.
    """

    def __init__(self, graph: Graph, quantize: Rounding | None = None) -> None:
        super().__init__()
        graph = with_fake_quantizers(graph)
        if quantize is None and any(node.operator == FAKE_QUANTIZE for node in graph.nodes):
            raise ValueError("the program is INT8, and nothing rounds to INT8")
        self.graph, self.quantize = _folded(check(graph, {FAKE_QUANTIZE})), quantize
        self.names: dict[str, str] = {}
        for name, value in _tensors(self.graph):
            if name not in self.names:
                self.names[name] = f"c{len(self.names)}"
                self.register_buffer(self.names[name], torch.from_numpy(np.array(value)))

    def forward(self, image: Tensor) -> Tensor:
        values = {self.graph.inputs[0]: image}

        def tensor(name: str) -> Tensor:
            return values[name] if name in values else getattr(self, self.names[name])

        for node in self.graph.nodes:
            fake = node.operator == FAKE_QUANTIZE
            made = (self._rounded(node, tensor),) if fake else run(node, tensor, self.graph.constants)
            values.update(zip(node.outputs, made, strict=True))
        return values[self.graph.outputs[0]]

    def _rounded(self, node: Node, tensor: Callable[[str], Tensor]) -> Tensor:
        assert self.quantize is not None
        return self.quantize(tensor(node.inputs[0]), tensor(_amax(node)), node.attributes["narrow"])


def round_to_int8(x: Tensor, amax: Tensor, narrow: bool) -> Tensor:
    """Round to multiples of amax / 127, clipped to -127 (narrow) or -128 .. 127 of them; ties to even, as
    QuantizeLinear's.

    Args:
        amax: float32; () for all of x, or (C,) for the slices of axis 0.
    """
    scale = (amax / 127).to(x.dtype)
    scale = scale.reshape(scale.shape + (1,) * (x.ndim - 1)) if scale.ndim else scale
    return torch.round(x / scale).clamp(-127 if narrow else -128, 127) * scale


def _amax(node: Node) -> str:
    return f"{node.outputs[0]} amax"


def _tensors(graph: Graph) -> Iterator[tuple[str, Array]]:
    """The constants that operators read as tensors."""
    for node in graph.nodes:
        if node.operator == FAKE_QUANTIZE:
            yield _amax(node), node.attributes["amax"]
        fixed = OPERATORS[node.operator].fixed if node.operator in OPERATORS else ()
        yield from (
            (n, graph.constants[n])
            for place, n in enumerate(node.inputs)
            if n in graph.constants and place not in fixed
        )


def _folded(graph: Graph) -> Graph:
    """Without the arithmetic on constants: the sizes of a padding as torch's exporter writes them, casts of
    stored weights.
    """
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node.operator == FAKE_QUANTIZE or any(name and name not in constants for name in node.inputs):
            nodes.append(node)
        else:
            made = run(node, lambda name: torch.from_numpy(np.array(constants[name])), constants)
            constants.update((name, value.numpy()) for name, value in zip(node.outputs, made, strict=True))
    return replace(graph, nodes=tuple(nodes), constants=constants)
