"""The few functions of NVIDIA's CUDA runtime library that a session needs, through ctypes.

JetPack ships the library and no Python package for it, and torch stays off the device. The functions are those of CUDA 11.4 to
13, with unchanged signatures.

Source: docs.nvidia.com/cuda/cuda-runtime-api, modules "Memory Management", "Stream Management" and "Graph Management".
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

from edgeseg.errors import BundleError, Unsupported

_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal
_CAPABILITY = (75, 76)  # cudaDevAttrComputeCapabilityMajor, ...Minor
_NO_GPU = {
    35: "NVIDIA's driver is missing, or older than the CUDA runtime needs",  # cudaErrorInsufficientDriver
    100: "there is no GPU that CUDA may use",  # cudaErrorNoDevice
}

_SIGNATURES: dict[str, list[Any]] = {
    "cudaGetDeviceCount": [ctypes.c_void_p],
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

    Its methods raise BundleError with what CUDA says, and Unsupported where the driver does not fit or there is no GPU.

    Args:
        library: the loaded library; default: the one that the system finds, or that lies in NVIDIA's Python packages.
    Raises:
        Unsupported: there is none.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library if library is not None else _load()
        for name, kinds in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = kinds, ctypes.c_int
        self._library.cudaGetErrorString.argtypes = [ctypes.c_int]
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def capabilities(self) -> list[str]:
        """Compute capability of each GPU that this process may use, in CUDA's order: ["8.9", "8.6"]."""
        count = ctypes.c_int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        return [".".join(str(self._attribute(which, index)) for which in _CAPABILITY) for index in range(count.value)]

    def use(self, device: int) -> None:
        """Let this thread's further calls go to a GPU, by CUDA's number."""
        self._call("cudaSetDevice", device)

    def device_buffer(self, size: int) -> Handle:
        """`size` bytes on the device; `free` them."""
        return self._made("cudaMalloc", size)

    def free(self, buffer: Handle) -> None:
        self._call("cudaFree", buffer)

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """`size` bytes of page-locked host memory, which the device copies without a stop-over; `free_pinned` them."""
        address = self._made("cudaMallocHost", size)
        array: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return array

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        self._call("cudaFreeHost", array.ctypes.data)

    def free_bytes(self) -> int:
        """Device memory that nobody uses; on a Jetson, the system's."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

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
        """What `work` puts into the queue, as a graph that is launched in one call; nothing of it runs now."""
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
        """Collects what is queued; the graph is in the list at the end. A capture that an error breaks is ended, too."""
        self._call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)
        recorded: list[Handle] = []
        graph = ctypes.c_void_p()
        try:
            yield recorded
        except BaseException:
            self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
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


def _load() -> Any:
    for name in filter(None, (*_LIBRARIES, ctypes.util.find_library("cudart"), *_in_packages())):
        try:
            return ctypes.CDLL(str(name))
        except OSError:
            continue
    raise Unsupported("there is no CUDA runtime library (libcudart) on this machine", hint="edgeseg doctor says what to install")


def _in_packages() -> Iterator[Path]:
    """The library in NVIDIA's wheels: nvidia-cuda-runtime, nvidia-cuda-runtime-cu12."""
    try:
        import nvidia  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return
    for folder in nvidia.__path__:
        yield from sorted(Path(folder).glob("*/lib/libcudart.so.*"), reverse=True)
