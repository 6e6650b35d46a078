"""Bundle -> sessions: which of its engines this device uses, and how it is opened. A bundle itself knows no
runtime.
"""

from __future__ import annotations

from edgeseg.bundle import Bundle
from edgeseg.bundle.golden import check_gate
from edgeseg.bundle.manifest import EngineEntry
from edgeseg.contracts import Session
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.probe import place
from edgeseg.engines import table
from edgeseg.errors import BundleError
from edgeseg.specs import Precision
from edgeseg.text import quoted


def find_engine(
    bundle: Bundle,
    level: int = 0,
    runtime: str | None = None,
    precision: Precision | None = None,
    *,
    machine: Machine | None = None,
) -> EngineEntry:
    """Return the engine for this device: the one that a build here chose, else the fastest of those that
    were measured here.

    One that was compiled on another machine and never checked is not it: `edgeseg build` checks it.

    Args:
        runtime: only engines of this runtime; None: of any that is installed.
        precision: only engines of programs of this precision; None: of any.
        machine: None: this one.
    Raises:
        EngineMismatch: there are engines, and none is for this device.
        BundleError: there is no engine at all for this level (and runtime, and precision), or none that was
            checked.
        Unsupported: the runtime of one that is for this device is not installed (any more).
    """
    programs = bundle.level(level).programs
    build = f"edgeseg build {quoted(bundle.path)}"
    if precision is not None and precision not in programs:
        raise BundleError(
            f"{bundle.path} has no {precision} program at level {level}",
            hint=f"edgeseg bundle show {quoted(bundle.path)}",
        )
    wanted = [e for e in bundle.manifest.engines if e.level == level and precision in (None, e.precision)]
    engines = [e for e in wanted if runtime in (None, e.runtime)]
    if not engines:
        kind = " ".join(word for word in (precision, "engine", runtime and f"of {runtime}") if word)
        raise BundleError(f"{bundle.path} holds no {kind} for level {level} yet", hint=build)
    machine = machine or detect()
    fitting = [engine for engine in table.for_machine(engines, machine, rebuild=build) if engine.checked]
    if not fitting:
        raise BundleError(
            f"{bundle.path} holds an engine for this device that was compiled elsewhere and never checked",
            hint=f"{build} checks it on the golden frames, without compiling again",
        )
    here = place(machine)
    chosen = {choice.engine for choice in bundle.manifest.choices if choice.machine in ("", here)}

    def rank(engine: EngineEntry) -> tuple[bool, bool, float]:
        timed_here = engine.measured_on in ("", here)
        return (
            engine.key not in chosen,
            not timed_here,
            float(engine.measurements.get("median_ms", float("inf"))),
        )

    return min(fitting, key=rank)


def open_session(
    bundle: Bundle,
    level: int = 0,
    runtime: str | None = None,
    threads: int | None = None,
    precision: Precision | None = None,
    *,
    machine: Machine | None = None,
) -> Session:
    """Open this device's engine of a level. The caller closes it.

    Args:
        level: ISR level, 0 = most exact.
        runtime: None: of any. Where there are several, see `find_engine`.
        threads: overrides the number that the engine was measured with.
        precision: of the program; None: of any.
        machine: None: this one.
    Raises:
        EngineMismatch: built for another device or runtime version; raised before any byte is handed to a
            runtime.
        IntegrityError: a file of the engine or its program is not what was packed.
        BundleError: no such level or engine, or the runtime refuses it.
    """
    machine = machine or detect()
    engine = find_engine(bundle, level, runtime, precision, machine=machine)
    return open_engine(bundle, engine, threads, machine=machine)


def open_engine(
    bundle: Bundle, engine: EngineEntry, threads: int | None = None, *, machine: Machine | None = None
) -> Session:
    """Open one of this device's engines, as `find_engine` gives it. The caller closes it. Raises as
    `open_session`.
    """
    program = bundle.program(engine.level, engine.precision)
    files = [bundle.file(path) for path in engine.files]
    options = {**engine.options, **({} if threads is None else {"threads": threads})}
    return table.backend(engine.runtime, machine).load(program, files, options)


def verify_engines(
    bundle: Bundle, threads: int | None = None, *, machine: Machine | None = None
) -> dict[str, dict[str, float]]:
    """Run this device's engine on the golden frames, at every level that has any.

    Returns:
        Golden frame -> share of equal mask pixels, by engine ("level 0, onnxruntime float").
    Raises:
        GateFailed: an engine agrees less with the reference model than `gate.min_mask_agreement`.
        EngineMismatch, BundleError: there is no engine for this device.
    """
    machine, agreement = machine or detect(), dict[str, dict[str, float]]()
    for level in sorted({frame.level for frame in bundle.manifest.golden}):
        entry = find_engine(bundle, level, machine=machine)
        with open_engine(bundle, entry, threads, machine=machine) as session:
            shares = bundle.golden_agreement(session, level, entry.precision)
        agreement[f"level {level}, {entry.runtime} {entry.kind}"] = shares
    minimum = bundle.recipe().gate.min_mask_agreement
    for engine, frames in agreement.items():
        check_gate(
            f"{bundle.path}: {engine}", frames, minimum, hint=f"edgeseg build {quoted(bundle.path)} --force"
        )
    return agreement
