"""Bundles: a folder NAME.edgeseg/ that holds all a device needs, and the means to check it there.

    manifest.json                      what is here, with the hash of every file (edgeseg.bundle.manifest)
    recipe.yaml                        the resolved recipe
    programs/level0-float.onnx         one program per ISR level and precision
    programs/level0-float-FORM.onnx    the same, laid out for another runtime or, of INT8, for
                                       a family of processors
    programs/weights.bin               what all levels share: each large weight once; absent where programs
                                       hold their weights
    golden/NAME.png                    images, at the program's size
    golden/level0/NAME.png             the reference model's class maps for them, at the program's mask size
    golden/level0-int8/NAME.png        the same of the quantized model, where there are INT8 programs
    report/NAME.json                   what was measured
    engines/level0-RUNTIME-.../        one runtime's build for one device, added by `edgeseg build`

A bundle appears, and is replaced, as a whole (edgeseg.bundle.files says how). An engine is added in two
steps: its files go into a folder of their own, then the manifest that names them replaces the old one; what
an interrupted build leaves is never named, and the next one clears it. No file is used before its hash is
checked.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.bundle.files import (
    clear_unnamed,
    copy_file,
    difference,
    interrupted,
    locked,
    real_path,
    recover,
    staged,
    sync_folders,
    write_file,
    writing,
)
from edgeseg.bundle.golden import GoldenFrame, check_golden
from edgeseg.bundle.manifest import (
    COPY_AGAIN,
    FORMAT,
    MANIFEST,
    ChoiceEntry,
    EngineEntry,
    FileEntry,
    LevelEntry,
    Manifest,
    read_manifest,
)
from edgeseg.bundle.programs import by_level, canonical, check_files, check_reads, pack, pack_golden
from edgeseg.contracts import Session
from edgeseg.errors import BundleError, IntegrityError
from edgeseg.files import replace_file
from edgeseg.images import read_image
from edgeseg.metrics import mask_agreement
from edgeseg.recipe.labels import labels_of
from edgeseg.recipe.load import load_kept, recipe_digest
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import Form, ImageU8, MaskU8, Precision, Program, canonical_form
from edgeseg.text import json_text, quoted


@dataclass(frozen=True, slots=True)
class Verification:
    """What `Bundle.verify` found: all listed files intact.

    Attributes:
        files, bytes: how much was checked.
        unlisted: files that the manifest does not name; nothing reads them.
    """

    files: int
    bytes: int
    unlisted: tuple[str, ...]


class Bundle:
    """An open bundle: the manifest in memory, the files on disk. Make one with `open_bundle` or
    `create_bundle`.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    def file(self, relative: str) -> Path:
        """Path of a listed file, its hash checked. Raises IntegrityError."""
        path, expected = self.path / relative, self.manifest.files[relative]
        if problem := difference(path, expected):
            # Of an engine: nobody asks for the files of one that was built for another machine.
            hint = f"edgeseg build {quoted(self.path)}" if relative.startswith("engines/") else COPY_AGAIN
            raise IntegrityError(f"{path} {problem}", hint=hint)
        return path

    def recipe(self) -> Recipe:
        """The resolved recipe that the bundle was made from."""
        return load_kept(self.file(self.manifest.recipe))

    def report(self, name: str) -> dict[str, Any]:
        """A JSON document that was packed, its hash checked. Raises BundleError where there is none of that
        name.
        """
        if name not in self.manifest.reports:
            raise BundleError(
                f"{self.path} holds no report named {name}", hint=f"edgeseg bundle show {quoted(self.path)}"
            )
        document: dict[str, Any] = json.loads(self.file(self.manifest.reports[name]).read_bytes())
        return document

    def program(self, level: int = 0, precision: Precision = "float", form: Form | None = None) -> Program:
        """One program, its files checked, and that its graph makes a runtime read no other file.

        Args:
            form: what it should be laid out for; None, and where the bundle has no such one: the precision's
                canonical form.
        Raises:
            BundleError: the bundle has no such program.
            IntegrityError: a file is not what was packed, or the graph names a file that the manifest does
                not list for it.
        """
        entry = self.level(level).programs.get(precision)
        if entry is None:
            raise BundleError(
                f"{self.path} has no {precision} program at level {level}",
                hint=f"edgeseg bundle show {quoted(self.path)}",
            )
        found = form if form in entry.forms else entry.spec.get("form", canonical_form(precision))
        graph, *blobs = [self.file(path) for path in entry.in_form(found)]
        check_reads(graph, blobs)
        try:
            return Program.from_json({**entry.spec, "form": found}, graph, tuple(blobs))
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"{self.path}: the {precision} program of level {level} makes no sense: {error}",
                hint=COPY_AGAIN,
            ) from error

    def any_program(self, level: int = 0) -> Program:
        """The program of a level for what all its precisions share: image, labels, mask, plan. Raises as
        `program`.
        """
        return self.program(level, next(iter(self.level(level).programs)))

    def golden(self, level: int = 0, precision: Precision = "float") -> Iterator[GoldenFrame]:
        """The golden frames of a program, their files checked."""
        for entry in self.manifest.golden:
            if (entry.level, entry.precision) == (level, precision):
                image, mask = read_image(self.file(entry.image)), read_image(self.file(entry.mask))[:, :, 0]
                yield GoldenFrame(entry.name, image, mask, level, precision)

    def golden_agreement(
        self, session: Session, level: int = 0, precision: Precision = "float"
    ) -> dict[str, float]:
        """Golden frame -> share of mask pixels on which a session and the reference model agree."""
        frames = self.golden(level, precision)
        return {frame.name: mask_agreement(session.infer(frame.image_rgb), frame.mask) for frame in frames}

    def verify(self) -> Verification:
        """Check every file. `engines.open.verify_engines` checks what this device's engines make of the
        golden frames.

        Raises:
            IntegrityError: files are missing or changed; the message names each with what was expected and
                found. Or a program would make a runtime read a file that the manifest does not list for it.
        """
        manifest = self.manifest
        problems = [
            f"{path} {what}"
            for path, entry in manifest.files.items()
            if (what := difference(self.path / path, entry))
        ]
        if problems:
            count = f"{len(problems)} of {len(manifest.files)} files are not what the manifest says"
            raise IntegrityError("\n".join([f"{self.path}: {count}", *problems]), hint=COPY_AGAIN)
        for files in manifest.graphs():
            graph, *blobs = [self.path / path for path in files]
            check_reads(graph, blobs)
        found = {p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if not p.is_dir()}
        unlisted = tuple(sorted(found - set(manifest.files) - {MANIFEST}))
        return Verification(len(manifest.files), sum(f.bytes for f in manifest.files.values()), unlisted)

    def add_engine(self, engine: EngineEntry, sources: Sequence[Path]) -> EngineEntry:
        """Pack one engine; see `add_engines`."""
        return self.add_engines([(engine, sources)])[0]

    def add_engines(
        self, engines: Sequence[tuple[EngineEntry, Sequence[Path]]], choice: ChoiceEntry | None = None
    ) -> list[EngineEntry]:
        """Pack engines, and which is the default; those of the same kind for this device go, and those that
        it refused. Atomic.

        Others may add engines at the same time: each waits for its turn and adds to what it finds.

        Args:
            engines: what is known of each, and its files, with distinct names; they become `files` of the
                entries returned.
            choice: names one of the engines.
        Raises:
            BundleError: cannot write, or the bundle was made anew since it was opened: the engines are of
                another program.
        """
        with locked(self.path), writing(self.path):
            current = read_manifest(self.path)
            files = [path for graph in self.manifest.graphs() for path in graph]
            if current.levels != self.manifest.levels or any(
                self.manifest.files[p] != current.files[p] for p in files
            ):
                raise BundleError(
                    f"{self.path} was made anew while this engine was built, which is not packed",
                    hint=f"edgeseg build {quoted(self.path)}",
                )
            root = self.path / "engines"
            clear_unnamed(self.path, current)
            added: dict[str, FileEntry] = {}
            packed = []
            try:
                for engine, sources in engines:
                    kind = f"level{engine.level}-{engine.runtime}-{engine.precision}"
                    folder = f"engines/{kind}-{secrets.token_hex(4)}"
                    copied = {
                        f"{folder}/{s.name}": copy_file(s, self.path / folder / s.name) for s in sources
                    }
                    packed.append(engine.model_copy(update={"files": tuple(copied)}))
                    added |= copied
                sync_folders(root)
                changed = current.with_engines(packed, added, choice)
                replace_file(self.path / MANIFEST, changed.to_bytes(), durable=True)
                self.manifest = changed
            finally:
                clear_unnamed(self.path, read_manifest(self.path))
        return packed

    def level(self, level: int) -> LevelEntry:
        """What the manifest says of a level. Raises BundleError where there is none of that number."""
        if not 0 <= level < len(self.manifest.levels):
            raise BundleError(
                f"{self.path} has no level {level}; its levels are 0 to {len(self.manifest.levels) - 1}",
                hint=f"edgeseg bundle show {quoted(self.path)}",
            )
        return self.manifest.levels[level]


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder: read and check its manifest. The files are checked when they are used, or all by
    `verify`.

    Raises:
        BundleError: missing folder or manifest, or a format that this version does not read.
        IntegrityError: the manifest was changed.
    """
    bundle = real_path(path)
    if interrupted(bundle):
        with locked(bundle), writing(bundle):
            recover(bundle)
    return Bundle(bundle, read_manifest(bundle))


def create_bundle(
    path: str | os.PathLike[str],
    *,
    recipe_text: str,
    programs: Sequence[Program],
    golden: Sequence[GoldenFrame | tuple[str, ImageU8, MaskU8]],
    reports: Mapping[str, Mapping[str, Any]] | None = None,
) -> Bundle:
    """Make a bundle, or replace one, as a whole or not at all; an old bundle survives any failure.

    Args:
        path: the folder, NAME.edgeseg by custom.
        recipe_text: the resolved recipe, as YAML.
        programs: at least one; those of one ISR plan make a level, in the order given, each precision once in
            its canonical form and at most once in any other. All take images of one size and give masks of
            one size. Blobs that several share are stored once.
        golden: at least one frame for each level and precision; names are plain file stems, distinct within a
            program.
        reports: name -> JSON document.
    Raises:
        BundleError: cannot write, a program's file is missing or reads another, or something else than a
            bundle lies at `path`.
        RecipeError: `recipe_text` is no complete recipe.
        ValueError: programs and golden frames do not fit the description above, or are of other classes or
            colours than the recipe's.
    """
    bundle = real_path(path)
    frames = [GoldenFrame(*frame) for frame in golden]
    for program in programs:
        check_files(program)
    levels = by_level(programs)
    check_golden(frames, canonical(levels))
    with staged(bundle) as root, writing(bundle):
        files = {"recipe.yaml": write_file(root / "recipe.yaml", recipe_text.encode())}
        recipe = load_kept(root / "recipe.yaml")
        if (labels := labels_of(recipe.data)) is not None and any(
            program.labels != labels for program in programs
        ):
            raise ValueError("the programs are of other classes or colours than the recipe")
        entries, packed = pack(root, levels)
        files |= packed
        golden_entries, pictures = pack_golden(root, frames)
        files |= pictures
        named = {name: f"report/{name}.json" for name in reports or {}}
        for name, document in (reports or {}).items():
            files[named[name]] = write_file(root / named[name], json_text(document, indent=2).encode())
        manifest = Manifest(
            format=FORMAT,
            tool_version=__version__,
            created=_now(),
            name=recipe.name,
            recipe="recipe.yaml",
            recipe_digest=recipe_digest(recipe),
            levels=tuple(entries),
            golden=tuple(golden_entries),
            reports=named,
            files=files,
        )
        write_file(root / MANIFEST, manifest.to_bytes())
    return open_bundle(bundle)


def copy_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> Bundle:
    """Copy a bundle, every file checked against the manifest on the way; it appears whole or not at all.

    Raises:
        BundleError: cannot write, or something else than a bundle lies at `path`.
        IntegrityError: a file of the bundle is missing or was changed.
    """
    target = real_path(path)
    with staged(target) as root, writing(target):
        for name in bundle.manifest.files:
            copy_file(bundle.file(name), root / name)
        copy_file(bundle.path / MANIFEST, root / MANIFEST)
    return open_bundle(target)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
