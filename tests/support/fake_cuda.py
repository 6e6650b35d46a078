"""A CUDA runtime and a TensorRT that work in host memory: what is copied is copied, what is freed is counted.

`FakeLibrary` answers the calls of `edgeseg.engines.cudart`; `fake_trt` is a module with the names that a
session uses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

OUT_OF_MEMORY = 2


class _Function:
    """A function of a C library: ctypes lets its types be set."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work

    def __call__(self, *arguments: Any) -> Any:
        return self._work(*arguments)


class FakeLibrary:
    """libcudart in host memory. A stream runs its work at once, unless it is being captured.

    Args:
        capabilities: compute capabilities of its GPUs.
        driver, runtime: versions, 12040 for CUDA 12.4.
        integrated: its GPUs share the system's memory.
    Attributes:
        device: the current one.
        status: what every function answers, where that is not 0.
        live: what was made and not yet freed: handle -> kind.
        launches: how often a graph was launched.
        fail: name of a function that answers with an error.
        fail_after: how often it answers well before.
        last_error: what the next who asks is told.
    """

    def __init__(
        self,
        capabilities: tuple[str, ...] = ("8.9",),
        driver: int = 12040,
        runtime: int = 12090,
        integrated: bool = False,
    ) -> None:
        self.capabilities, self.driver, self.runtime, self.integrated = (
            capabilities,
            driver,
            runtime,
            integrated,
        )
        self.device = 0
        self.live: dict[int, str] = {}
        self.launches = 0
        self.fail, self.fail_after = "", 0
        self.status = self.last_error = 0
        self.capturing: list[Callable[[], Any]] | None = None
        self._graphs: dict[int, list[Callable[[], Any]]] = {}
        self._memory: dict[int, Any] = {}

    def __getattr__(self, name: str) -> _Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        work = getattr(self, f"_{name}")
        function = _Function(
            work if name in ("cudaGetErrorString", "cudaGetLastError") else partial(self._answer, name, work)
        )
        setattr(self, name, function)
        return function

    def _answer(self, name: str, work: Callable[..., Any], *arguments: Any) -> int:
        status = self.status
        if self.fail == name:
            status = status or (OUT_OF_MEMORY if self.fail_after <= 0 else 0)
            self.fail_after -= 1
        if status and name == "cudaStreamEndCapture":
            self.capturing = None  # it is over, whatever came of it
        status = status or work(*arguments) or 0
        self.last_error = status or self.last_error
        return status

    def queue(self, work: Callable[[], Any]) -> None:
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def _new(self, out: Any, kind: str, handle: int | None = None) -> int:
        handle = handle or 0x1000 + 16 * len(self.live) + 4096 * len(self._graphs)
        while handle in self.live:
            handle += 16
        self.live[handle] = kind
        out._obj.value = handle
        return handle

    def _allocate(self, out: Any, size: int, kind: str) -> None:
        memory = ctypes.create_string_buffer(size)
        self._memory[self._new(out, kind, ctypes.addressof(memory))] = memory

    def _cudaGetLastError(self) -> int:
        last, self.last_error = self.last_error, 0
        return last

    def _cudaDriverGetVersion(self, out: Any) -> None:
        out._obj.value = self.driver

    def _cudaRuntimeGetVersion(self, out: Any) -> None:
        out._obj.value = self.runtime

    def _cudaGetDevice(self, out: Any) -> None:
        out._obj.value = self.device

    def _cudaGetDeviceCount(self, out: Any) -> None:
        out._obj.value = len(self.capabilities)

    def _cudaDeviceGetAttribute(self, out: Any, which: int, device: int) -> None:
        major, minor = map(int, self.capabilities[device].split("."))
        out._obj.value = {75: major, 76: minor, 18: int(self.integrated)}[which]

    def _cudaSetDevice(self, device: int) -> None:
        assert 0 <= device < len(self.capabilities)
        self.device = device

    def _cudaMalloc(self, out: Any, size: int) -> None:
        self._allocate(out, size, "device")

    def _cudaMallocHost(self, out: Any, size: int) -> None:
        self._allocate(out, size, "pinned")

    def _cudaFree(self, handle: int) -> None:
        assert self.live.pop(handle) == "device"

    def _cudaFreeHost(self, handle: int) -> None:
        assert self.live.pop(handle) == "pinned"

    def _cudaMemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = 1 << 30, 2 << 30

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        assert self.live[stream] == "stream"
        self.queue(lambda: ctypes.memmove(to, source, size))

    def _cudaStreamCreateWithFlags(self, out: Any, flags: int) -> None:
        self._new(out, "stream")

    def _cudaStreamDestroy(self, handle: int) -> None:
        assert self.live.pop(handle) == "stream"

    def _cudaStreamSynchronize(self, stream: int) -> None:
        assert self.live[stream] == "stream"
        assert self.capturing is None, "nothing may wait while work is recorded"

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> None:
        self.capturing = []

    def _cudaStreamEndCapture(self, stream: int, out: Any) -> None:
        recorded, self.capturing = self.capturing, None
        self._graphs[self._new(out, "graph")] = recorded or []

    def _cudaGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        self._graphs[self._new(out, "launchable")] = self._graphs[graph]

    def _cudaGraphDestroy(self, handle: int) -> None:
        assert self.live.pop(handle) == "graph"

    def _cudaGraphLaunch(self, graph: int, stream: int) -> None:
        self.launches += 1
        for work in self._graphs[graph]:
            work()

    def _cudaGraphExecDestroy(self, handle: int) -> None:
        assert self.live.pop(handle) == "launchable"

    def _cudaGetErrorString(self, status: int) -> bytes:
        return {OUT_OF_MEMORY: b"out of memory"}.get(status, b"unknown error")


def fake_trt(
    library: FakeLibrary,
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    answer: Callable[[np.ndarray], np.ndarray],
    *,
    refuse: str = "",
    fail: bool = False,
    recordable: bool = True,
) -> Any:
    """A module `tensorrt` whose engines compute `answer`, on the addresses that they were given.

    Args:
        refuse: what it says where no engine can be opened.
        fail: every inference fails.
        recordable: otherwise an inference fails while it is recorded.
    """
    shapes = {"image": in_shape, "mask": out_shape}
    modes = SimpleNamespace(INPUT="in", OUTPUT="out")

    class Context:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            if library.capturing is not None and not recordable:
                return False
            library.queue(self._compute)
            return not fail

        def _compute(self) -> None:
            image, mask = (_at(self.addresses[name], shapes[name]) for name in ("image", "mask"))
            mask[...] = answer(image)

    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: ("image", "mask")[index],
        get_tensor_mode=lambda name: {"image": modes.INPUT, "mask": modes.OUTPUT}[name],
        get_tensor_dtype=lambda name: np.uint8,
        get_tensor_shape=lambda name: shapes[name],
        create_execution_context=Context,
    )

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            if refuse:
                self._logger.log(1, refuse)
                return None
            return engine

    class ILogger:
        ERROR, WARNING = 1, 2

    return SimpleNamespace(
        __name__="tensorrt",
        __version__="10.3.0",
        Runtime=Runtime,
        ILogger=ILogger,
        TensorIOMode=modes,
        nptype=lambda kind: kind,
    )


def _at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).reshape(shape)
