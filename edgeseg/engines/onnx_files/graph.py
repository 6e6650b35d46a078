"""An ONNX program as operators and numpy arrays, for engines that are not built from the file itself: without
the onnx package.

Source: onnx.proto (onnx 1.17) and the protocol buffers' wire format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.bundle.graph_files import opset, wire_number, wire_values

Array = npt.NDArray[Any]

DTYPES: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
"""Number of an element type -> its name in numpy."""

_GRAPH = 7  # in a model
_NODE, _CONSTANT, _INPUT, _OUTPUT = 1, 5, 11, 12  # in a graph
_READS, _WRITES, _NAME, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 3, 4, 5, 7  # in a node
_A_NAME, _A_FLOAT, _A_INT, _A_TEXT, _A_TENSOR, _A_FLOATS, _A_INTS, _A_KIND = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    20,
)  # in an attribute
_T_DIMS, _T_KIND, _T_NAME, _T_RAW, _T_EXTERNAL = 1, 2, 8, 9, 13  # in a tensor
_T_TYPED = (4, 5, 7, 10, 11)  # its values, where they are not raw bytes
_ONNX = ("", "ai.onnx")

_Fields = Mapping[int, Sequence[memoryview | int | bytes]]


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        operator: its name; "DOMAIN.NAME" where it is not one of ONNX's own.
        inputs: names of values; "" where an optional one is left out.
        attributes: numbers, texts, lists of numbers, and arrays.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """A program.

    Attributes:
        nodes: in an order in which they can run.
        constants: arrays that nodes read, by name; those of Constant nodes among them.
        inputs, outputs: names of values.
        opset: the version of ONNX's operators; None where none is named.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int | None


def read_graph(model: bytes, folder: Path) -> Graph:
    """Read an ONNX model.

    Args:
        folder: where the files lie that hold weights beside the graph.
    Raises:
        ValueError: the bytes are no ONNX model, or hold something that no program of ours has.
        OSError: a file of weights cannot be read.
    """
    (graph,) = _messages(_fields(memoryview(model)), _GRAPH) or [memoryview(b"")]
    parts = _fields(graph)
    constants = dict(_tensor(message, folder) for message in _messages(parts, _CONSTANT))
    nodes = []
    for message in _messages(parts, _NODE):
        node = _node(message, folder)
        if node.operator == "Constant":
            constants.update(zip(node.outputs, map(_constant, node.attributes.values()), strict=True))
        else:
            nodes.append(node)
    inputs, outputs = (
        tuple(_text(_fields(message), 1) for message in _messages(parts, number))
        for number in (_INPUT, _OUTPUT)
    )
    if not (nodes and inputs and outputs):
        raise ValueError("it holds no operators, or nothing goes in or comes out")
    return Graph(tuple(nodes), constants, inputs, outputs, opset(model))


def _node(message: memoryview, folder: Path) -> Node:
    fields = _fields(message)
    domain, operator = _text(fields, _DOMAIN), _text(fields, _OPERATOR)
    return Node(
        name=_text(fields, _NAME),
        operator=operator if domain in _ONNX else f"{domain}.{operator}",
        inputs=tuple(_texts(fields, _READS)),
        outputs=tuple(_texts(fields, _WRITES)),
        attributes=dict(_attribute(_fields(one), folder) for one in _messages(fields, _ATTRIBUTE)),
    )


def _attribute(fields: _Fields, folder: Path) -> tuple[str, Any]:
    """Name and value; a value that is 0 or holds nothing need not be written."""
    name, kind = _text(fields, _A_NAME), _number(fields, _A_KIND)
    match kind:
        case 1:
            return name, next(iter(_floats(fields, _A_FLOAT)), 0.0)
        case 2:
            return name, _number(fields, _A_INT)
        case 3:
            return name, _text(fields, _A_TEXT)
        case 4 if tensors := _messages(fields, _A_TENSOR):
            return name, _tensor(tensors[-1], folder)[1]
        case 6:
            return name, _floats(fields, _A_FLOATS)
        case 7:
            return name, _integers(fields.get(_A_INTS, ()))
    raise ValueError(f"the attribute {name} is of kind {kind}")


def _constant(value: Any) -> Array:
    """Return what a Constant node holds. Its numbers are float32 or int64."""
    if isinstance(value, np.ndarray):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fi":
        raise ValueError(f"a constant is {value!r}")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def _tensor(message: memoryview, folder: Path) -> tuple[str, Array]:
    fields = _fields(message)
    name, kind = _text(fields, _T_NAME), _number(fields, _T_KIND)
    if kind not in DTYPES:
        raise ValueError(f"the tensor {name} is of type {kind}")
    dtype, shape = np.dtype(DTYPES[kind]).newbyteorder("<"), _integers(fields.get(_T_DIMS, ()))
    if any(number in fields for number in _T_TYPED):
        raise ValueError(f"the tensor {name} does not hold its values as bytes")
    if external := _messages(fields, _T_EXTERNAL):
        entries = [_fields(entry) for entry in external]
        content = _outside({_text(entry, 1): _text(entry, 2) for entry in entries}, folder)
    else:
        content = b"".join(_bytes(part) for part in fields.get(_T_RAW, ()))
    return name, np.frombuffer(content, dtype).reshape(shape)


def _outside(place: Mapping[str, str], folder: Path) -> bytes:
    if "location" not in place:
        raise ValueError("a tensor lies in a file that is not named")
    with (folder / place["location"]).open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        return file.read(int(place["length"]) if "length" in place else -1)


def _fields(message: memoryview) -> _Fields:
    found: dict[int, list[memoryview | int | bytes]] = {}
    for number, content in wire_values(message):
        found.setdefault(number, []).append(content)
    return found


def _messages(fields: _Fields, number: int) -> list[memoryview]:
    return [content for content in fields.get(number, ()) if isinstance(content, memoryview)]


def _bytes(content: memoryview | int | bytes) -> bytes:
    if isinstance(content, int):
        raise ValueError("a number stands where bytes are due")
    return bytes(content)


def _texts(fields: _Fields, number: int) -> list[str]:
    return [bytes(content).decode() for content in _messages(fields, number)]


def _text(fields: _Fields, number: int) -> str:
    return next(iter(_texts(fields, number)), "")


def _floats(fields: _Fields, number: int) -> list[float]:
    return [
        value
        for content in fields.get(number, ())
        for value in np.frombuffer(_bytes(content), "<f4").tolist()
    ]


def _number(fields: _Fields, number: int) -> int:
    """A whole number; 0 where it is not written."""
    return next(iter(_integers(fields.get(number, ()))), 0)


def _integers(contents: Sequence[memoryview | int | bytes]) -> list[int]:
    """Whole numbers, one a field or many in one; negative ones are written as 64 bits."""
    found: list[int] = []
    for content in contents:
        if isinstance(content, int):
            found.append(content)
        else:
            view, at = memoryview(content), 0
            while at < len(view):
                value, at = wire_number(view, at)
                found.append(value)
    return [value - (1 << 64) if value >= 1 << 63 else value for value in found]
