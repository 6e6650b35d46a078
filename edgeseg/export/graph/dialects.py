"""The forms of an INT8 program for ONNX Runtime's integer kernels, derived from the canonical one by exact
graph edits.

    x86       unsigned activations, signed weights: what VNNI multiplies
    x86_u8u8  both unsigned: what x86 multiplies exactly without VNNI
    arm       both signed, as in the canonical program: what SDOT multiplies

Which of them a processor computes exactly, and which fast, `devices.integers` knows. All hold ONNX Runtime's
own operators, so no other runtime reads them. None depends on how a session is set up: what is to be an
integer operator is one, instead of a pattern that an optimiser may or may not find. Their operators, with
these types, are in every version of ONNX Runtime from 1.20 on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from edgeseg.export.graph.editor import GraphEditor
from edgeseg.export.graph.integer_ops import (
    float_weights,
    integer_convolutions,
    integer_products,
    join_gelu,
    join_padding,
    unsigned_activations,
    unsigned_weights,
)
from edgeseg.export.graph.layout import settle_reshapes, settle_transposes
from edgeseg.export.graph.tile_attention import attention_in_pieces
from edgeseg.export.program import write_model
from edgeseg.specs import DIALECTS, Form, Program


def write_dialect(program: Program, form: Form, out: Path) -> Program:
    """Write another form of a canonical INT8 program.

    Args:
        form: one of `DIALECTS`.
        out: the file; it appears whole or not at all.
    Raises:
        BuildError: the file cannot be written.
        ValueError: there is no such form, or the program is not canonical.
    """
    if form not in DIALECTS or (program.precision, program.form) != ("int8", Form.QDQ):
        raise ValueError(f"no form {form} of {program.precision} program in form {program.form}")
    model = dialect(onnx.load(program.onnx_path), form)
    onnx.checker.check_model(model)
    write_model(model, out)
    return replace(program, onnx_path=out, blobs=(), form=form)


def dialect(model: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """A canonical graph, edited."""
    graph = GraphEditor(model)
    join_gelu(graph)
    join_padding(graph)
    if form != Form.ORT_ARM:
        unsigned_activations(graph)
    integer_products(graph)
    integer_convolutions(graph)
    if form == Form.ORT_X86_U8U8:
        unsigned_weights(graph)
    graph.prune()
    settle_transposes(graph)
    settle_reshapes(graph)
    settle_transposes(graph)
    attention_in_pieces(graph)
    float_weights(graph)
    return graph.finish()
