"""P1 of an INT8 program: the quantized torch model against the graph, with the same integers imposed on both
sides.

Both sides compute float32 sums in their own order, so values differ in their last bits; where such a value
lies at a tie, the two round to neighbours, a whole step apart, and that step goes on through the net. After a
hundred quantizers logits differ by percents though both sides are right; torch does not even agree with
itself at another number of threads. A max abs of the plain outputs measures these flips and nothing else.

So ONNX Runtime, with every optimisation off, runs the graph and gives out what goes into each quantizer and
the integers that come out. Then the torch model runs on the same image, each quantizer asked what it would
have made of ONNX Runtime's input, and answering with ONNX Runtime's integers. What is left to differ is the
order of additions between two roundings. Compared, over all quantizers:

    different_codes      integers that differ where both sides round the same input: wrong zero point, range
                         or rounding
    input_error_steps    what goes into a quantizer, in its steps: wrong weights, biases or operators since
                         those before it
    logits_error         the same of the logits, over the largest of them

A quantizer that one side lacks is an error too. They are matched by scale and shape; where several have the
same, in the order in which the model calls them, which the graph keeps.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgeseg.engines.onnxruntime.backend import open_graph
from edgeseg.export.graph.cleanup import with_logits
from edgeseg.export.parity.runners import pixels_of
from edgeseg.int8.fake import scale_of
from edgeseg.int8.rules import quantizers
from edgeseg.metrics import mask_agreement, sqnr_db
from edgeseg.models.reference import TorchReference
from edgeseg.specs import ImageU8, Program

_SHOWN = 5


class Misplaced(Exception):
    """A quantizer of one side has no match on the other."""


@dataclass(frozen=True, slots=True)
class Imposed:
    """What `compare_imposed` measured, the worst of all images.

    Attributes:
        input_error_steps: by quantizer, as "<layer>.<input|output|a|b>".
        free: both sides left alone, as an engine runs: what flipped steps make of it. Told, not judged.
    """

    logits_error: float
    peak_logit: float
    input_error_steps: dict[str, float]
    different_codes: int
    codes: int
    free: dict[str, float]

    def figures(self) -> dict[str, float]:
        """Those that are judged."""
        return {
            "logits_error": self.logits_error,
            "input_error_steps": max(self.input_error_steps.values()),
            "different_codes": self.different_codes,
        }

    def to_json(self) -> dict[str, Any]:
        worst = sorted(self.input_error_steps.items(), key=lambda item: -item[1])[:_SHOWN]
        return {
            **self.figures(),
            "quantizers": len(self.input_error_steps),
            "codes": self.codes,
            "peak_logit": self.peak_logit,
            "worst_inputs": dict(worst),
            "left_alone": self.free,
        }


def compare_imposed(reference: TorchReference, program: Program, images: Sequence[ImageU8]) -> Imposed:
    """Compare a quantized torch model with its canonical program.

    Args:
        reference: the model with its quantizers, at the program's size, mask stride and ISR plan.
        images: (H, W, 3) uint8 RGB of the program's size; at least one.
    Raises:
        Misplaced: quantizers do not match.
        ValueError: no images.
    """
    if not images:
        raise ValueError("parity needs an image")
    graph = _Watched(program)
    total = _Total()
    for image_rgb in images:
        seen = graph.run(image_rgb)
        alone = reference.logits(image_rgb).cpu().numpy()
        with _imposing(reference.model, seen, total):
            imposed = reference.logits(image_rgb).cpu().numpy()
        total.add_logits(imposed, alone, seen.logits)
    return Imposed(
        total.logits_error / (total.peak or 1.0),
        total.peak,
        total.input_error,
        total.different,
        total.codes,
        total.free,
    )


@dataclass(frozen=True, slots=True)
class _Quantized:
    """One quantizer of the graph on one image: what went in, float32, and the integers that came out, int8,
    and its scale.
    """

    node: str
    scale: float
    before: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the graph made of an image."""

    logits: npt.NDArray[np.float32]
    quantized: list[_Quantized]


_Left = dict[tuple[float, tuple[int, ...]], deque[_Quantized]]
"""Quantizers of the graph that the model did not call yet, by scale and shape, in the graph's order."""


class _Watched:
    """A canonical program in ONNX Runtime, without optimisation, that also gives both sides of every
    activation's quantizer.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        graph = with_logits(onnx.load(program.onnx_path))
        constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        constants |= {
            node.output[0]: node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant"
        }
        self._nodes = [
            (node.name, float(numpy_helper.to_array(constants[node.input[1]])), node.input[0], node.output[0])
            for node in graph.graph.node
            if node.op_type == "QuantizeLinear"
        ]
        self._wanted = list(dict.fromkeys(name for _, _, *both in self._nodes for name in both))
        codes = {code for _, _, _, code in self._nodes}
        graph.graph.output.extend(
            helper.make_tensor_value_info(
                name, TensorProto.INT8 if name in codes else TensorProto.FLOAT, None
            )
            for name in self._wanted
        )
        self._session = open_graph(graph.SerializeToString(), program, optimise=False)

    def run(self, image_rgb: ImageU8) -> _Seen:
        logits, *found = self._session.run(
            ["logits", *self._wanted], {"image": pixels_of(self._program, image_rgb)}
        )
        values = dict(zip(self._wanted, found, strict=True))
        return _Seen(
            logits, [_Quantized(name, scale, values[a], values[b]) for name, scale, a, b in self._nodes]
        )


@dataclass
class _Total:
    """The worst of all images so far."""

    logits_error: float = 0.0
    peak: float = 0.0
    input_error: dict[str, float] = field(default_factory=dict)
    different: int = 0
    codes: int = 0
    free: dict[str, float] = field(default_factory=dict)

    def add_logits(self, imposed: npt.NDArray[Any], alone: npt.NDArray[Any], graph: npt.NDArray[Any]) -> None:
        self.logits_error = max(self.logits_error, float(np.abs(imposed - graph).max()))
        self.peak = max(self.peak, float(np.abs(imposed).max()))
        masks = [logits[0].argmax(0).astype(np.uint8) for logits in (alone, graph)]
        self.free = {
            "mask_agreement": min(self.free.get("mask_agreement", 1.0), mask_agreement(*masks)),
            "sqnr_db": min(self.free.get("sqnr_db", np.inf), sqnr_db(alone, graph)),
            "max_abs": max(self.free.get("max_abs", 0.0), float(np.abs(alone - graph).max())),
        }

    def add(self, name: str, input_error: float, different: int, codes: int) -> None:
        self.input_error[name] = max(self.input_error.get(name, 0.0), input_error)
        self.different += different
        self.codes += codes


@contextmanager
def _imposing(model: nn.Module, seen: _Seen, total: _Total) -> Iterator[None]:
    """In this context every quantizer of a model's activations answers with the graph's integers, and is
    compared with them.

    Raises:
        Misplaced: at the end, where the graph has quantizers that the model did not call.
    """
    left: _Left = defaultdict(deque)
    for one in seen.quantized:
        left[one.scale, one.before.shape].append(one)
    handles = [
        quantizer.register_forward_hook(_Imposer(f"{layer}.{role}", left, total))
        for layer, role, quantizer in quantizers(model)
        if role != "weight" and quantizer.is_enabled
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if spare := [one.node for same in left.values() for one in same]:
        raise Misplaced(
            f"the graph has {len(spare)} quantizers that the model lacks: {', '.join(spare[:_SHOWN])}"
        )


class _Imposer:
    """The hook of one quantizer."""

    def __init__(self, name: str, left: _Left, total: _Total) -> None:
        self.name, self._left, self._total = name, left, total

    def __call__(self, quantizer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        scale, shape = float(scale_of(quantizer.amax)), tuple(output.shape)
        if not self._left[scale, shape]:
            raise Misplaced(
                f"{self.name} rounds {shape} to steps of {scale:.6g}; the graph has no quantizer like it"
            )
        one = self._left[scale, shape].popleft()
        before = torch.from_numpy(one.before)
        answer = torch.from_numpy(one.codes).to(torch.float32) * scale_of(quantizer.amax)
        own = quantizer.forward(before)  # not a call: that would come back here
        error = float((inputs[0] - before).abs().max()) / scale
        self._total.add(self.name, error, int((own != answer).sum()), answer.numel())
        return answer
