"""The engines that a device could use: which there are to try, and what became of each on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.bundle.manifest import CandidateEntry, EngineEntry
from edgeseg.contracts import NO_OPTIONS, EngineBackend, Progress, Session
from edgeseg.devices.machine import Machine
from edgeseg.engines import options, table
from edgeseg.engines.choose.missing_forms import lacking
from edgeseg.engines.choose.spec import EngineSpec, plan_engine
from edgeseg.engines.tensorrt import dla
from edgeseg.errors import EdgesegError, GateFailed, Unsupported
from edgeseg.specs import Precision

REFERENCE = "onnxruntime"


@dataclass
class Trial:
    """A candidate on its way: planned, then open (`session`), or stopped by an error.

    Attributes:
        bundle: folder of the bundle.
        kept: the engine that was in the bundle, where it is taken as it is.
        lacks: the programs that the runtime wants and the bundle lacks, and how they come in; empty where
            there are none.
        figures: what was measured so far.
    """

    bundle: Path
    runtime: str
    precision: Precision
    plan: EngineSpec | None = None
    lacks: str = ""
    files: Sequence[Path] = ()
    session: Session | None = None
    kept: EngineEntry | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    error: EdgesegError | None = None

    @property
    def name(self) -> str:
        return self.plan.name if self.plan else f"{self.runtime} {self.precision}"

    def row(self) -> CandidateEntry:
        return CandidateEntry(
            runtime=self.runtime,
            precision=self.precision,
            options=dict(self.plan.options) if self.plan else {},
            device_key=self.plan.device.key if self.plan else None,
            key=self.plan.key if self.plan else None,
            verdict=(
                "refused" if isinstance(self.error, GateFailed) else "not built" if self.error else "passed"
            ),
            reason=self._reason(),
            hint=self._hint(),
            measurements=self.figures,
        )

    def _reason(self) -> str:
        """Without the place of the bundle, which moves."""
        told = (
            f"{self.error}: {self.error.hint}"
            if isinstance(self.error, Unsupported)
            else str(self.error or "")
        )
        return told.replace(f"{self.bundle}{os.sep}", "").replace(f" of {self.bundle}", "")

    def _hint(self) -> str:
        if isinstance(self.error, GateFailed):
            return f"{self.name}: {self.error.hint}"
        if self.plan is None:
            return ""
        on_dla = dla.hint(self.files[-1]) if "dla_core" in self.plan.options and self.files else ""
        told = [f"{self.name}: {on_dla}"] if on_dla else []
        return "\n".join([*told, self.lacks] if self.lacks else told)


def candidates(
    bundle: Bundle,
    level: int,
    *,
    runtimes: Sequence[str],
    wanted: options.Wanted,
    threads: int | None,
    machine: Machine,
    progress: Progress,
) -> list[Trial]:
    """All engines to try for a level: the reference first, those of the float program before all others.

    A runtime that is not installed is a candidate with an error, and one that runs on no device that is here
    is none; if it is among `runtimes` or has options, the user wants it, and either is an error.

    Args:
        runtimes: consider these only, and the reference; empty: every one that is installed.
        wanted: what the user asks of them.
        machine: where they shall run.
    Raises:
        OptionError: `wanted` holds what a runtime does not take, or a runtime that is not considered.
        Unsupported: a runtime that the user wants does not exist, is not installed, or cannot do here what is
            wanted.
        BundleError: the bundle is damaged, or has no such level.
    """
    if threads is not None and threads > machine.cores:
        progress.message(
            f"{threads} threads on {machine.cores} cores: they take turns, which is slower; leave --threads"
            " out for one each"
        )
    names = list(dict.fromkeys((REFERENCE, *(runtimes or table.ENGINES.names()))))
    options.check(wanted, names)
    named = {*runtimes, *(runtime for runtime, asked in wanted.items() if asked)}
    found = []
    for precision in sorted(bundle.level(level).programs):
        for runtime in names:
            plan = partial(
                plan_engine, bundle, runtime, level, precision, threads, machine=machine, progress=progress
            )
            try:
                backend = table.backend(runtime, machine)
            except Unsupported as error:  # a plug-in that cannot be imported
                if runtime in named:
                    raise
                found.append(Trial(bundle.path, runtime, precision, error=error))
                continue
            asked = wanted.get(runtime, NO_OPTIONS)
            found += _of_runtime(bundle.path, backend, precision, plan, asked, runtime in named)
    for trial in found:
        trial.lacks = lacking(bundle, level, trial.plan.backend) if trial.plan else ""
    return found


def _of_runtime(
    bundle: Path,
    backend: EngineBackend,
    precision: Precision,
    plan: Callable[..., EngineSpec],
    asked: Mapping[str, Any],
    named: bool,
) -> list[Trial]:
    """The candidates of one runtime for one program.

    Args:
        plan: makes a plan of a variant.
        named: the user wants this runtime.
    """
    runtime = backend.name
    if backend.form_for(precision) is None:
        return []
    try:
        variants = backend.variants(asked)
        if not variants and named:
            raise Unsupported(f"{runtime} runs on no device of this machine", hint=_elsewhere(runtime))
        return [Trial(bundle, runtime, precision, plan(options=variant)) for variant in variants]
    except Unsupported as error:
        if named:
            raise
        return [Trial(bundle, runtime, precision, error=error)]


def _elsewhere(runtime: str) -> str:
    compiles = (
        "; for the RTX card of another machine: edgeseg build BUNDLE --device rtx4090"
        if runtime == "tensorrt_rtx"
        else ""
    )
    return f"it needs an NVIDIA GPU that it builds for: edgeseg devices --here{compiles}"
