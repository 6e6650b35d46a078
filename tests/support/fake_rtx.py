"""A TensorRT-RTX that works in host memory, on a card that is none: its runtime, not its builder.

Every name in it is one of the real package; `tests/conformance/test_rtx_runtime.py` holds it to that where
the package is there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from fake_cuda import FakeLibrary, fake_trt

VERSION = "1.7.1.116"
HEADER_BYTES = 64


class EngineValidity(IntEnum):
    VALID, SUBOPTIMAL, INVALID = 0, 1, 2


class EngineInvalidityDiagnostics(IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    OLD_CUDA_RUNTIME = 8
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


class IRuntimeCache:
    """Takes back what the same release on the same card wrote; `compiled` counts the kernels that it did not
    know.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark, self._kernels = mark, b""
        self.compiled = 0

    def deserialize(self, blob: bytes) -> bool:
        known = bytes(blob).startswith(self._mark)
        self._kernels = bytes(blob)[len(self._mark) :] if known else b""
        return known

    def serialize(self) -> bytes:
        return self._mark + self._kernels

    def make(self, kernels: bytes) -> None:
        if self._kernels != kernels:
            self._kernels, self.compiled = kernels, self.compiled + 1


class IRuntimeConfig:
    def __init__(self, caches: list[weakref.ref[IRuntimeCache]], mark: bytes) -> None:
        self._caches, self._mark = caches, mark
        self._cache: Callable[[], IRuntimeCache | None] = lambda: None

    def create_runtime_cache(self) -> IRuntimeCache:
        made = IRuntimeCache(self._mark)
        self._caches.append(weakref.ref(made))
        return made

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = weakref.ref(cache)  # the real one does not keep it alive either
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self._cache()


def fake_rtx(
    library: FakeLibrary,
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    answer: Callable[[np.ndarray], np.ndarray],
    *,
    version: str = VERSION,
    validity: EngineValidity = EngineValidity.VALID,
    flags: int = 0,
    told: str = "",
    card: bytes = b"a card",
    recordable: bool = True,
) -> Any:
    """A module `tensorrt_rtx` whose engines compute `answer`.

    Args:
        validity, flags: what it says of every header.
        told: an error that it logs when it is asked.
        card: what a file of kernels must be of, beside the version.
        recordable: what its contexts say of a stream.
    Returns:
        The module; `caches` in it are weak references to those that were made, and `freed` is what is gone,
        oldest first.
    """
    trt = fake_trt(library, in_shape, out_shape, answer)
    caches: list[weakref.ref[IRuntimeCache]] = []
    freed: list[str] = []

    class Engine:
        def __init__(self, plain: Any) -> None:
            tensors = {
                name: value for name, value in vars(plain).items() if name != "create_execution_context"
            }
            self.__dict__.update(tensors, _context=plain.create_execution_context)

        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig(caches, b"%s %s:" % (version.encode(), card))

        def create_execution_context(self, config: IRuntimeConfig) -> Any:
            made = Context(self.__dict__["_context"](), config)
            weakref.finalize(made, freed.append, "context")
            weakref.finalize(config.get_runtime_cache(), freed.append, "cache")
            return made

    class Context:
        def __init__(self, plain: Any, config: IRuntimeConfig) -> None:
            self._plain, self._config = plain, config
            self.set_tensor_address = plain.set_tensor_address

        def execute_async_v3(self, stream: int) -> bool:
            cache = self._config.get_runtime_cache()
            assert cache is not None, "the cache was let go while a context used it"
            cache.make(b"kernels")
            return bool(self._plain.execute_async_v3(stream))

        def is_stream_capturable(self, stream: int) -> bool:
            return recordable

    class Runtime(trt.Runtime):  # type: ignore[misc, name-defined]
        engine_header_size = HEADER_BYTES

        def get_engine_validity(self, header: bytes) -> tuple[EngineValidity, int]:
            assert len(header) <= HEADER_BYTES, "the header is enough"
            if told:
                self._logger.log(1, told)
            return validity, flags

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            assert validity is not EngineValidity.INVALID, "it said that it would fail"
            return Engine(super().deserialize_cuda_engine(data))

    return SimpleNamespace(
        **{**vars(trt), "__name__": "tensorrt_rtx", "__version__": version, "Runtime": Runtime},
        EngineValidity=EngineValidity,
        EngineInvalidityDiagnostics=EngineInvalidityDiagnostics,
        caches=caches,
        freed=freed,
    )
