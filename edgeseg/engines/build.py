"""Building an engine: compile on this device, check it on the golden frames, time it, pack it.

Engines are caches. Their key covers all that the result depends on; an engine of the same key whose files are intact is kept.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.bundle_golden import check_gate
from edgeseg.contracts import NoProgress, Progress
from edgeseg.devices.probe import Fingerprint, usable_cores
from edgeseg.engines import table
from edgeseg.engines.measure import measure_latency
from edgeseg.errors import BuildError, IntegrityError
from edgeseg.manifest import EngineEntry, Precision
from edgeseg.specs import Program

RUNS = 30
WARMUP = 5


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """What `build_engine` did.

    Attributes:
        engine: the entry in the bundle.
        built: False where the engine was there already.
        reason: why it was built, or kept; one clause.
    """

    engine: EngineEntry
    built: bool
    reason: str


def build_engine(
    bundle: Bundle,
    runtime: str = "onnxruntime",
    *,
    level: int = 0,
    precision: Precision = "float",
    threads: int | None = None,
    options: Mapping[str, int | float | bool | str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> EngineBuild:
    """Make sure that a bundle holds the engine of one of its programs for this device.

    Args:
        runtime: a row of the engine table.
        threads: default: the physical cores that this process may use. Written into the engine's options.
        options: further options of the runtime, written into the engine's options too.
        force: build even where the engine is there.
    Raises:
        GateFailed: on a golden frame, the engine agrees with the reference less than `gate.min_mask_agreement`; not packed.
        BuildError: the runtime refuses the program, or `threads` is no number of threads.
        Unsupported: there is no such runtime, or it is not installed.
        BundleError: the bundle lacks the program, is damaged, or cannot be written.
    """
    progress = progress or NoProgress()
    backend = table.backend(runtime)
    device = table.fingerprint(runtime)
    program = bundle.program(level, precision)
    if threads is not None and threads < 1:
        raise BuildError(f"{threads} threads cannot run anything", hint="--threads 1 or more; leave it out for all cores")
    chosen = {"threads": threads or usable_cores(), **(options or {})}
    key = _key(bundle, program, level, precision, device, chosen)
    kept, reason = _cached(bundle, level, precision, device, key, chosen)
    if kept and not force:
        return EngineBuild(kept, built=False, reason=reason)
    reason = "--force" if kept else reason
    progress.message(f"level {level} {precision}: building with {runtime} {device.runtime_version} ({reason})")
    with tempfile.TemporaryDirectory(prefix="edgeseg-build-") as folder:
        started = time.perf_counter()
        files = tuple(backend.compile(program, Path(folder), chosen))
        compiled = time.perf_counter()
        with backend.load(program, files, chosen) as session:
            loaded = time.perf_counter()
            agreement = bundle.golden_agreement(session, level)
            check_gate(
                f"{runtime} {precision} engine of {bundle.path}",
                agreement,
                bundle.recipe().gate.min_mask_agreement,
                hint="not packed; try another runtime, or export again from the checkpoint",
            )
            image = next(bundle.golden(level)).image_rgb
            latency = measure_latency(lambda: session.infer(image), RUNS, WARMUP)
        measurements: dict[str, Any] = {
            **latency.to_json(),
            "threads": chosen["threads"],
            "compile_ms": round(1000 * (compiled - started), 1),
            "load_ms": round(1000 * (loaded - compiled), 1),
            "mask_agreement": {name: round(share, 6) for name, share in agreement.items()},
        }
        entry = EngineEntry(
            level=level,
            runtime=runtime,
            runtime_version=device.runtime_version,
            device=str(device),
            device_key=device.key,
            precision=precision,
            key=key,
            files=tuple(file.name for file in files),
            options=chosen,
            measurements=measurements,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        return EngineBuild(bundle.add_engine(entry, files), built=True, reason=reason)


def _key(
    bundle: Bundle, program: Program, level: int, precision: Precision, device: Fingerprint, options: Mapping[str, Any]
) -> str:
    """sha256 over what an engine depends on. `device.key` covers the runtime and its version."""
    files = bundle.manifest.levels[level].programs[precision].files
    parts = {
        "program": [bundle.manifest.files[path].sha256 for path in files],
        "device": device.key,
        "precision": precision,
        "shapes": [program.image.input_shape, program.mask_shape],
        "options": dict(options),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _cached(
    bundle: Bundle, level: int, precision: Precision, device: Fingerprint, key: str, options: Mapping[str, Any]
) -> tuple[EngineEntry | None, str]:
    """The engine of this key, if it is there and intact, and why it is kept or is not."""
    same = [e for e in bundle.manifest.engines if (e.level, e.runtime, e.precision) == (level, device.runtime, precision)]
    here = [e for e in same if e.device_key == device.key]
    if not same:
        return None, "none was built yet"
    if not here:
        return None, f"the one that is there was built on {same[-1].device}; this is {device}"
    engine = here[0]
    if engine.key != key:
        changed = [name for name in {**engine.options, **options} if engine.options.get(name) != options.get(name)]
        told = ", ".join(f"{name} {engine.options.get(name)} -> {options.get(name)}" for name in changed)
        return None, told or "the program changed"
    try:
        for path in engine.files:
            bundle.file(path)
    except IntegrityError as error:
        return None, f"damaged: {error}"
    return engine, "same program, runtime, device and options"
