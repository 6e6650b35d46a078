"""Small canonical INT8 graphs, made without torch, in which every step is a power of two.

Sums of codes then are exact in float32 as well, so that an exact edit must give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


class QdqGraph:
    """A graph that is written downwards; every method returns the name of what it added."""

    def __init__(self, seed: int = 0, **inputs: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def rounded(self, x: str, step: float = 1 / 32) -> str:
        """An activation quantizer."""
        scale, zero = self.constant(step), self.constant(0, np.int8)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, scale, zero), scale, zero)

    def weight(self, *shape: int) -> str:
        """int8 codes, one step for each slice of axis 0."""
        codes = self.constant(self.rng.integers(-127, 128, shape), np.int8)
        steps = self.constant(2.0 ** self.rng.integers(-9, -5, shape[0]))
        return self.add("DequantizeLinear", codes, steps, self.constant(np.zeros(shape[0]), np.int8), axis=0)

    def bias(self, size: int) -> str:
        return self.constant(self.rng.integers(-64, 65, size) / 64)

    def conv(
        self, x: str, channels: int, out: int, kernel: int = 1, stride: int = 1, depthwise: bool = False
    ) -> str:
        weight = self.weight(out, 1 if depthwise else channels, kernel, kernel)
        sizes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.add(
            "Conv", self.rounded(x), weight, self.bias(out), group=channels if depthwise else 1, **sizes
        )

    def linear(self, x: str, channels: int, out: int) -> str:
        product = self.add(
            "MatMul", self.rounded(x), self.add("Transpose", self.weight(out, channels), perm=[1, 0])
        )
        return self.add("Add", self.bias(out), product)

    def model(self, output: str) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in self.inputs.items()
        ]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "qdq", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model)  # the output's
        onnx.checker.check_model(model, full_check=True)
        return model

    def feed(self) -> dict[str, np.ndarray]:
        return {
            name: self.rng.normal(0, 1.5, shape).astype(np.float32) for name, shape in self.inputs.items()
        }


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray], *, optimised: bool = False) -> np.ndarray:
    """What ONNX Runtime makes of a graph."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    (y,) = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"]).run(
        None, feed
    )
    return np.asarray(y)
