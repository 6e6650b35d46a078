"""The manifest of a bundle: what it holds, as strict frozen data, and its JSON file.

`manifest.json` lists every other file with its hash, and carries its own: `digest` is the sha256 of all its
other values. Nothing in a bundle is edited by hand; a changed digit is found as surely as a changed weight.

A program and an engine name *lists* of files, and two entries may name one path: levels share their weights
so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeseg import __version__
from edgeseg.errors import BundleError, IntegrityError
from edgeseg.files import json_digest
from edgeseg.specs import Precision

FORMAT: Literal[2] = 2
"""Of the manifests that are written; all from 1 on are read. Raised with every new key: a reader of the old
number refuses what it does not know, and by a greater number it can say that the bundle is newer, and not
damaged."""
MANIFEST = "manifest.json"
COPY_AGAIN = "copy the bundle again, or make it anew: edgeseg export RECIPE"


def _inside(path: str) -> str:
    if (
        not path
        or "\\" in path
        or "\0" in path
        or PurePosixPath(path).is_absolute()
        or {"..", "."} & set(path.split("/"))
    ):
        raise ValueError(f"{path!r} is not a plain path inside the bundle")
    return path


RelPath = Annotated[str, AfterValidator(_inside)]
"""A path inside the bundle, with forward slashes."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Options = dict[str, int | float | bool | str]
"""What a runtime is opened with."""


class Entry(BaseModel):
    """Base of all parts: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(Entry):
    """What a file's bytes must be."""

    sha256: Sha256
    bytes: int = Field(ge=0)


Files = Annotated[tuple[RelPath, ...], Field(min_length=1)]


class ProgramEntry(Entry):
    """One ONNX program: its files (the graph first) and what `Program.to_json` says about it.

    Attributes:
        opset: of the ONNX graph; None in bundles made before it was kept.
        forms: the same program laid out for other runtimes: form -> its files, the graph first.
    """

    files: Files
    spec: dict[str, Any]
    opset: int | None = None
    forms: dict[str, Files] = Field(default_factory=dict)

    def in_form(self, form: str | None) -> Files:
        """Its files for a runtime: those of the form where there is one, the program's own otherwise."""
        return self.forms.get(form, self.files) if form else self.files

    def graphs(self) -> tuple[Files, ...]:
        """The files of every form."""
        return self.files, *self.forms.values()


class LevelEntry(Entry):
    """One ISR level: the same weights at one inference spatial reduction, in one or more precisions."""

    isr: str
    programs: dict[Precision, ProgramEntry] = Field(min_length=1)


class EngineEntry(Entry):
    """One runtime's build of one program for one device.

    Attributes:
        device: fingerprint of the device and runtime it was built for, as one line; `device_key` is its hash.
        key: hash over all that the build depends on; an equal key is a cache hit.
        options: what the runtime is opened with, e.g. threads.
        measurements: figures with their unit in the name.
        built_with: the machine that built it, beyond what its device names: versions of edgeseg, system,
            driver, CUDA, JetPack; module, GPU, its multiprocessors and memory; those that are known.
        clocks: how fast that machine was set to run when it timed the engine (`devices.clocks`); figures hold
            for that alone.
        created: UTC, ISO 8601.
        checked: it ran on the golden frames and passed. False where it was compiled for another machine.
        measured_on: the machine that checked and timed it, of an engine that runs on others too; "" where its
            device says it.
    """

    level: int = Field(ge=0)
    runtime: str
    runtime_version: str
    device: str
    device_key: Sha256
    precision: Precision
    key: Sha256
    files: Files
    options: Options
    measurements: dict[str, Any]
    created: str
    built_with: dict[str, str] = Field(default_factory=dict)
    clocks: dict[str, str] = Field(default_factory=dict)
    checked: bool = True
    measured_on: str = ""

    @property
    def kind(self) -> str:
        """The program's precision, and that of the arithmetic where it is another: "float", "float bf16",
        "int8".
        """
        return kind(self.precision, self.options)

    def replaces(self, other: EngineEntry) -> bool:
        """True where a bundle keeps only the newer of the two: same level, runtime, kind and device."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("level", "runtime", "kind", "device_key")
        )


class CandidateEntry(Entry):
    """One engine that was considered for a device.

    Attributes:
        device_key: as in its engine; None where its runtime could not be asked.
        key: of its engine, built or not; None where it could not be told.
        verdict: "default" and "passed" engines are in the bundle; a "refused" one was built and failed a
            gate; "not built" came not so far.
        reason: why, as a clause; empty for the default.
        hint: what might make it faster, or let it pass; empty where nothing is known.
        measurements: as in its engine, of one run in which all candidates took turns, with `speedup` over the
            first candidate.
    """

    runtime: str
    precision: Precision
    options: Options
    device_key: Sha256 | None = None
    key: Sha256 | None = None
    verdict: Literal["default", "passed", "refused", "not built"]
    reason: str = ""
    hint: str = ""
    measurements: dict[str, Any] = Field(default_factory=dict)

    @property
    def kind(self) -> str:
        """As of an engine."""
        return kind(self.precision, self.options)


class ChoiceEntry(Entry):
    """Which engine of a level one device uses, and against what it was chosen.

    Attributes:
        key: hash over all that was compared; an equal key is a cache hit.
        engine: key of the default engine.
        candidates: the float engine that speed-ups refer to first.
        created: UTC, ISO 8601.
        machine: that timed them; no other goes by it. "" in bundles made before it was kept.
    """

    level: int = Field(ge=0)
    key: Sha256
    engine: Sha256
    candidates: tuple[CandidateEntry, ...] = Field(min_length=1)
    created: str
    machine: str = ""

    def replaces(self, other: ChoiceEntry) -> bool:
        """True where a bundle keeps only the newer of the two: same level and machine, and a runtime on the
        same device.

        A machine that was not kept is this one: its choice would stand beside the new one for ever.
        """
        devices, others = ({c.device_key for c in choice.candidates} - {None} for choice in (self, other))
        return self.level == other.level and other.machine in ("", self.machine) and bool(devices & others)

    def drops(self, engine: EngineEntry) -> bool:
        """True of an engine that passed before, and was refused when this choice was made, on the same
        machine.
        """
        refused = engine.key in {
            candidate.key for candidate in self.candidates if candidate.verdict == "refused"
        }
        return refused and engine.checked and engine.measured_on in ("", self.machine)


def kind(precision: Precision, options: Mapping[str, Any]) -> str:
    """Precision of a program, that of the arithmetic where options name another than float32, and what
    computes but the CPU or the GPU: "float bf16", "fp16 cuda", "int8 dla0"."""
    hint, provider, core = (
        options.get("precision_hint", "f32"),
        options.get("provider", "cpu"),
        options.get("dla_core"),
    )
    others = [hint] * (hint != "f32") + [provider] * (provider != "cpu") + [f"dla{core}"] * (core is not None)
    return " ".join((precision, *others))


class GoldenEntry(Entry):
    """An image and the class map that the reference model gives for it at one level, as PNG files.

    Attributes:
        precision: the program whose model was asked. An INT8 engine is held to the quantized model; how far
            that one is from the float model, validation data tells.
    """

    level: int = Field(ge=0)
    precision: Precision = "float"
    name: str
    image: RelPath
    mask: RelPath


class Manifest(Entry):
    """Everything but the bytes. `created` is UTC, ISO 8601; `levels` run from most exact to fastest."""

    format: Literal[1, 2]
    tool_version: str
    created: str
    name: str
    recipe: RelPath
    recipe_digest: str
    levels: tuple[LevelEntry, ...] = Field(min_length=1)
    engines: tuple[EngineEntry, ...] = ()
    choices: tuple[ChoiceEntry, ...] = ()
    golden: tuple[GoldenEntry, ...] = Field(min_length=1)
    reports: dict[str, RelPath]
    files: dict[RelPath, FileEntry]

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        named = {self.recipe, *self.reports.values()}
        named.update(path for files in self.graphs() for path in files)
        named.update(path for engine in self.engines for path in engine.files)
        named.update(path for frame in self.golden for path in (frame.image, frame.mask))
        if named != set(self.files):
            raise ValueError(
                f"`files` and the rest of the manifest differ on {', '.join(sorted(named ^ set(self.files)))}"
            )
        parts: tuple[EngineEntry | ChoiceEntry | GoldenEntry, ...] = (
            *self.engines,
            *self.choices,
            *self.golden,
        )
        highest = max(part.level for part in parts)
        if highest >= len(self.levels):
            raise ValueError(f"level {highest} is named, but there are {len(self.levels)}")
        programs = {
            (number, precision) for number, level in enumerate(self.levels) for precision in level.programs
        }
        if bare := programs ^ {(frame.level, frame.precision) for frame in self.golden}:
            told = ", ".join(f"the {precision} program of level {level}" for level, precision in sorted(bare))
            raise ValueError(f"golden frames and programs differ on {told}")
        if lost := {choice.engine for choice in self.choices} - {engine.key for engine in self.engines}:
            raise ValueError(f"chosen engines are not there: {', '.join(sorted(lost))}")
        return self

    def graphs(self) -> tuple[Files, ...]:
        """The files of every program in every form, the graph first."""
        return tuple(
            files
            for level in self.levels
            for program in level.programs.values()
            for files in program.graphs()
        )

    def with_engines(
        self,
        engines: Sequence[EngineEntry],
        files: Mapping[RelPath, FileEntry],
        choice: ChoiceEntry | None = None,
    ) -> Manifest:
        """The manifest with engines, their files and a choice added. What they replace goes, what was
        refused, and choices whose engine is gone.

        An engine that was compiled elsewhere takes the place of one that was checked, but not its place in a
        choice.
        """
        stay = [other for other in self.engines if not any(new.replaces(other) for new in engines)]
        kept = (*(other for other in stay if not (choice and choice.drops(other))), *engines)
        named = {path for engine in kept for path in engine.files}
        gone = {path for engine in self.engines for path in engine.files} - named
        there = {engine.key for engine in kept if engine.checked}
        choices = [
            old for old in self.choices if old.engine in there and not (choice and choice.replaces(old))
        ]
        changed = {
            "format": FORMAT,
            "engines": kept,
            "choices": (*choices, *([choice] if choice else [])),
            "files": {path: file for path, file in self.files.items() if path not in gone} | dict(files),
        }
        return Manifest.model_validate({**dict(self), **changed})

    def to_bytes(self) -> bytes:
        """The JSON file, with its digest."""
        data = self.model_dump(mode="json")
        return json.dumps({**data, "digest": _digest(data)}, indent=2, allow_nan=False).encode()


def _digest(data: Mapping[str, Any]) -> str:
    named = {key: value for key, value in data.items() if key != "digest"}
    return json_digest(named, separators=(",", ":"))


def read_manifest(bundle: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle folder.

    Raises:
        BundleError: no such folder, no manifest in it, a newer format, or contents that make no sense.
        IntegrityError: the manifest was cut short or changed.
    """
    path = bundle / MANIFEST
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        if not bundle.exists():
            raise BundleError(
                f"there is no bundle {bundle}", hint="check the path; edgeseg export makes bundles"
            ) from error
        raise BundleError(
            f"{bundle} is not a bundle: it holds no {MANIFEST}", hint="check the path, or copy it again"
        ) from error
    except NotADirectoryError as error:
        raise BundleError(
            f"{bundle} is a file; a bundle is a folder", hint="name the folder NAME.edgeseg"
        ) from error
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}", hint="check the permissions of the bundle") from error
    try:
        data = json.loads(raw)
    except ValueError as error:  # of which broken UTF-8 and broken JSON are kinds
        raise IntegrityError(f"{path} is cut short or damaged: {error}", hint=COPY_AGAIN) from error
    if not isinstance(data, dict):
        raise IntegrityError(f"{path} is damaged: no JSON object", hint=COPY_AGAIN)
    number = data.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise BundleError(
            f"{bundle} has bundle format {number}; edgeseg {__version__} reads up to {FORMAT}",
            hint="pip install --upgrade edgeseg",
        )
    expected, found = data.pop("digest", None), _digest(data)
    if expected != found:
        raise IntegrityError(
            f"{path} was changed: its digest is {expected}, its contents give {found}", hint=COPY_AGAIN
        )
    try:
        return Manifest.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors()
        )
        raise BundleError(f"{path} makes no sense: {problems}", hint=COPY_AGAIN) from error
