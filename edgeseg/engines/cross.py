"""Engines for another machine: compiled here for a customer's graphics card, neither checked nor timed.

Such an engine carries the fingerprint of its target, which no machine that compiles has: it is never opened here.
"""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

from edgeseg.bundle import Bundle
from edgeseg.contracts import NoProgress, Progress
from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.probe import Fingerprint
from edgeseg.engines.build import EngineBuild, plan_for
from edgeseg.engines.tensorrt_rtx import COMPUTE_CAPABILITIES, TensorRtRtx
from edgeseg.errors import Unsupported


def build_for_card(bundle: Bundle, card: str, *, force: bool = False, progress: Progress | None = None) -> list[EngineBuild]:
    """Make sure that a bundle holds a TensorRT-RTX engine of each of its programs for a graphics card.

    Args:
        card: as `compute_capability` takes it.
        force: build even where the engine is there.
    Raises:
        Unsupported: there is no such card, TensorRT-RTX does not build for it, or TensorRT-RTX is not installed.
        BuildError: TensorRT-RTX refuses a program, or its process ended early.
        BundleError: the bundle is damaged, or cannot be written.
    """
    progress = progress or NoProgress()
    capability = compute_capability(card)
    backend = TensorRtRtx(progress)
    device = target(capability, backend.version())
    made = []
    for level, entry in enumerate(bundle.manifest.levels):
        for precision in entry.programs:
            plan = plan_for(bundle, backend, device, level, precision, {"compute_capability": capability})
            kept, reason = plan.built(bundle)
            if kept and not force:
                made.append(EngineBuild(kept, built=False, reason=reason))
                continue
            there = any(engine.device_key == device.key for engine in bundle.manifest.engines)
            reason = "--force" if kept else reason if there else "none was built for it yet"
            with tempfile.TemporaryDirectory(prefix="edgeseg-build-") as folder:
                files, compile_ms = plan.compile(bundle, Path(folder), f"for {card}; {reason}", progress)
                engine = bundle.add_engine(plan.entry(files, {"compile_ms": compile_ms}, checked=False), files)
            made.append(EngineBuild(engine, built=True, reason=reason))
    return made


def compute_capability(card: str) -> str:
    """Compute capability of a card that TensorRT-RTX builds for, such as "8.9".

    Args:
        card: a name in the catalogue of devices ("rtx4090"), or an architecture ("sm89").
    Raises:
        Unsupported: there is no such card, or TensorRT-RTX does not build for it.
    """
    known = {d.name: d.compute_capability.value for d in load_catalog().devices if d.compute_capability}
    known |= {f"sm{capability.replace('.', '')}": capability for capability in COMPUTE_CAPABILITIES}
    if card not in known:
        near = difflib.get_close_matches(card, known, n=1)
        raise Unsupported(
            f"there is no device named {card!r}", hint=f"did you mean {near[0]!r}?" if near else "edgeseg devices names them"
        )
    if known[card] not in COMPUTE_CAPABILITIES:
        raise Unsupported(
            f"TensorRT-RTX does not build for {card}: its compute capability is {known[card]}",
            hint="build on the device itself: edgeseg build BUNDLE",
        )
    return known[card]


class Target(Fingerprint):
    """The fingerprint of an accelerator, in whatever machine it is."""

    @property
    def place(self) -> str:
        return self.accelerator


def target(capability: str, runtime_version: str) -> Target:
    """What a TensorRT-RTX engine is bound to: a compute capability and the runtime's version, and nothing else of a machine."""
    return Target(TensorRtRtx.name, runtime_version, "", "", (), "", f"NVIDIA GPU of compute capability {capability}")
