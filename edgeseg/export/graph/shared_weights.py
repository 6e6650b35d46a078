"""Several programs of one model store their weights once.

ISR levels differ in pooling windows, and precisions in a part of the weights: what is equal byte for byte
goes into one file that every graph reads (ONNX external data), so a further level costs its graph alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto, numpy_helper

from edgeseg.errors import BuildError
from edgeseg.specs import Program

WEIGHTS = "weights.bin"
MIN_BYTES = 1024
"""Smaller tensors stay in the graph: a reference and its alignment would cost as much."""
ALIGN_BYTES = 4096
"""A page, as ONNX's specification advises: runtimes may map the file instead of copying it."""


def share_weights(programs: Sequence[Program], folder: Path) -> list[Program]:
    """Write programs anew into a folder of their own: graphs, and one `weights.bin` that holds every large
    weight once.

    Args:
        programs: in any precision and with weights stored in any type; their own files stay as they are.
        folder: is made; files in it are overwritten.
    Returns:
        The same programs, at their new place.
    Raises:
        BuildError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / WEIGHTS, "wb") as weights:
            offsets: dict[bytes, int] = {}
            for index, program in enumerate(programs):
                graph = onnx.load(program.onnx_path)
                for tensor in _large(graph):
                    _move(tensor, weights, offsets)
                path = folder / f"{index}.onnx"
                path.write_bytes(graph.SerializeToString(deterministic=True))
                written.append(replace(program, onnx_path=path, blobs=(folder / WEIGHTS,)))
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written: {error.strerror}", hint="choose another folder, or free space"
        ) from error
    for program in written:
        onnx.checker.check_model(program.onnx_path, full_check=True)
    return written


def _large(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Those worth moving; never sizes and shapes, which are int64: ONNX reads them from the graph to infer
    what follows.
    """
    tensors = model.graph.initializer
    return (
        tensor
        for tensor in tensors
        if tensor.ByteSize() >= MIN_BYTES and tensor.data_type != TensorProto.INT64
    )


def _move(tensor: TensorProto, weights: BinaryIO, offsets: dict[bytes, int]) -> None:
    """Append a tensor's values to the file, unless they are in it, and let the tensor point there.

    Args:
        offsets: of values that are in the file, by their hash; added to.
    """
    values = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    key = hashlib.sha256(values).digest()
    if key not in offsets:
        offsets[key] = weights.seek(-(-weights.tell() // ALIGN_BYTES) * ALIGN_BYTES)
        weights.write(values)
    moved = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    for name, value in (("location", WEIGHTS), ("offset", offsets[key]), ("length", len(values))):
        moved.external_data.add(key=name, value=str(value))
    tensor.CopyFrom(moved)
