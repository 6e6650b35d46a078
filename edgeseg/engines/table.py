"""The inference runtimes, by name. A third party adds one through the entry-point group `edgeseg.engines`."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points

from edgeseg.contracts import EngineBackend
from edgeseg.devices import probe
from edgeseg.devices.machine import look
from edgeseg.errors import Unsupported

ENGINES: dict[str, str] = {
    "onnxruntime": "edgeseg.engines.onnxruntime:OnnxRuntime",
    "openvino": "edgeseg.engines.openvino:OpenVino",
    "tensorrt": "edgeseg.engines.tensorrt:TensorRt",
    "tensorrt_rtx": "edgeseg.engines.tensorrt_rtx:TensorRtRtx",
}
"""Name -> "module:class" of an `edgeseg.contracts.EngineBackend`; imported when it is used."""

GROUP = "edgeseg.engines"


def engines() -> dict[str, str]:
    """Name -> "module:class" of every runtime, ours first; an entry point cannot take a name of ours."""
    return {**{point.name: point.value for point in entry_points(group=GROUP)}, **ENGINES}


def backend(name: str) -> EngineBackend:
    """The runtime of that name; whether its package is installed shows when it is used. Raises Unsupported."""
    known = engines()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise Unsupported(
            f"there is no runtime named {name!r}", hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        )
    module, _, attribute = known[name].partition(":")
    made: EngineBackend = getattr(importlib.import_module(module), attribute)()
    return made


def fingerprint(name: str) -> probe.Fingerprint:
    """This device with the installed version of a runtime. Raises MissingDependency where it is not installed."""
    runtime = backend(name)
    return probe.fingerprint(name, runtime.version(), accelerator=look().accelerator if runtime.on_accelerator else "")
