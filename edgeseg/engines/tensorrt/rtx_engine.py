"""Opening a TensorRT-RTX engine on its card: asked first whether it fits, then with the kernels of earlier
runs.

TensorRT-RTX compiles the kernels for the very card when an engine is opened and run for the first time. They
are kept in the user's cache folder, one file for each engine, so that the next start need not wait for them.
It takes a file back only where its own release, the card and the driver are the same; any other is written
anew.

Source: docs.nvidia.com/deeplearning/tensorrt-rtx, "Engine Compatibility" and "Working with Runtime Cache".
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.engines.tensorrt.log import Log, no_collection
from edgeseg.engines.tensorrt.python import cache_folder
from edgeseg.engines.tensorrt.session import OpenEngine, cannot_open
from edgeseg.errors import BundleError, EdgesegError, EngineMismatch, Unsupported
from edgeseg.files import replace_file

_DRIVER = {
    "CUDA_ERROR": "CUDA is not installed as it should be",
    "OLD_CUDA_DRIVER": "NVIDIA's driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
}
_OTHER = {
    "VERSION_MISMATCH": "another release of TensorRT-RTX",
    "UNSUPPORTED_CC": "another compute capability",
}


@no_collection()
def open_engine(rtx: ModuleType, path: Path, *, capability: str) -> OpenEngine:
    """Open a serialized engine on the current GPU.

    Args:
        capability: compute capability of that GPU.
    Raises:
        EngineMismatch: it was built by another release, or for another compute capability.
        Unsupported: the driver is missing or too old, or the GPU has too little memory.
        BundleError: the runtime cannot open it for another reason; it is told.
    """
    log = Log(rtx)
    runtime = rtx.Runtime(log.logger)
    content = path.read_bytes()
    validity, flags = runtime.get_engine_validity(content[: runtime.engine_header_size])
    if validity == rtx.EngineValidity.INVALID:
        raise _misfit(rtx, path, flags, log, capability)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise cannot_open(rtx, path, log)
    kernels = Kernels(
        engine.create_runtime_config(), cache_folder() / f"{hashlib.sha256(content).hexdigest()}.kernels"
    )
    context = engine.create_execution_context(kernels.config)
    if context is None:
        raise cannot_open(rtx, path, log)
    return OpenEngine(
        context,
        engine,
        kernels.keep,
        lambda open_context, stream: bool(open_context.is_stream_capturable(stream)),
    )


class Kernels:
    """The kernels that are made for an engine on this card (its "runtime cache"), read from a file, and
    written there.

    Attributes:
        config: what the execution context is to be made with.
    """

    def __init__(self, config: Any, path: Path) -> None:
        self.config, self._path = config, path
        self._cache = config.create_runtime_cache()
        self._known = self._read()
        if (
            self._cache is not None
        ):  # of which `config` holds no reference: this object must live as long as the context
            config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Write them, if there are others than were read. Where the folder cannot be written, the next start
        makes them anew.
        """
        content = self._cache.serialize() if self._cache is not None else None
        if content is None or bytes(content) == self._known:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, bytes(content))

    def _read(self) -> bytes:
        """Read the file, where TensorRT-RTX takes it."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return b""
        return content if self._cache is not None and self._cache.deserialize(content) else b""


def _misfit(rtx: ModuleType, path: Path, flags: int, log: Log, capability: str) -> EdgesegError:
    """Describe why the runtime will not open an engine whose header it has read."""
    found = {name for name, flag in rtx.EngineInvalidityDiagnostics.__members__.items() if flags & int(flag)}
    driver, other = ([what for name, what in known.items() if name in found] for known in (_DRIVER, _OTHER))
    if driver or not found:  # without a flag, it could not even ask the driver
        return Unsupported(
            f"TensorRT-RTX {rtx.__version__} cannot use the GPU:"
            f" {'; '.join([*driver, *log.errors]) or 'it gives no reason'}",
            hint="edgeseg doctor says which driver fits; after installing it, start the machine again",
        )
    if other:
        here = f"compute capability {capability} with TensorRT-RTX {rtx.__version__}"
        return EngineMismatch(" and ".join(other), here, hint="edgeseg build BUNDLE")
    if "INSUFFICIENT_GPU_MEMORY" in found:
        return Unsupported(
            f"the GPU has too little memory for {path}", hint="free some of it, or take a smaller model"
        )
    return BundleError(
        f"{path} is no engine of TensorRT-RTX, or is cut short", hint="edgeseg build BUNDLE --force"
    )
