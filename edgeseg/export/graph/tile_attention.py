"""Attention in pieces: an exact edit that keeps the scores of attention in a core's cache."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from edgeseg.export.graph.editor import GraphEditor, attributes

PIECE_BYTES = 1 << 20
"""What the scores of one piece take, as float32: a second-level cache of today's cores."""
PRODUCTS = ("MatMul", "MatMulIntegerToFloat")
_BETWEEN = ("Softmax", "QuantizeLinear", "DequantizeLinear")


def attention_in_pieces(graph: GraphEditor, piece_bytes: int = PIECE_BYTES) -> int:
    """Compute softmax(q k^T) v for some queries after the others; in place.

    It has one row a query, and no row depends on another. The scores of all queries at once would go to
    memory and come back, twice. Shapes are those of the model as it came to the editor.

    Returns:
        How many softmaxes were split.
    """
    found = 0
    for softmax in graph.of_type("Softmax"):
        scores, shape = graph.producer(softmax.input[0]), graph.shape(softmax.output[0])
        if scores is None or scores.op_type not in PRODUCTS or shape is None or len(shape) < 3:
            continue
        chain = _to_product(graph, softmax)
        pieces = _pieces(shape, piece_bytes)
        if chain and pieces > 1 and graph.only_user(scores.output[0]) is softmax:
            _split(graph, [scores, *chain], len(shape) - 2, pieces, shape[-2])
            found += 1
    return found


def _to_product(graph: GraphEditor, softmax: NodeProto) -> list[NodeProto]:
    """The nodes from a softmax to the product that takes its result as the left factor; empty where there is
    none.
    """
    chain = [softmax]
    while chain[-1].op_type not in PRODUCTS:
        name = chain[-1].output[0]
        user = graph.only_user(name)
        if user is None or user.op_type not in (*_BETWEEN, *PRODUCTS) or user.input[0] != name:
            return []
        chain.append(user)
    return chain


def _pieces(shape: tuple[int, ...], piece_bytes: int) -> int:
    """The smallest number of equal pieces of the rows that are small enough; as many as there are rows where
    none is.
    """
    rows, size = shape[-2], 4 * math.prod(shape)
    return next(
        (count for count in range(1, rows + 1) if rows % count == 0 and size <= count * piece_bytes), rows
    )


def _split(graph: GraphEditor, chain: list[NodeProto], axis: int, pieces: int, rows: int) -> None:
    source, end = chain[0].input[0], chain[-1].output[0]
    sizes = graph.add_constant(np.full(pieces, rows // pieces, np.int64), f"pieces_{pieces}_{rows // pieces}")
    ends = []
    for value in graph.add_many("Split", [source, sizes], f"{source}/piece", pieces, axis=axis):
        for node in chain:
            value = graph.add(
                node.op_type,
                [value, *node.input[1:]],
                f"{node.output[0]}/piece",
                node.domain,
                **attributes(node),
            )
        ends.append(value)
    graph.replace(end, graph.add("Concat", ends, f"{end}/pieces", axis=axis))
