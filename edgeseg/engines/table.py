"""The inference runtimes by name, those included that other packages add (group `edgeseg.engines`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgeseg.bundle.manifest import EngineEntry
from edgeseg.contracts import NO_OPTIONS, EngineBackend, PortableBackend, Progress
from edgeseg.devices import probe
from edgeseg.devices.machine import Machine
from edgeseg.errors import EngineMismatch, Unsupported
from edgeseg.registry import ENGINES_GROUP, Table

ENGINES: Table[Callable[..., EngineBackend]] = Table(
    ENGINES_GROUP,
    "runtime",
    {
        "onnxruntime": "edgeseg.engines.onnxruntime.backend:OnnxRuntime",
        "openvino": "edgeseg.engines.openvino:OpenVino",
        "tensorrt": "edgeseg.engines.tensorrt.python:TensorRt",
        "tensorrt_rtx": "edgeseg.engines.tensorrt.rtx:TensorRtRtx",
        "torch_tensorrt": "edgeseg.engines.tensorrt.from_torch:TorchTensorRt",
    },
)
"""Classes of `edgeseg.contracts.EngineBackend`."""


def backend(name: str, machine: Machine | None = None, progress: Progress | None = None) -> EngineBackend:
    """Return the runtime of that name; whether its package is installed shows when it is used.

    Args:
        machine: where its engines run; None: this one, which the runtime detects if it needs to know.
        progress: what a runtime that knows the phases of its work tells them.
            Either is passed on if the constructor of the runtime's class has a parameter of this name.
    Raises:
        Unsupported: there is no such runtime, or the package that adds it cannot be imported.
    """
    kind = ENGINES.load(name)
    takes = inspect.signature(kind).parameters
    given = {"machine": machine, "progress": progress}
    return kind(**{name: value for name, value in given.items() if name in takes})


def fingerprint(
    name: str, machine: Machine, version: str | None = None, options: Mapping[str, Any] = NO_OPTIONS
) -> probe.Fingerprint:
    """Fingerprint that an engine of a runtime is bound to: this machine, or, where engines move, the
    accelerator that it is for.

    Args:
        version: of the runtime; default: the installed one.
        options: of the engine.
    Raises:
        Unsupported: there is no such runtime; MissingDependency: it is not installed, and no version is
            given.
    """
    runtime = backend(name, machine)
    version = runtime.version() if version is None else version
    if isinstance(runtime, PortableBackend) and (accelerator := runtime.accelerator(options)):
        return _alone(name, version, accelerator)
    return probe.fingerprint(name, version, machine, on_accelerator=runtime.on_accelerator)


def for_machine(engines: Sequence[EngineEntry], machine: Machine, *, rebuild: str) -> list[EngineEntry]:
    """Engines that run on this machine, by the runtimes that are installed; at least one.

    Args:
        engines: at least one.
        rebuild: the command that builds them for this device.
    Raises:
        EngineMismatch: all were built for other devices or versions, whether or not their runtimes are
            installed here.
        Unsupported: one is for this device, of a runtime that is not installed (any more); or no such runtime
            is known.
    """
    here: dict[str, list[probe.Fingerprint]] = {}
    missing: dict[str, Unsupported] = {}
    for name in sorted({engine.runtime for engine in engines}):
        try:
            here[name] = _fingerprints(name, machine)
        except Unsupported as error:
            missing[name] = error
    fitting = [engine for engine in engines if engine.device_key in _keys(here.get(engine.runtime, ()))]
    if fitting:
        return fitting
    for engine in engines:
        if engine.runtime in missing and _is_for(engine, machine):
            raise missing[engine.runtime]
    nearest = next((engine for engine in engines if engine.runtime in here), None)
    if nearest is not None:
        raise EngineMismatch(nearest.device, " and ".join(map(str, here[nearest.runtime])), hint=rebuild)
    lost = engines[0]
    place = fingerprint(lost.runtime, machine, lost.runtime_version).place
    raise EngineMismatch(lost.device, f"{place} without {lost.runtime}", hint=rebuild)


def _is_for(engine: EngineEntry, machine: Machine) -> bool:
    """Tell whether an engine would run here if its runtime were installed in the version that built it."""
    try:
        return engine.device_key in _keys(_fingerprints(engine.runtime, machine, engine.runtime_version))
    except Unsupported:  # nobody knows such a runtime
        return False


def _keys(fingerprints: Iterable[probe.Fingerprint]) -> set[str]:
    return {one.key for one in fingerprints}


def _fingerprints(name: str, machine: Machine, version: str | None = None) -> list[probe.Fingerprint]:
    """All that engines of a runtime may be bound to and still run here; at least one. Raises as
    `fingerprint`.
    """
    runtime = backend(name, machine)
    accelerators = runtime.accelerators() if isinstance(runtime, PortableBackend) else ()
    version = runtime.version() if version is None else version
    return [_alone(name, version, accelerator) for accelerator in accelerators] or [
        fingerprint(name, machine, version)
    ]


def _alone(name: str, version: str, accelerator: str) -> probe.Fingerprint:
    """Fingerprint that an engine of a `PortableBackend` is bound to: nothing else of a machine."""
    return probe.Fingerprint(name, version, "", "", (), "", accelerator)
