"""GPUs by the CUDA driver's library, through ctypes: every machine that computes on one has it,
a Jetson too.

Source: NVIDIA, CUDA Driver API, "Initialization" and "Device Management". No context is made, and no memory
    is taken.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

_LIBRARY = "libcuda.so.1"
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76  # CUdevice_attribute
_NAME_BYTES = 128


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU. What the driver does not answer is None, and so is `memory_bytes` of a GPU that shares the
    system's.
    """

    name: str
    compute_capability: str | None
    multiprocessors: int | None
    memory_bytes: int | None


@cache
def devices() -> tuple[CudaDevice, ...]:
    """The GPUs that this process may use, () without a driver. It is asked once: no GPU comes or goes while a
    process runs.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ()
    return read(library)


def read(library: Any) -> tuple[CudaDevice, ...]:
    """The GPUs that a driver's library tells of; () where it has none or fails."""
    count = ctypes.c_int()
    try:
        if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
            return ()
        found = (_device(library, index) for index in range(count.value))
        return tuple(device for device in found if device)
    except AttributeError:  # a library of the name that is none of NVIDIA's
        return ()


def _device(library: Any, index: int) -> CudaDevice | None:
    handle, size = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if (
        library.cuDeviceGet(ctypes.byref(handle), index)
        or library.cuDeviceGetName(name, _NAME_BYTES, handle)
        or library.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    ):
        return None

    def attribute(number: int) -> int | None:
        value = ctypes.c_int()
        return None if library.cuDeviceGetAttribute(ctypes.byref(value), number, handle) else value.value

    major, minor = attribute(_MAJOR), attribute(_MINOR)
    return CudaDevice(
        name=name.value.decode(errors="replace"),
        compute_capability=None if major is None or minor is None else f"{major}.{minor}",
        multiprocessors=attribute(_MULTIPROCESSORS),
        memory_bytes=None if attribute(_INTEGRATED) else size.value,
    )
