"""What TensorRT's parser wants of an ONNX graph, done to the bytes of the file: a device that builds has no onnx package.

TensorRT takes a uint8 input, but no operator on it other than Cast. A program for HWC images may transpose the bytes first and
cast then, which is the same as casting first. `cast_first` changes the order.

Source: onnx.proto (onnx 1.17) and the protocol buffers' wire format.
"""

from __future__ import annotations

from edgeseg.graph_files import wire_fields

_GRAPH = 7  # in a model
_NODE, _INPUT = 1, 11  # in a graph
_NAME = 1  # in an input
_READS, _WRITES, _OPERATOR = 1, 2, 4  # in a node

_Fields = list[tuple[int, bytes]]


def cast_first(model: bytes) -> bytes:
    """Let the graph cast its image before it transposes it: the Transpose that reads the image and the Cast behind swap.

    Exact: a transposition moves values, a cast changes each by itself. Any other model is returned as it is.

    Raises:
        ValueError: the bytes are no ONNX model.
    """
    graph = next((content for number, content in _split(model) if number == _GRAPH), b"")
    parts = _split(graph)
    images = [_texts(content, _NAME) for number, content in parts if number == _INPUT]
    nodes = [content for number, content in parts if number == _NODE]
    readers = [node for node in nodes if _texts(node, _READS) in images]
    casts = [node for node in nodes if any(set(_texts(node, _READS)) & set(_texts(reader, _WRITES)) for reader in readers)]
    if [_texts(node, _OPERATOR) for node in (*readers, *casts)] != [[b"Transpose"], [b"Cast"]]:
        return model
    changed = graph
    for place, worker in (readers + casts, casts + readers):
        changed = changed.replace(_field(_NODE, place), _field(_NODE, _in_place_of(place, worker)), 1)
    return model.replace(_field(_GRAPH, graph), _field(_GRAPH, changed), 1)


def _in_place_of(place: bytes, worker: bytes) -> bytes:
    """A node that does what `worker` does, between the input and the output of `place`."""
    ends = [field for field in _split(place) if field[0] in (_READS, _WRITES)]
    work = [field for field in _split(worker) if field[0] not in (_READS, _WRITES)]
    return b"".join(_field(number, content) for number, content in ends + work)


def _split(message: bytes) -> _Fields:
    return [(number, bytes(content)) for number, content in wire_fields(memoryview(message))]


def _texts(message: bytes, field: int) -> list[bytes]:
    return [content for number, content in _split(message) if number == field]


def _field(number: int, content: bytes) -> bytes:
    """A field with a length, as it stands in a message."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content
