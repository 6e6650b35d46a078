"""The program of one model at any plan: from its float weights, or from a quantized checkpoint with one set
of scales for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgeseg.checkpoints.models import Trained, load_quantized
from edgeseg.errors import DataError
from edgeseg.export.graph.forms import write_form
from edgeseg.export.onnx_qdq import export_qdq
from edgeseg.export.program import export_program
from edgeseg.recipe.schema import Export, Recipe
from edgeseg.specs import (
    Form,
    IsrPlan,
    Precision,
    Program,
)
from edgeseg.text import quoted


class Programs(Protocol):
    """Where the programs of a search come from.

    Attributes:
        precision: of all of them.
        identity: what the weights and scales are, as JSON values.
    """

    @property
    def precision(self) -> Precision: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...

    def write(self, plan: IsrPlan, form: Form, folder: Path) -> Program:
        """Export the program at a plan, in a form that a runtime wants, into `folder`. Raises BuildError."""
        ...


@dataclass(frozen=True)
class FloatPrograms:
    """Of the float model; the plan in force of `trained` is changed by `write`."""

    trained: Trained
    export: Export

    precision: Precision = field(default="float", init=False)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"checkpoint": self.trained.sha256}

    def write(self, plan: IsrPlan, form: Form, folder: Path) -> Program:
        self.trained.model.set_isr(plan)
        return export_program(
            self.trained.model,
            image=self.trained.model.image_spec(self.export.size_hw, self.export.layout),
            labels=self.trained.labels,
            mask_stride=self.export.mask_stride,
            arch=self.trained.arch,
            opset=self.export.opset,
            out=folder / "program.onnx",
            form=form,
        )


class Int8Programs:
    """Of a quantized checkpoint: its weights and its scales at every plan.

    Args:
        trained: the float model that it must have been made from.
    Attributes:
        home: the plan that it was calibrated at.
        sha256: of the file.
    Raises:
        DataError: no such file, of another model, or quantized in another way than the recipe says.
        MissingDependency: modelopt is not installed.
    """

    precision: Precision = "int8"

    def __init__(self, recipe: Recipe, trained: Trained, quantized: Path) -> None:
        if not quantized.is_file():
            raise DataError(
                f"{quantized}: no such quantized checkpoint",
                hint=f"edgeseg quantize {quoted(recipe.name)} writes it; or --precision float",
            )
        at_home = load_quantized(recipe, quantized)
        if at_home.facts["float_sha256"] != trained.sha256:
            raise DataError(
                f"{quantized} was quantized from another checkpoint than {trained.sha256[:12]}",
                hint=(
                    f"edgeseg quantize {quoted(recipe.name)}, or give with --checkpoint the float weights"
                    " that it was made from"
                ),
            )
        self._recipe, self._path, self._float_sha256 = recipe, quantized, trained.sha256
        self.home, self.sha256 = at_home.plan, at_home.sha256

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"checkpoint": self._float_sha256, "quantized": self.sha256}

    def write(self, plan: IsrPlan, form: Form, folder: Path) -> Program:
        export = self._recipe.export
        quantized = load_quantized(self._recipe, self._path, plan)
        out = folder / f"{Form.QDQ}.onnx"
        canonical = export_qdq(quantized, mask_stride=export.mask_stride, opset=export.opset, out=out)
        return write_form(canonical, form, folder)
