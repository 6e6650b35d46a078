"""Messages of protocol buffers, taken apart and put together again: for edits of an ONNX graph without the
onnx package.

Only messages whose fields all have a length can be put together again from `fields`: graphs and nodes of ONNX
are such.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeseg.bundle.graph_files import wire_fields


def fields(message: bytes) -> list[tuple[int, bytes]]:
    """Number and content of each field that has a length, in their order. Raises ValueError where the bytes
    are no message.
    """
    return [(number, bytes(content)) for number, content in wire_fields(memoryview(message))]


def texts(message: bytes, wanted: int) -> list[bytes]:
    """The contents of the fields of one number."""
    return [content for name, content in fields(message) if name == wanted]


def field(name: int, content: bytes) -> bytes:
    """A field with a length, as it stands in a message."""
    return _varint(name << 3 | 2) + _varint(len(content)) + content


def field_with(name: int, parts: Iterable[tuple[int, bytes]]) -> bytes:
    """A field that holds a message of these fields."""
    return field(name, b"".join(field(*part) for part in parts))


def number(name: int, value: int) -> bytes:
    """A field that holds a number, 0 or more."""
    return _varint(name << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
