"""Operators that ONNX Runtime runs for a program: what its optimiser made of the graph, counted.

An INT8 program is only as fast as the integer operators in it. What the optimiser leaves between
DequantizeLinear and QuantizeLinear runs in float, and is slower than the float program.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeseg.bundle.graph_files import wire_fields
from edgeseg.engines.onnxruntime.backend import open_program
from edgeseg.specs import Program

INTEGER_PRODUCTS = ("MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul")
"""Operators that multiply integers."""
FLOAT_PRODUCTS = ("Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul")
"""Operators that multiply floats."""
_GRAPH, _NODE, _OP = 7, 1, 4
"""Numbers of the fields on the way from a model to the names of its operators."""


def optimised_ops(program: Program, options: Mapping[str, Any]) -> Counter[str]:
    """Count the nodes of each operator that ONNX Runtime's optimiser leaves of a program, with the session
    options of an engine.

    Raises:
        BuildError: ONNX Runtime refuses the program.
    """
    with tempfile.TemporaryDirectory(prefix="edgeseg-ops-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_program(program, options, optimised, "ONNX")
        return count_ops(optimised.read_bytes())


def count_ops(model: bytes) -> Counter[str]:
    """Count the nodes of each operator in an ONNX file, read without the onnx package. Raises ValueError:
    no ONNX model.
    """
    graphs = (graph for number, graph in wire_fields(memoryview(model)) if number == _GRAPH)
    nodes = (node for graph in graphs for number, node in wire_fields(graph) if number == _NODE)
    return Counter(
        bytes(text).decode() for node in nodes for number, text in wire_fields(node) if number == _OP
    )


def fused_ops(counts: Mapping[str, int], operators: Iterable[str] = INTEGER_PRODUCTS) -> dict[str, int]:
    """Those of some operators that occur, by default the ones that multiply integers."""
    return {name: counts[name] for name in operators if counts.get(name)}
