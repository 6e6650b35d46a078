"""What TensorRT's parser wants of an ONNX graph, done to the bytes of the file: a device that builds has no
onnx package.

TensorRT takes a uint8 input, but no operator on it other than Cast. A program for HWC images may transpose
the bytes first and cast then, which is the same as casting first. `cast_first` changes the order.

Source: onnx.proto (onnx 1.17) and the protocol buffers' wire format.
"""

from __future__ import annotations

from edgeseg.engines.onnx_files.wire import field, fields, texts

_GRAPH = 7  # in a model
_NODE, _INPUT = 1, 11  # in a graph
_NAME = 1  # in an input
_READS, _WRITES, _OPERATOR = 1, 2, 4  # in a node


def cast_first(model: bytes) -> bytes:
    """Let the graph cast its image before it transposes it: the Transpose that reads the image and the Cast
    behind swap.

    Exact: a transposition moves values, a cast changes each by itself. Any other model is returned as it is.

    Raises:
        ValueError: the bytes are no ONNX model.
    """
    graph = next((content for number, content in fields(model) if number == _GRAPH), b"")
    parts = fields(graph)
    images = [texts(content, _NAME) for number, content in parts if number == _INPUT]
    nodes = [content for number, content in parts if number == _NODE]
    readers = [node for node in nodes if texts(node, _READS) in images]
    casts = [
        node
        for node in nodes
        if any(set(texts(node, _READS)) & set(texts(reader, _WRITES)) for reader in readers)
    ]
    if [texts(node, _OPERATOR) for node in (*readers, *casts)] != [[b"Transpose"], [b"Cast"]]:
        return model
    changed = graph
    for place, worker in (readers + casts, casts + readers):
        changed = changed.replace(field(_NODE, place), field(_NODE, _in_place_of(place, worker)), 1)
    return model.replace(field(_GRAPH, graph), field(_GRAPH, changed), 1)


def _in_place_of(place: bytes, worker: bytes) -> bytes:
    """A node that does what `worker` does, between the input and the output of `place`."""
    ends = [part for part in fields(place) if part[0] in (_READS, _WRITES)]
    work = [part for part in fields(worker) if part[0] not in (_READS, _WRITES)]
    return b"".join(field(number, content) for number, content in ends + work)
