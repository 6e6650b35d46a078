"""Programs in a bundle: their levels, the files of weights that levels share, and the golden frames that they
are held to.

Graphs and the files that they read lie side by side in `programs/`, because a graph names such a file by its
place from its own folder. What it names is checked against the manifest before a runtime opens it: a bundle
from elsewhere reads only itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeseg.bundle.files import copy_file, write_file
from edgeseg.bundle.golden import GoldenFrame, png
from edgeseg.bundle.graph_files import external_files, opset
from edgeseg.bundle.manifest import COPY_AGAIN, FileEntry, GoldenEntry, LevelEntry, ProgramEntry
from edgeseg.errors import BundleError, IntegrityError
from edgeseg.specs import Form, IsrPlan, Precision, Program, canonical_form

Forms = Mapping[Form, Program]
"""One program in several forms, the canonical one of its precision among them."""
Levels = Sequence[Mapping[Precision, Forms]]


def by_level(programs: Sequence[Program]) -> Levels:
    """Programs of one ISR plan together, plans in the order they first come; in each plan, forms of one
    precision together.

    Raises:
        ValueError: no programs; one plan, precision and form twice, or none in the canonical form; levels
            that do not take the same images and give the same masks, so that a stream could not move between
            them; or different blobs of one name.
    """
    levels: dict[IsrPlan, dict[Precision, dict[Form, Program]]] = {}
    blobs: dict[str, Path] = {}
    for program in programs:
        forms = levels.setdefault(program.isr, {}).setdefault(program.precision, {})
        if program.form in forms:
            raise ValueError(
                f"two {program.precision} programs at ISR {program.isr} in the form {program.form}"
            )
        forms[program.form] = program
        for blob in program.blobs:
            if blobs.setdefault(blob.name, blob) != blob or blob.parent != program.onnx_path.parent:
                raise ValueError(f"{program.onnx_path}: {blob} is not the one file {blob.name} beside it")
    if not levels:
        raise ValueError("a bundle holds at least one program")
    for plan, level in levels.items():
        for precision, forms in level.items():
            if (canonical := canonical_form(precision)) not in forms:
                raise ValueError(
                    f"the {precision} program at ISR {plan} is not there in the form {canonical}"
                )
    if len({(p.image.size_hw, p.image.layout, p.labels, p.mask_stride) for p in programs}) > 1:
        raise ValueError(
            "the programs of a bundle take images of one size and give masks of one size, of the same classes"
        )
    return list(levels.values())


def canonical(levels: Levels) -> dict[tuple[int, Precision], Program]:
    """Every program in its canonical form, by level and precision."""
    return {
        (number, precision): forms[canonical_form(precision)]
        for number, level in enumerate(levels)
        for precision, forms in level.items()
    }


def check_files(program: Program) -> None:
    """Raise BundleError where a program's files are missing, or do not read each other."""
    for path in (program.onnx_path, *program.blobs):
        if not path.is_file():
            raise BundleError(f"there is no program file {path}", hint="edgeseg export RECIPE")
    try:
        check_reads(program.onnx_path, program.blobs)
    except IntegrityError as error:
        raise BundleError(str(error), hint="edgeseg export RECIPE") from error


def check_reads(graph: Path, blobs: Sequence[Path]) -> None:
    """Raise IntegrityError where a graph would make a runtime open another file than `blobs`, or is no ONNX
    graph.
    """
    try:
        read = external_files(graph.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{graph} is not an ONNX graph: {error}", hint=COPY_AGAIN) from error
    except OSError as error:
        raise IntegrityError(f"{graph} cannot be read: {error.strerror}", hint=COPY_AGAIN) from error
    beside = {blob.name for blob in blobs if blob.parent == graph.parent}
    if strangers := sorted(read - beside):
        raise IntegrityError(
            f"{graph} wants to read {', '.join(strangers)}, which the manifest does not list for it",
            hint=COPY_AGAIN,
        )


def pack(root: Path, levels: Levels) -> tuple[list[LevelEntry], dict[str, FileEntry]]:
    """Copy programs into a bundle folder, each blob once; their entries, and what was copied. Raises
    OSError.
    """
    files: dict[str, FileEntry] = {}

    def copied(source: Path, name: str) -> str:
        path = f"programs/{name}"
        if path not in files:
            files[path] = copy_file(source, root / path)
        return path

    def packed(program: Program, name: str) -> tuple[str, ...]:
        return copied(program.onnx_path, f"{name}.onnx"), *(copied(blob, blob.name) for blob in program.blobs)

    def entry(index: int, precision: Precision, forms: Forms) -> ProgramEntry:
        own = canonical_form(precision)
        others = {form: program for form, program in forms.items() if form != own}
        return ProgramEntry(
            files=packed(forms[own], f"level{index}-{precision}"),
            spec=forms[own].to_json(),
            opset=opset(forms[own].onnx_path.read_bytes()),
            forms={
                form.value: packed(program, f"level{index}-{precision}-{form}")
                for form, program in others.items()
            },
        )

    entries = []
    for index, level in enumerate(levels):
        plan = next(program.isr for forms in level.values() for program in forms.values())
        programs = {precision: entry(index, precision, forms) for precision, forms in level.items()}
        entries.append(LevelEntry(isr=str(plan), programs=programs))
    return entries, files


def pack_golden(root: Path, frames: Sequence[GoldenFrame]) -> tuple[list[GoldenEntry], dict[str, FileEntry]]:
    """Write golden frames into a bundle folder, each image once; their entries, and what was written. Raises
    OSError.
    """
    files: dict[str, FileEntry] = {}
    entries = []
    for frame in frames:
        folder = f"level{frame.level}" + ("" if frame.precision == "float" else f"-{frame.precision}")
        image, mask = f"golden/{frame.name}.png", f"golden/{folder}/{frame.name}.png"
        if image not in files:
            files[image] = write_file(root / image, png(frame.image_rgb[:, :, ::-1]))
        files[mask] = write_file(root / mask, png(frame.mask))
        entries.append(
            GoldenEntry(level=frame.level, precision=frame.precision, name=frame.name, image=image, mask=mask)
        )
    return entries, files
