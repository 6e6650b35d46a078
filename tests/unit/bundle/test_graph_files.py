"""The files that an ONNX graph reads are found wherever the format allows them, and nothing but a model
passes for one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeseg.bundle.graph_files import external_files
from tiny import tiny_program


def outside(location: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="length", value="8")
    tensor.external_data.add(key="location", value=location)
    return tensor


def sparse(location: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside(location), indices=outside(f"{location}-indices"), dims=[2])


def graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [])


def nested(tensor: TensorProto, depth: int) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    for _ in range(depth):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph(node))
    return node


def test_every_place_that_the_format_has() -> None:
    main = graph(
        nested(outside("attribute"), 0),
        nested(outside("branch"), 3),
        helper.make_node(
            "A", [], ["l"], tensors=[outside("list")], graphs=[graph(nested(outside("graphs"), 0))]
        ),
        helper.make_node("B", [], ["s"], one=sparse("sparse"), more=[sparse("sparses")]),
    )
    main.initializer.append(outside("initializer"))
    main.sparse_initializer.append(sparse("sparse_initializer"))
    default = helper.make_attribute("default", outside("default"))
    function = helper.make_function(
        "d", "F", [], [], [nested(outside("function"), 1)], [helper.make_opsetid("", 17)]
    )
    function.attribute_proto.append(default)
    model = helper.make_model(main, functions=[function])
    info = model.training_info.add()
    info.initialization.CopyFrom(graph(nested(outside("initialization"), 0)))
    info.algorithm.CopyFrom(graph(nested(outside("algorithm"), 0)))
    names = {
        *(
            "attribute",
            "branch",
            "list",
            "graphs",
            "initializer",
            "default",
            "function",
            "initialization",
            "algorithm",
        ),
        *(f"{name}{end}" for name in ("sparse", "sparses", "sparse_initializer") for end in ("", "-indices")),
    }
    assert external_files(model.SerializeToString()) == names


def test_deeper_than_any_recursion() -> None:
    """Branches in branches, written by hand: protobuf itself gives up at a hundred."""

    def field(number: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while length >= 0x80:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    deep = field(5, outside("deep").SerializeToString())
    for _ in range(3000):
        deep = field(1, field(5, field(6, deep)))
    assert external_files(field(7, deep)) == {"deep"}


def test_a_file_that_holds_its_weights(tmp_path: Path) -> None:
    assert external_files(tiny_program(tmp_path / "tiny.onnx").onnx_path.read_bytes()) == set()


def test_every_location_counts_where_several_are_written() -> None:
    """Protobuf readers take the last of repeated keys; a check must not depend on that."""
    tensor = outside("first")
    tensor.external_data.add(key="location", value="second")
    main = graph()
    main.initializer.append(tensor)
    assert external_files(helper.make_model(main).SerializeToString()) == {"first", "second"}


@pytest.mark.parametrize(
    "content",
    [
        b"no graph",
        b"\x3a\x05",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x80" * 11,
        b"\x0d\x00",
        b"\x0b",
        b"\xba\x80\x80\x80\x80\x01\x00",
    ],
    ids=["text", "cut short", "long", "endless number", "half a float", "group", "tag beyond 32 bits"],
)
def test_no_model(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number"):
        external_files(content)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        found = external_files(content)
    except ValueError:
        return
    assert isinstance(found, set)


@given(cut=st.integers(0, 400), data=st.data())
def test_what_protobuf_reads_we_read(cut: int, data: st.DataObject) -> None:
    """Of a damaged model, whatever onnx still finds is found."""
    main = graph(nested(outside("branch"), 2))
    main.initializer.extend([outside("weights.bin"), numpy_helper.from_array(np.ones(3, np.float32), "w")])
    content = bytearray(helper.make_model(main).SerializeToString())
    place = cut % len(content)
    content[place] = data.draw(st.integers(0, 255))
    read = onnx.ModelProto()
    try:
        read.ParseFromString(bytes(content))
        found = external_files(bytes(content))
    except (ValueError, DecodeError):
        return
    locations = {
        entry.value
        for tensor in read.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations <= found
