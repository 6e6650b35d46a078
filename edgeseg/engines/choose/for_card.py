"""Engines for another machine: compiled here for a customer's graphics card, neither checked nor timed.

Such an engine carries the fingerprint of its target, the one that the card itself has with this release of
TensorRT-RTX. There, `edgeseg build` finds it, checks and times it without compiling, and makes it the default
if it is the best. Until then nothing opens it, on the card or elsewhere.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.bundle.files import check_writable
from edgeseg.contracts import NO_OPTIONS, NoProgress, Progress
from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.machine import Machine, detect
from edgeseg.engines.choose.build import EngineBuild
from edgeseg.engines.choose.missing_forms import lacking
from edgeseg.engines.choose.spec import plan_engine
from edgeseg.engines.options import check
from edgeseg.engines.tensorrt.rtx import COMPUTE_CAPABILITIES, TensorRtRtx
from edgeseg.errors import OptionError, Unsupported


def build_for_card(
    bundle: Bundle,
    name: str,
    *,
    options: Mapping[str, Any] = NO_OPTIONS,
    force: bool = False,
    progress: Progress | None = None,
    machine: Machine | None = None,
) -> list[EngineBuild]:
    """Make sure that a bundle holds a TensorRT-RTX engine of each of its programs for a graphics card.

    Args:
        name: of the card, as `compute_capability` takes it.
        options: of TensorRT-RTX; the card says the compute capability.
        force: build even where the engine is there.
        machine: that compiles; None: this one.
    Raises:
        OptionError: TensorRT-RTX does not take these options, or not with this card.
        Unsupported: there is no such card, TensorRT-RTX does not build for it, or TensorRT-RTX is not
            installed.
        BuildError: TensorRT-RTX refuses a program, or its process ended early.
        BundleError: the bundle is damaged, or cannot be written.
    """
    progress, machine = progress or NoProgress(), machine or detect()
    capability = compute_capability(name)
    check({TensorRtRtx.name: options})
    if options.get("compute_capability", capability) != capability:
        raise OptionError(
            f"{name} is of compute capability {capability}, not {options['compute_capability']}",
            hint="leave that option out",
        )
    options = {**options, "compute_capability": capability}
    made = []
    if told := lacking(bundle, 0, TensorRtRtx(machine=machine)):
        progress.message(told)
    for level, entry in enumerate(bundle.manifest.levels):
        for precision in entry.programs:
            plan = plan_engine(bundle, TensorRtRtx.name, level, precision, None, options, machine, progress)
            kept, reason = plan.built(bundle)
            if kept and not force:
                made.append(EngineBuild(kept, built=False, reason=reason))
                continue
            reason = "--force" if kept else reason
            check_writable(bundle.path)
            with tempfile.TemporaryDirectory(prefix="edgeseg-build-") as folder:
                files, compile_ms = plan.compile(bundle, Path(folder), f"for {name}; {reason}", progress)
                engine = bundle.add_engine(
                    plan.entry(files, {"compile_ms": compile_ms}, checked=False), files
                )
            made.append(EngineBuild(engine, built=True, reason=reason))
    return made


def compute_capability(name: str) -> str:
    """Compute capability of a card that TensorRT-RTX builds for, such as "8.9".

    Args:
        name: in the catalogue of devices ("rtx4090"), or an architecture ("sm89").
    Raises:
        Unsupported: there is no such card, or TensorRT-RTX does not build for it.
    """
    known = {d.name: d.compute_capability.value for d in load_catalog().devices if d.compute_capability}
    known |= {f"sm{capability.replace('.', '')}": capability for capability in COMPUTE_CAPABILITIES}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)  # a gtx1080 is no rtx5080
        raise Unsupported(
            f"there is no device named {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else "edgeseg devices names them",
        )
    if known[name] not in COMPUTE_CAPABILITIES:
        raise Unsupported(
            f"TensorRT-RTX does not build for {name}: its compute capability is {known[name]}",
            hint="build on the device itself: edgeseg build BUNDLE",
        )
    return known[name]
