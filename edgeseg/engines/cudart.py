"""The few functions of NVIDIA's CUDA runtime library that a session needs, through ctypes.

JetPack ships the library and no Python package for it, and torch stays off the device. The functions are
those of CUDA 11.4 to 13, with unchanged signatures.

Source: docs.nvidia.com/cuda/cuda-runtime-api, modules "Error Handling", "Memory Management", "Stream
    Management" and "Graph
Management"; cuda_runtime_api.h of CUDA 11.8, 12.9 and 13.5. On memory of integrated GPUs: cudaMemGetInfo
there, "CUDA for Tegra".
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.devices.control_groups import memory_limit
from edgeseg.errors import BundleError, Unsupported

_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_TOOLKIT = Path("/usr/local/cuda/lib64")  # which no search path need name
MEMINFO = Path("/proc/meminfo")
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal
_CAPABILITY, _INTEGRATED = (75, 76), 18  # cudaDevAttrComputeCapabilityMajor, ...Minor; cudaDevAttrIntegrated
_NO_GPU = {
    34: "the driver that was found is the toolkit's stub, not NVIDIA's",  # cudaErrorStubLibrary
    35: "NVIDIA's driver is missing, or older than the CUDA runtime needs",  # cudaErrorInsufficientDriver
    100: "there is no GPU that CUDA may use",  # cudaErrorNoDevice
    803: "NVIDIA's kernel driver and its libraries are of two releases",  # cudaErrorSystemDriverMismatch
}

_SIGNATURES: dict[str, list[Any]] = {
    "cudaDriverGetVersion": [ctypes.c_void_p],
    "cudaRuntimeGetVersion": [ctypes.c_void_p],
    "cudaGetLastError": [],
    "cudaGetDeviceCount": [ctypes.c_void_p],
    "cudaGetDevice": [ctypes.c_void_p],
    "cudaDeviceGetAttribute": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
    "cudaSetDevice": [ctypes.c_int],
    "cudaMalloc": [ctypes.c_void_p, ctypes.c_size_t],
    "cudaFree": [ctypes.c_void_p],
    "cudaMallocHost": [ctypes.c_void_p, ctypes.c_size_t],
    "cudaFreeHost": [ctypes.c_void_p],
    "cudaMemGetInfo": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaMemcpyAsync": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p],
    "cudaStreamCreateWithFlags": [ctypes.c_void_p, ctypes.c_uint],
    "cudaStreamDestroy": [ctypes.c_void_p],
    "cudaStreamSynchronize": [ctypes.c_void_p],
    "cudaStreamBeginCapture": [ctypes.c_void_p, ctypes.c_int],
    "cudaStreamEndCapture": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaGraphInstantiateWithFlags": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulonglong],
    "cudaGraphLaunch": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaGraphExecDestroy": [ctypes.c_void_p],
    "cudaGraphDestroy": [ctypes.c_void_p],
}

Handle = int
"""An address or an opaque handle."""


class Cuda:
    """The CUDA runtime on the current device.

    Its methods raise BundleError with what CUDA says, and Unsupported where the driver does not fit or there
    is no GPU.

    Args:
        library: the loaded library; default: of those that the system finds, or that lie in NVIDIA's Python
            packages, the first that the driver is new enough for.
    Raises:
        Unsupported: there is none.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library if library is not None else _load()
        _declare(self._library)

    def capabilities(self) -> list[str]:
        """Compute capability of each GPU that this process may use, in CUDA's order: ["8.9", "8.6"]."""
        count = ctypes.c_int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        return [
            ".".join(str(self._attribute(which, index)) for which in _CAPABILITY)
            for index in range(count.value)
        ]

    def use(self, device: int) -> None:
        """Let this thread's further calls go to a GPU, by CUDA's number."""
        self._call("cudaSetDevice", device)

    def device_buffer(self, size: int) -> Handle:
        """`size` bytes on the device; `free` them."""
        return self._made("cudaMalloc", size)

    def free(self, buffer: Handle) -> None:
        self._call("cudaFree", buffer)

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """`size` bytes of page-locked host memory, which the device copies without a stop-over; `free_pinned`
        them.
        """
        address = self._made("cudaMallocHost", size)
        array: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return array

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        self._call("cudaFreeHost", array.ctypes.data)

    def free_bytes(self) -> int:
        """Device memory that nobody uses. A GPU that shares the system's may also have what holds copies of
        files, which CUDA does not count as free and the system gives back at once."""
        free, total, device = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_int()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        self._call("cudaGetDevice", ctypes.byref(device))
        return (
            max(free.value, _available_bytes()) if self._attribute(_INTEGRATED, device.value) else free.value
        )

    def stream(self) -> Handle:
        """A queue of its own; `destroy_stream` it."""
        return self._made("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: Handle) -> None:
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: Handle) -> None:
        """Until all that is in the queue is done."""
        self._call("cudaStreamSynchronize", stream)

    def upload(self, to: Handle, array: npt.NDArray[np.uint8], stream: Handle) -> None:
        """Queue a copy of page-locked bytes to the device."""
        self._call("cudaMemcpyAsync", to, array.ctypes.data, array.nbytes, _TO_DEVICE, stream)

    def download(self, to: npt.NDArray[np.uint8], buffer: Handle, stream: Handle) -> None:
        """Queue a copy from the device into page-locked bytes."""
        self._call("cudaMemcpyAsync", to.ctypes.data, buffer, to.nbytes, _TO_HOST, stream)

    def record(self, work: Callable[[], None], stream: Handle) -> Handle:
        """Record what `work` puts into the queue, as a graph that is launched in one call; nothing of it runs
        now.
        """
        with self._capture(stream) as recorded:
            work()
        graph = recorded[0]
        try:
            return self._made("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Handle, stream: Handle) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Handle) -> None:
        self._call("cudaGraphExecDestroy", graph)

    @contextmanager
    def _capture(self, stream: Handle) -> Iterator[list[Handle]]:
        """Collects what is queued; the graph is in the list at the end. A capture that an error breaks is
        ended, too, and what it had collected is let go."""
        self._call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)
        recorded: list[Handle] = []
        graph = ctypes.c_void_p()
        try:
            yield recorded
        except BaseException:
            self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
            if graph.value:  # none where CUDA itself broke it off
                self._library.cudaGraphDestroy(graph.value)
            self._library.cudaGetLastError()
            raise
        self._call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        recorded.append(graph.value or 0)

    def _attribute(self, which: int, device: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _made(self, name: str, *arguments: Any) -> Handle:
        """The handle that a function writes to where its first argument points."""
        handle = ctypes.c_void_p()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            # forgets it: whoever asks next, TensorRT for one, would take it for its own
            self._library.cudaGetLastError()
        if status in _NO_GPU:
            raise Unsupported(
                f"CUDA cannot be used here: {_NO_GPU[status]}",
                hint="edgeseg doctor says which driver fits; after installing it, start the machine again",
            )
        if status:
            told = self._library.cudaGetErrorString(status) or b"?"
            raise BundleError(
                f"CUDA failed: {name}: {told.decode(errors='replace')}",
                hint="free memory on the device, then edgeseg doctor; a device that fell off needs a restart",
            )


def _declare(library: Any) -> None:
    for name, kinds in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = kinds, ctypes.c_int
    library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = [ctypes.c_int], ctypes.c_char_p


def _load() -> Any:
    """The first library that the driver serves; where it serves none, the first there is: its own calls tell
    why.
    """
    found = None
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
            _declare(library)
        except (OSError, AttributeError):  # not there; or from before CUDA 11.4, without the functions
            continue
        if _served(library):
            return library
        found = found or library
    if found is None:
        raise Unsupported(
            "there is no CUDA runtime library (libcudart, of CUDA 11.4 or later) on this machine",
            hint="edgeseg doctor says what to install",
        )
    return found


def _candidates() -> Iterator[str]:
    """Yield places where the library may be, nearest first."""
    yield from _LIBRARIES
    yield from map(str, sorted(_TOOLKIT.glob("libcudart.so*")))
    yield from map(str, _in_packages())
    yield ctypes.util.find_library("cudart") or "libcudart.so"  # last: it starts other programs


def _served(library: Any) -> bool:
    """Tell whether the driver is new enough for a library: releases of one major version go together."""
    major = {}
    for part in ("Driver", "Runtime"):
        version = ctypes.c_int()
        getattr(library, f"cuda{part}GetVersion")(ctypes.byref(version))
        major[part] = (
            version.value // 1000
        )  # of 12040, which is CUDA 12.4; CUDA 11 tells neither without a driver
    return 0 < major["Runtime"] <= major["Driver"]


def _in_packages() -> Iterator[Path]:
    """The library in NVIDIA's wheels: nvidia-cuda-runtime, nvidia-cuda-runtime-cu12."""
    try:
        import nvidia  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return
    for folder in nvidia.__path__:
        yield from sorted(Path(folder).glob("*/lib/libcudart.so.*"))


def _available_bytes() -> int:
    """The system's memory that can be had without swapping, as Linux estimates it, and no more than is
    granted; 0 where nothing tells."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return 0
    available = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    limit = memory_limit()
    return available if limit is None else min(available, limit)
