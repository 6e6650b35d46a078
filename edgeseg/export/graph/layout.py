"""Exact edits of how tensors lie in memory: transposes and reshapes travel down the graph until they meet and
cancel.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from edgeseg.export.graph.editor import GraphEditor, attribute, attributes

ELEMENTWISE = frozenset(
    {
        "Add",
        "Cast",
        "Clip",
        "DequantizeLinear",
        "Div",
        "Erf",
        "Gelu",
        "Max",
        "Min",
        "Mul",
        "QuantizeLinear",
        "Relu",
        "Sub",
    }
)
"""Operators that compute every element from those at the same place, constants broadcast."""
IMAGE_CHANNELS = 4
"""More of them is no image."""


def cast_image_first(graph: GraphEditor) -> int:
    """Cast an image that is transposed as bytes before it is transposed; in place.

    Exact: a transposition moves values, a cast changes each by itself. TensorRT takes bytes into a Cast and
    into nothing else.

    Returns:
        How many casts went first: 1 or 0.
    """
    found = 0
    for move in graph.of_type("Transpose"):
        image, cast = move.input[0], graph.only_user(move.output[0])
        if graph.is_input(image) and graph.only_user(image) is move and cast and cast.op_type == "Cast":
            moves, casts = NodeProto(), NodeProto()
            moves.CopyFrom(move)
            casts.CopyFrom(cast)
            for node, work in ((move, casts), (cast, moves)):
                node.op_type, node.name = work.op_type, work.name
                del node.attribute[:]
                node.attribute.extend(work.attribute)
            found += 1
    return found


def settle_transposes(graph: GraphEditor) -> None:
    """Move every Transpose behind the elementwise operators that follow it, and join those that meet; in
    place.

    f(T(x)) = T(f(x)) for an elementwise f whose other inputs are single values, or transposed alike; two
    transposes in a row are one, or none. A transpose that comes to rest behind a QuantizeLinear moves bytes
    where it moved floats.
    """
    moved = True
    while moved:
        moved = False
        for node in graph.of_type("Transpose"):
            if graph.producer(node.output[0]) is node:  # not joined with another, meanwhile
                moved |= _join(graph, node) or _sink(graph, node)


def settle_reshapes(graph: GraphEditor) -> None:
    """Move every Reshape and Transpose behind the QuantizeLinear that alone reads it, so that it moves bytes;
    in place.
    """
    pending = graph.of_type("QuantizeLinear")
    while pending:
        node = pending.pop()
        mover = graph.producer(node.input[0])
        if (
            mover is None
            or mover.op_type not in ("Reshape", "Transpose")
            or graph.only_user(mover.output[0]) is not node
        ):
            continue
        if graph.needed(node.input[1]).ndim:
            continue
        graph.rewire(node, mover.output[0], mover.input[0])
        behind = graph.add(
            mover.op_type,
            [node.output[0], *mover.input[1:]],
            f"{mover.output[0]}/codes",
            **attributes(mover),
        )
        after = graph.producer(behind)
        for user in graph.users(node.output[0]):
            if user is not after:
                graph.rewire(user, node.output[0], behind)
        graph.drop(mover)
        pending.append(node)


def _join(graph: GraphEditor, node: NodeProto) -> bool:
    """Let a transpose of a transpose read the first one's source; drop it where both together do nothing."""
    source, perm = node.input[0], list(attribute(node, "perm"))
    before = graph.producer(source)
    joined = False
    if before is not None and before.op_type == "Transpose":
        perm = [attribute(before, "perm")[axis] for axis in perm]
        graph.rewire(node, source, before.input[0])
        node.attribute[0].ints[:] = perm
        if not graph.users(source):
            graph.drop(before)
        joined = True
    if perm == list(range(len(perm))):
        graph.replace(node.output[0], node.input[0])
        graph.drop(node)
        return True
    return joined


def _sink(graph: GraphEditor, node: NodeProto) -> bool:
    """Move a transpose behind the elementwise operators that read it and whose other inputs can be had the
    other way round.
    """
    moved = False
    for user in graph.users(node.output[0]):
        sources = (
            [_source(graph, name, node, user) for name in user.input]
            if user.op_type in ELEMENTWISE
            else [None]
        )
        if any(source is None for source in sources) or graph.is_output(user.output[0]):
            continue
        inputs = [source for source in sources if source is not None]
        before = graph.add(user.op_type, inputs, f"{user.output[0]}/moved", user.domain, **attributes(user))
        perm = attribute(node, "perm")
        graph.replace(user.output[0], graph.add("Transpose", [before], f"{user.output[0]}/order", perm=perm))
        graph.drop(user)
        moved = True
    if moved and not graph.users(node.output[0]) and not graph.is_output(node.output[0]):
        graph.drop(node)
    return moved


def _source(graph: GraphEditor, name: str, transpose: NodeProto, user: NodeProto) -> str | None:
    """The tensor that, transposed as the node does, is the one of this name; None where there is none."""
    values = graph.constant(name)
    if values is not None:
        return name if values.size == 1 else _along_rows(graph, name, transpose, user)
    maker = graph.producer(name)
    if (
        maker is not None
        and maker.op_type == "Transpose"
        and attribute(maker, "perm") == attribute(transpose, "perm")
    ):
        return maker.input[0]
    return None


def _along_rows(graph: GraphEditor, name: str, transpose: NodeProto, user: NodeProto) -> str | None:
    """One value a channel of an image, written out for a row of its pixels, channels last: (C, 1, 1) -> (W,
    C).

    Runtimes compute along rows; three values that repeat are a hundred times slower. Maps of many channels
    stay as they are.
    """
    values, shape = graph.needed(name), graph.shape(user.output[0])
    if attribute(transpose, "perm") != [0, 3, 1, 2] or shape is None or len(shape) != 4:
        return None
    _, channels, _, width = shape
    if values.shape != (channels, 1, 1) or channels > IMAGE_CHANNELS:
        return None
    return graph.add_constant(np.tile(values.reshape(1, -1), (width, 1)), f"{name}/row")
