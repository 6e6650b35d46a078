"""An INT8 program in any of its forms."""

from __future__ import annotations

from pathlib import Path

from edgeseg.export.graph.dialects import write_dialect
from edgeseg.export.graph.half import write_half
from edgeseg.specs import Form, Program


def write_form(canonical: Program, form: Form, folder: Path) -> Program:
    """A canonical INT8 program in the form that a runtime wants: itself, or a file FORM.onnx in `folder`.

    Raises:
        BuildError: the file cannot be written.
        ValueError: there is no such form.
    """
    if form == Form.QDQ:
        return canonical
    out = folder / f"{form}.onnx"
    return write_half(canonical, out) if form == Form.QDQ_HALF else write_dialect(canonical, form, out)
