"""Facts of an ONNX graph, told without the onnx package and before any runtime opens it: the other files that
it reads, its opset, and the operators that read its image.

A tensor of an ONNX file may name another file that holds its values, by a path that the runtime will open.
Only the fields on the way from the model to its tensors are followed; whatever they hold is counted, even
where a runtime would not use it.

Source: onnx.proto (onnx 1.17) and the protocol buffers' wire format.
"""

from __future__ import annotations

from collections.abc import Iterator

_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "External"},
}
"""Message -> number of each field that leads to tensors -> the message in it."""
_KEY, _VALUE = 1, 2
"""Fields of an entry that says where a tensor's values lie: key "location" has the path."""
_OPSETS, _DOMAIN, _VERSION = 8, 1, 2
"""Field of a model that names an opset, and the fields therein."""
_GRAPH, _NODE, _INPUT, _INPUT_NAME, _READS, _OPERATOR = 7, 1, 11, 1, 1, 4
"""Fields of a model, of its graph (twice), and of an input; and of a node, those that say what it reads and
does.
"""
_FIXED_BYTES = {1: 8, 5: 4}
_LAST_TAG = (1 << 32) - 1


def external_files(model: bytes) -> set[str]:
    """The paths, as written, of all files that an ONNX model reads beside its own; empty where it holds all
    its values.

    Raises:
        ValueError: the bytes are no ONNX model.
    """
    found: set[str] = set()
    pending = [("Model", memoryview(model))]
    while pending:
        kind, message = pending.pop()
        if kind == "External":
            fields = [(number, bytes(content)) for number, content in wire_fields(message)]
            if (_KEY, b"location") in fields:
                found.update(content.decode() for number, content in fields if number == _VALUE)
        else:
            inside = _MESSAGES[kind]
            pending.extend(
                (inside[number], content) for number, content in wire_fields(message) if number in inside
            )
    return found


def opset(model: bytes) -> int | None:
    """Version of the standard operators that an ONNX model uses; None where it names none. Raises as
    `external_files`.
    """
    for number, content in wire_fields(memoryview(model)):
        if number == _OPSETS:
            fields = dict(wire_values(content))
            version = fields.get(_VERSION)
            if bytes(fields.get(_DOMAIN, b"")) in (b"", b"ai.onnx") and isinstance(version, int):
                return version
    return None


def image_readers(model: bytes) -> set[str]:
    """Names of the operators that read the inputs of an ONNX model. Raises as `external_files`."""
    graph = next((content for number, content in wire_fields(memoryview(model)) if number == _GRAPH), b"")
    parts = list(wire_fields(memoryview(graph)))
    images = {_first(content, _INPUT_NAME) for number, content in parts if number == _INPUT}
    nodes = [content for number, content in parts if number == _NODE]
    return {
        _first(node, _OPERATOR).decode()
        for node in nodes
        if any(number == _READS and bytes(content) in images for number, content in wire_fields(node))
    }


def _first(message: memoryview, wanted: int) -> bytes:
    """The content of the first field of one number; empty where there is none."""
    return next((bytes(content) for number, content in wire_fields(message) if number == wanted), b"")


def wire_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length, such as texts and messages; other fields are
    stepped over.
    """
    return ((number, content) for number, content in wire_values(message) if isinstance(content, memoryview))


def wire_values(message: memoryview) -> Iterator[tuple[int, memoryview | int | bytes]]:
    """Number and content of every field: a view where it has a length, a number, or the 4 or 8 bytes of a
    fixed one.
    """
    at = 0
    while at < len(message):
        tag, at = wire_number(message, at)
        kind = tag & 7
        if tag > _LAST_TAG:
            raise ValueError("a field's number is too large")
        if kind == 0:
            value, at = wire_number(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = wire_number(message, at)
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise ValueError(f"there is no field of kind {kind}")
        if size > len(message) - at:
            raise ValueError("a field ends beyond its message")
        content = message[at : at + size]
        yield tag >> 3, content if kind == 2 else bytes(content)
        at += size


def wire_number(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, seven bits a byte, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number does not end")
