"""The canonical INT8 program: explicit QuantizeLinear and DequantizeLinear, as TensorRT and every ONNX
runtime read them.

Weights are stored as int8 and dequantized per output channel (axis 0); activations are quantized per tensor
with zero point 0; biases stay float32, as TensorRT takes no integer ones. Every quantizer of the torch model
is one pair of nodes, under its path in the model, in the order in which the model calls them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from torch import nn

from edgeseg.errors import BuildError
from edgeseg.export.graph.cleanup import clean
from edgeseg.export.graph.editor import Array, GraphEditor
from edgeseg.export.program import check_export, trace_program, write_model
from edgeseg.rewrite.form import Deployed
from edgeseg.specs import (
    Form,
    ImageSpec,
    IsrPlan,
    LabelSpace,
    Program,
)

LOWEST = -127
"""The smallest code of a weight: symmetric, as TensorRT wants it."""


class QuantizedModel(Protocol):
    """What is exported: `edgeseg.checkpoints.models.Quantized` is one. The model's quantizers have their
    ranges.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def image(self) -> ImageSpec: ...
    @property
    def labels(self) -> LabelSpace: ...
    @property
    def arch(self) -> str: ...
    @property
    def plan(self) -> IsrPlan: ...


def export_qdq(quantized: QuantizedModel, *, mask_stride: int, out: Path, opset: int = 17) -> Program:
    """Write a quantized model, at the ISR plan in force, as the canonical INT8 program.

    Args:
        mask_stride, opset: as in `export_program`.
        out: the file; it appears whole or not at all.
    Raises:
        BuildError: as in `export_program`; or the model has no quantizers.
    """
    check_export(quantized.model, quantized.image, quantized.labels, mask_stride, opset)
    deployed = Deployed(quantized.model, quantized.image)
    model = with_integer_weights(clean(trace_program(deployed, mask_stride, opset)))
    onnx.checker.check_model(model, full_check=True)
    write_model(model, out)
    return Program(
        out,
        quantized.image,
        quantized.labels,
        mask_stride,
        quantized.plan,
        "int8",
        quantized.arch,
        form=Form.QDQ,
    )


def with_integer_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are stored as the integers that their QuantizeLinear gives.

    Raises:
        BuildError: nothing is quantized.
    """
    graph = GraphEditor(model)
    quantizers = [node for node in graph.nodes if node.op_type == "QuantizeLinear"]
    if not quantizers:
        raise BuildError("the model has no quantizers", hint="edgeseg quantize RECIPE")
    for node in quantizers:
        weight, scale = graph.constant(node.input[0]), graph.constant(node.input[1])
        if weight is not None and scale is not None:
            graph.replace(
                node.output[0], graph.add_constant(integers(weight, scale), f"{node.input[0]}.int8")
            )
    return graph.finish()


def integers(weight: Array, scale: Array) -> Array:
    """The codes of a weight, int8, one scale for all or one per slice of axis 0; ties go to even, as
    QuantizeLinear's do.
    """
    steps = scale.reshape(scale.shape + (1,) * (weight.ndim - 1)) if scale.ndim else scale
    codes: Array = np.clip(np.round(weight / steps), LOWEST, 127).astype(np.int8)
    return codes
