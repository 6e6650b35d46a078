"""Building one engine: compile on this device, check it on the golden frames, time it, pack it.

Which engine of several a device should use, `choose` finds out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeseg.bundle import Bundle
from edgeseg.bundle.files import check_writable
from edgeseg.bundle.golden import check_gate
from edgeseg.bundle.manifest import EngineEntry
from edgeseg.contracts import NoProgress, Progress, Session
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.power import PowerMeter
from edgeseg.engines import table
from edgeseg.engines.choose.latency import measure_latency, measure_power
from edgeseg.engines.choose.spec import EngineSpec, plan_engine
from edgeseg.engines.options import check
from edgeseg.specs import Precision

RUNS = 30
WARMUP = 5


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """Result of `build_engine`.

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
    machine: Machine | None = None,
) -> EngineBuild:
    """Make sure that a bundle holds the engine of one of its programs for this device.

    Args:
        runtime: a row of the engine table.
        threads: default: the physical cores that this process may use. Written into the options of an engine
            that runs on them.
        options: further options of the runtime, over those of its first variant; written into the engine's
            options too.
        force: build even where the engine is there. Without it, one that was compiled elsewhere is checked
            and timed, not built.
        machine: None: this one.
    Raises:
        GateFailed: on a golden frame, the engine agrees with the reference less than
            `gate.min_mask_agreement`; not packed.
        BuildError: the runtime refuses the program, or `threads` is no number of threads.
        OptionError: the runtime does not take these options.
        Unsupported: there is no such runtime, or it is not installed.
        BundleError: the bundle lacks the program, is damaged, or cannot be written.
    """
    progress, machine = progress or NoProgress(), machine or detect()
    check({runtime: options or {}})
    chosen = {**next(iter(table.backend(runtime, machine).variants()), {}), **(options or {})}
    wanted = plan_engine(bundle, runtime, level, precision, threads, chosen, machine, progress)
    kept, reason = wanted.built(bundle)
    if kept and kept.checked and not force:
        return EngineBuild(kept, built=False, reason=reason)
    check_writable(bundle.path)
    with tempfile.TemporaryDirectory(prefix="edgeseg-build-") as folder:
        if kept and not force:
            reason, files, compile_ms = wanted.kept(bundle, kept, progress)
        else:
            kept, reason = None, "--force" if kept else reason
            files, compile_ms = wanted.compile(bundle, Path(folder), reason, progress)
        with wanted.open(files) as (session, load_ms):
            agreement = check_golden(bundle, wanted, session)
            image = next(bundle.golden(level, precision)).image_rgb
            meter = PowerMeter()
            meter.read()
            latency = measure_latency(lambda: session.infer(image), RUNS, WARMUP).to_json()
            latency |= measure_power(lambda: session.infer(image), meter)
        figures = {**latency, "compile_ms": compile_ms, "load_ms": load_ms, "mask_agreement": agreement}
        engine = bundle.add_engine(wanted.entry(files, figures, kept=kept), files)
    return EngineBuild(engine, built=kept is None, reason=reason)


def check_golden(bundle: Bundle, plan: EngineSpec, session: Session) -> dict[str, float]:
    """Golden frame -> share of mask pixels on which an engine and the reference agree. Raises GateFailed."""
    agreement = bundle.golden_agreement(session, plan.level, plan.precision)
    check_gate(
        f"{plan.name} engine of {bundle.path}",
        agreement,
        bundle.recipe().gate.min_mask_agreement,
        hint="not packed; try another runtime; edgeseg parity BUNDLE finds where it parts from its model",
    )
    return {name: round(share, 6) for name, share in agreement.items()}
