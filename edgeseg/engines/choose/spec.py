"""Specification of an engine before it is built, and its key.

Engines are caches; one whose key is the same and whose files are intact is kept. The key covers all that
decides what an engine may be: program (every file's hash), precision, shapes, options, the device with the
runtime and its version, and how edgeseg lays out engine files. It does not cover the times of kernels that
TensorRT keeps between builds: the builder itself writes to that file, so that a key over it would never be
met again. Which kernels were taken does depend on it; its hash, before and after, is in the facts that lie
beside such an engine.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.bundle import Bundle
from edgeseg.bundle.manifest import EngineEntry, kind
from edgeseg.contracts import EngineBackend, Progress, Session
from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.machine import Machine
from edgeseg.devices.probe import Fingerprint, place
from edgeseg.engines import table
from edgeseg.engines.choose import exported_parity
from edgeseg.engines.choose.compile_progress import expected_s, paced
from edgeseg.errors import BuildError, IntegrityError, OutOfRoom
from edgeseg.files import json_digest
from edgeseg.specs import Precision, Program

LAYOUT = 1
"""Number of the layout of engine files: raised with every change of what `compile` writes or `load` wants.
Engines of another one are built anew.
"""
_FULL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine that could be built. Make one with `plan_engine`.

    Attributes:
        machine: where it is built and, unless it is for another, runs.
        device: what it is for, with the runtime.
        program: in the form for the runtime, where the bundle has it.
        key: sha256 over all that the engine depends on.
    """

    machine: Machine
    backend: EngineBackend
    device: Fingerprint
    program: Program
    level: int
    precision: Precision
    options: Mapping[str, Any]
    key: str

    @property
    def kind(self) -> str:
        return kind(self.precision, self.options)

    @property
    def name(self) -> str:
        return f"{self.backend.name} {self.kind}"

    def built(self, bundle: Bundle) -> tuple[EngineEntry | None, str]:
        """The engine of this key, if the bundle holds it intact, and why it can be kept or cannot."""
        own = (self.level, self.backend.name, self.kind)
        same = [e for e in bundle.manifest.engines if (e.level, e.runtime, e.kind) == own]
        here = [e for e in same if e.device_key == self.device.key]
        if not same:
            return None, "none was built yet"
        if not here:
            return None, f"the one that is there was built for {same[-1].device}, not for {self.device}"
        engine = here[0]
        if engine.key != self.key:
            changed = [
                name
                for name in {**engine.options, **self.options}
                if engine.options.get(name) != self.options.get(name)
            ]
            told = ", ".join(
                f"{name} {_shown(engine.options, name)} -> {_shown(self.options, name)}" for name in changed
            )
            return None, told or "the program changed, or how edgeseg lays out engines"
        try:
            for path in engine.files:
                bundle.file(path)
        except IntegrityError as error:
            return None, f"damaged: {error}"
        return engine, "same program, runtime, device and options"

    def kept(
        self, bundle: Bundle, engine: EngineEntry, progress: Progress
    ) -> tuple[str, tuple[Path, ...], float]:
        """Return why nothing is compiled, the engine's files, and how long it took when it was built, in
        milliseconds.
        """
        reason = (
            "same program, runtime, device and options"
            if engine.checked
            else "compiled elsewhere, checked here"
        )
        progress.message(f"level {self.level} {self.name}: kept ({reason})")
        return reason, tuple(bundle.file(path) for path in engine.files), engine.measurements["compile_ms"]

    def compile(
        self, bundle: Bundle, folder: Path, reason: str, progress: Progress
    ) -> tuple[tuple[Path, ...], float]:
        """Build the engine into a folder; its files, and how long it took in milliseconds.

        Args:
            bundle: says how long it took the last time.
            reason: why it is built.
        Raises:
            GateFailed: the program broke the parity ladder when it was exported.
            BuildError: the runtime refuses the program, or the folder is full or cannot be written.
        """
        exported_parity.check(bundle, self.level, self.precision)
        last_s = expected_s(bundle.manifest.engines, self.backend.name, self.kind, self.device.key)
        estimate = f"; the last one took {last_s:.1f} s" if last_s and last_s >= 1 else ""
        task = f"level {self.level} {self.name}"
        progress.message(
            f"{task}: building with {self.backend.name} {self.device.runtime_version} ({reason}){estimate}"
        )
        started = time.perf_counter()
        with _room(folder), paced(progress, f"{task}, seconds", last_s):
            files = tuple(self.backend.compile(self.program, folder, self.options))
        return files, _since_ms(started)

    @contextmanager
    def open(self, files: Sequence[Path]) -> Iterator[tuple[Session, float]]:
        """The engine, open, and how long that took in milliseconds."""
        started = time.perf_counter()
        with self.backend.load(self.program, files, self.options) as session:
            yield session, _since_ms(started)

    def entry(
        self,
        files: Sequence[Path],
        figures: Mapping[str, Any],
        *,
        checked: bool = True,
        kept: EngineEntry | None = None,
    ) -> EngineEntry:
        """The engine as the manifest holds it.

        Args:
            figures: its measurements, beside threads and size.
            checked: it ran here.
            kept: the engine that was there, where it was not built again.
        """
        size = sum(file.stat().st_size for file in files)
        machine = self.machine
        threads = {name: value for name, value in self.options.items() if name == "threads"}
        return EngineEntry(
            level=self.level,
            runtime=self.backend.name,
            runtime_version=self.device.runtime_version,
            device=str(self.device),
            device_key=self.device.key,
            precision=self.precision,
            key=self.key,
            files=tuple(file.name for file in files),
            options=dict(self.options),
            measurements={**figures, **threads, "bytes": size},
            built_with=kept.built_with if kept else _built_with(machine),
            clocks=machine.clocks if checked else {},
            checked=checked,
            measured_on=place(machine) if checked and self.device.moves else "",
            created=kept.created if kept else datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def plan_engine(
    bundle: Bundle,
    runtime: str,
    level: int,
    precision: Precision,
    threads: int | None,
    options: Mapping[str, Any],
    machine: Machine,
    progress: Progress | None = None,
) -> EngineSpec:
    """Specify the engine of a runtime with these options, for a machine or what the options name. Raises as
    `build.build_engine`.

    Args:
        threads: of the processor, for a runtime that takes them and is not told otherwise by `options`.
    """
    if threads is not None and threads < 1:
        raise BuildError(
            f"{threads} threads cannot run anything", hint="--threads 1 or more; leave it out for all cores"
        )
    backend = table.backend(runtime, machine, progress)
    device = table.fingerprint(runtime, machine, options=options)
    own = {"threads": threads or machine.cores} if "threads" in backend.options else {}
    options = {**own, **options}
    form = backend.form_for(precision)
    program = bundle.program(level, precision, form)
    entry = bundle.manifest.levels[level].programs[precision]
    parts = {
        "program": [bundle.manifest.files[path].sha256 for path in entry.in_form(form)],
        "device": device.key,  # with the runtime and its version
        "precision": precision,
        "shapes": [program.image.input_shape, program.mask_shape],
        "options": options,
        "layout": LAYOUT,
    }
    key = json_digest(parts)
    return EngineSpec(machine, backend, device, program, level, precision, options, key)


def _built_with(machine: Machine) -> dict[str, str]:
    """Describe a machine, beyond what an engine is bound to, as far as it says so."""
    catalog, board, gpu = load_catalog(), machine.jetson, next(iter(machine.gpus), None)
    known = {
        "edgeseg": __version__,
        "os": machine.os,
        "driver": machine.driver,
        "cuda": machine.cuda,
        "jetson_linux": board.l4t if board else None,
        "jetpack": catalog.jetpack(machine),
        "module": board.parts[-1] if board and board.parts else None,
        "memory_gb": machine.memory_gb,
        "gpu": gpu and gpu.name,
        "gpu_compute_capability": gpu and catalog.compute_capability(gpu),
        "gpu_multiprocessors": gpu and gpu.multiprocessors,
        "gpu_memory_gb": gpu and gpu.memory_gb,
    }
    return {name: str(value) for name, value in known.items() if value}


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Tell what the system lacks as what it is: runtimes take a full disk for a fault of the program, or
    leave with Python's own error."""
    try:
        yield
    except (OSError, BuildError) as error:
        full = shutil.disk_usage(folder).free < _FULL_BYTES
        if isinstance(error, OSError) or full:
            told = "no space left" if full else str(error)
            raise OutOfRoom(
                f"cannot build below {tempfile.gettempdir()}: {told}",
                hint=(
                    "free space there and memory; or build in another folder: TMPDIR=FOLDER edgeseg build"
                    " BUNDLE"
                ),
            ) from error
        raise


def _shown(options: Mapping[str, Any], name: str) -> str:
    """As a user would type it."""
    value = options.get(name, "left out")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _since_ms(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 1)
