"""The programs of a bundle: every level in every precision and form, on weights that are stored once, each
held to its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.bundle.golden import GoldenFrame
from edgeseg.checkpoints.models import Quantized, Trained
from edgeseg.contracts import Progress
from edgeseg.export.golden import golden_frames
from edgeseg.export.graph.forms import write_form
from edgeseg.export.graph.half import write_half
from edgeseg.export.graph.shared_weights import share_weights
from edgeseg.export.onnx_qdq import export_qdq
from edgeseg.export.parity.float import compare
from edgeseg.export.parity.ladder import check, graph_rung, optimised_rung
from edgeseg.export.program import Weights, export_program
from edgeseg.models.reference import TorchReference
from edgeseg.recipe.schema import Export
from edgeseg.specs import (
    DIALECTS,
    Form,
    ImageU8,
    IsrPlan,
    Precision,
    Program,
)


@dataclass(frozen=True)
class FloatJob:
    """A float program to be: the model at its ISR plan, the forms that runtimes want, how weights are
    stored.
    """

    source: Trained
    forms: Sequence[Form]
    weights: Weights

    precision: Precision = "float"

    @property
    def plan(self) -> IsrPlan:
        return self.source.model.isr_plan

    def export(self, export: Export, folder: Path) -> list[Program]:
        """The default form first."""
        return [
            export_program(
                self.source.model,
                image=self.source.image,
                labels=self.source.labels,
                mask_stride=export.mask_stride,
                arch=self.source.arch,
                opset=export.opset,
                out=folder / f"{form}.onnx",
                weights=self.weights,
                form=form,
            )
            for form in self.forms
        ]

    def hold(
        self, reference: TorchReference, programs: Sequence[Program], images: Sequence[ImageU8]
    ) -> dict[str, Any]:
        """How closely every form agrees with the model. Raises ParityError."""
        reports = {program.form: compare(reference, program, images) for program in programs}
        default = reports.pop(Form.CPU)
        return {**default, "forms": reports} if reports else default


@dataclass(frozen=True)
class HalfJob:
    """A program in half precision to be."""

    source: Trained

    precision: Precision = "fp16"

    @property
    def plan(self) -> IsrPlan:
        return self.source.model.isr_plan

    def export(self, export: Export, folder: Path) -> list[Program]:
        """One form: that for a GPU."""
        (plain,) = FloatJob(self.source, [Form.GPU], "fp32").export(export, folder)
        return [write_half(plain, folder / "half.onnx")]

    def hold(
        self, reference: TorchReference, programs: Sequence[Program], images: Sequence[ImageU8]
    ) -> dict[str, Any]:
        """How closely it agrees with the model. Raises ParityError."""
        return compare(reference, programs[0], images)


@dataclass(frozen=True)
class Int8Job:
    """An INT8 program to be; `half`: also in the form that computes in half precision between its
    integers.
    """

    source: Quantized
    half: bool = False

    precision: Precision = "int8"

    @property
    def plan(self) -> IsrPlan:
        return self.source.plan

    def export(self, export: Export, folder: Path) -> list[Program]:
        """The canonical form first."""
        out = folder / f"{Form.QDQ}.onnx"
        canonical = export_qdq(self.source, mask_stride=export.mask_stride, opset=export.opset, out=out)
        others = (*DIALECTS, Form.QDQ_HALF) if self.half else DIALECTS
        return [canonical, *(write_form(canonical, form, folder) for form in others)]

    def hold(
        self, reference: TorchReference, programs: Sequence[Program], images: Sequence[ImageU8]
    ) -> dict[str, Any]:
        """How closely the canonical program agrees with the model, and every other form with it. Raises
        ParityError.
        """
        canonical = programs[0]
        rungs = [graph_rung(reference, canonical, images)]
        check(f"INT8 program at ISR {self.plan}", rungs)
        rungs.append(optimised_rung(canonical, {program.form: program for program in programs}, images))
        check(f"INT8 program at ISR {self.plan}", rungs)
        return {"rungs": [rung.to_json() for rung in rungs]}


Level = FloatJob | HalfJob | Int8Job


@dataclass(frozen=True)
class Exported:
    """What `export_levels` made.

    Attributes:
        parity: a report for each level: of the float program, with those of its others as `fp16` and `int8`.
    """

    programs: list[Program]
    golden: list[GoldenFrame]
    parity: list[dict[str, Any]]


def export_levels(
    floats: Sequence[FloatJob],
    others: Sequence[Sequence[HalfJob | Int8Job]],
    export: Export,
    images: Sequence[tuple[str, ImageU8]],
    folder: Path,
    progress: Progress,
) -> Exported:
    """Export every level, share the weights, and hold every program to its model.

    Args:
        others: of other precisions; each as long as `floats`.
        images: names and pictures of the golden frames.
        folder: gets the files.
    Raises:
        ParityError: a program does not compute what its model does.
        BuildError: a model cannot be exported, or the folder cannot be written.
    """
    jobs: list[tuple[int, Level]] = [
        *enumerate(floats),
        *(job for levels in others for job in enumerate(levels)),
    ]
    made: list[list[Program]] = []
    for number, job in jobs:
        height, width = export.size_hw
        progress.message(f"level {number}: exporting {job.precision} at {width}x{height}, ISR {job.plan}")
        home = folder / f"{number}-{job.precision}"
        home.mkdir()
        made.append(job.export(export, home))
    shared = _shared(made, folder / "shared")
    pictures = [image for _, image in images]
    golden: list[GoldenFrame] = []
    parity: list[dict[str, Any]] = [{"isr": str(level.plan)} for level in floats]
    for (number, job), programs in zip(jobs, shared, strict=True):
        progress.message(f"level {number}: comparing {job.precision} with torch")
        reference = job.source.reference(export.mask_stride)
        found: Mapping[str, Any] = job.hold(reference, programs, pictures)
        parity[number] |= found if job.precision == "float" else {job.precision: found}
        golden += golden_frames(reference, images, number, job.precision)
    return Exported([program for programs in shared for program in programs], golden, parity)


def _shared(made: Sequence[Sequence[Program]], folder: Path) -> list[list[Program]]:
    """The same programs in the same order, on one file of weights where there are several."""
    flat = [program for programs in made for program in programs]
    if len(flat) == 1:
        return [flat]
    moved = iter(share_weights(flat, folder))
    return [[next(moved) for _ in programs] for programs in made]
