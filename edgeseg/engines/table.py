"""The inference runtimes, by name. A third party adds one through the entry-point group `edgeseg.engines`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Sequence
from importlib.metadata import entry_points

from edgeseg.contracts import EngineBackend, Progress
from edgeseg.devices import probe
from edgeseg.devices.machine import look
from edgeseg.errors import EngineMismatch, Unsupported
from edgeseg.manifest import EngineEntry

ENGINES: dict[str, str] = {
    "onnxruntime": "edgeseg.engines.onnxruntime:OnnxRuntime",
    "openvino": "edgeseg.engines.openvino:OpenVino",
    "tensorrt": "edgeseg.engines.tensorrt:TensorRt",
    "tensorrt_rtx": "edgeseg.engines.tensorrt_rtx:TensorRtRtx",
    "torch_tensorrt": "edgeseg.engines.torch_tensorrt:TorchTensorRt",
}
"""Name -> "module:class" of an `edgeseg.contracts.EngineBackend`; imported when it is used."""

GROUP = "edgeseg.engines"


def engines() -> dict[str, str]:
    """Name -> "module:class" of every runtime, ours first; an entry point cannot take a name of ours."""
    return {**{point.name: point.value for point in entry_points(group=GROUP)}, **ENGINES}


def backend(name: str, progress: Progress | None = None) -> EngineBackend:
    """The runtime of that name; whether its package is installed shows when it is used. Raises Unsupported.

    Args:
        progress: what a runtime that knows the phases of its work tells them; its class takes a parameter `progress`.
    """
    known = engines()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise Unsupported(
            f"there is no runtime named {name!r}", hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        )
    module, _, attribute = known[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    tells = progress is not None and "progress" in inspect.signature(kind).parameters
    made: EngineBackend = kind(progress=progress) if tells else kind()
    return made


def fingerprint(name: str, version: str | None = None) -> probe.Fingerprint:
    """This device with a runtime.

    Args:
        version: of the runtime; default: the installed one.
    Raises:
        Unsupported: there is no such runtime; MissingDependency: it is not installed, and no version is given.
    """
    runtime = backend(name)
    version = runtime.version() if version is None else version
    return probe.fingerprint(name, version, accelerator=look().accelerator if runtime.on_accelerator else "")


def for_this_device(engines: Sequence[EngineEntry], *, rebuild: str) -> list[EngineEntry]:
    """Those built here, by the runtimes that are installed; at least one.

    Args:
        engines: at least one.
        rebuild: the command that builds them for this device.
    Raises:
        EngineMismatch: all were built for other devices or versions, whether or not their runtimes are installed here.
        Unsupported: one was built here, by a runtime that is not installed any more; or no such runtime is known.
    """
    here: dict[str, str] = {}
    missing: dict[str, Unsupported] = {}
    for name in sorted({engine.runtime for engine in engines}):
        try:
            here[name] = fingerprint(name).key
        except Unsupported as error:
            missing[name] = error
    fitting = [engine for engine in engines if here.get(engine.runtime) == engine.device_key]
    if fitting:
        return fitting
    nearest = next((engine for engine in engines if engine.runtime in here), None)
    if nearest is not None:
        raise EngineMismatch(nearest.device, str(fingerprint(nearest.runtime)), hint=rebuild)
    for engine in engines:
        if fingerprint(engine.runtime, engine.runtime_version).key == engine.device_key:
            raise missing[engine.runtime]
    lost = engines[0]
    place = fingerprint(lost.runtime, lost.runtime_version).place
    raise EngineMismatch(lost.device, f"{place} without {lost.runtime}", hint=rebuild)
