"""NVIDIA GPUs and their driver: by NVML where its Python package is, else nvidia-smi, the CUDA driver, or the
kernel's list.

Sources: NVIDIA, NVML API Reference ("Device Queries"); nvidia-smi --help-query-gpu.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgeseg.devices import cuda_driver
from edgeseg.devices.system_file import read

_FIELDS = "name,compute_cap,memory.total,power.limit,power.default_limit,clocks.max.sm,persistence_mode"
_QUERY = [f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")
_MODEL = re.compile(r"^Model:\s*(\S.*?)\s*$", re.MULTILINE)
PATIENCE_S = 20.0
"""Seconds that a driver may take to answer: loading one for eight GPUs takes seconds."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as its driver has it.
        compute_capability: e.g. "8.9"; None where nobody could be asked.
        memory_gb: size of its memory in 1e9 bytes; None where it is the system's, or unknown.
        multiprocessors: its streaming multiprocessors, by the CUDA driver.
        power_limit_w, power_default_w: watts that it may draw now, and those that it is made for.
        max_mhz: highest clock of its multiprocessors.
        persistence: the driver stays loaded while nobody uses the GPU.
    """

    name: str
    compute_capability: str | None = None
    memory_gb: float | None = None
    multiprocessors: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    max_mhz: int | None = None
    persistence: bool | None = None


def gpus(root: Path) -> list[Gpu]:
    """The GPUs of the machine whose files lie below `root`. Libraries and programs are asked for `/`
    alone.
    """
    if root != Path("/"):
        return _by_kernel(root)
    driver: Sequence[cuda_driver.CudaDevice] = within(PATIENCE_S, cuda_driver.devices, ())
    told: list[Gpu] = within(PATIENCE_S, _by_nvml, []) or _by_smi()
    told = (
        told
        or [Gpu(one.name, one.compute_capability, _gb(one.memory_bytes)) for one in driver]
        or _by_kernel(root)
    )
    if len(told) == len(driver) == 1:  # NVML calls an Orin's GPU "Orin (nvgpu)", CUDA calls it "Orin"
        return [replace(told[0], multiprocessors=driver[0].multiprocessors)]
    counts = {device.name: device.multiprocessors for device in driver}
    return [replace(gpu, multiprocessors=counts.get(gpu.name)) for gpu in told]


def within(limit_s: float, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
    """Return what `ask` answers, or `otherwise` where it takes longer: the library of a driver in trouble may
    never come back.

    The thread that waits for it cannot be ended, only left behind; it keeps no process from ending.
    """
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(limit_s)
    return answers[0] if answers else otherwise


def driver_version(root: Path) -> str | None:
    """Version of the kernel's driver, e.g. "580.95.05"; None where there is none."""
    match = _DRIVER.search(read(root / "proc/driver/nvidia/version"))
    return match[1] if match else None


def parse_smi(text: str) -> list[Gpu]:
    """GPUs of nvidia-smi's answer: one a line, the fields of the query; what it does not know stands in
    brackets.
    """
    found = []
    for line in text.splitlines():
        name, *rest = (field.strip() for field in line.split(","))
        if name and rest:
            capability, memory_mib, limit_w, default_w, mhz, persistence, *_ = (*rest, *[""] * 6)
            memory = _number(memory_mib)
            found.append(
                Gpu(
                    name,
                    capability if re.fullmatch(r"\d+\.\d+", capability, re.ASCII) else None,
                    None if memory is None else _gb(int(memory) << 20),
                    power_limit_w=_number(limit_w),
                    power_default_w=_number(default_w),
                    max_mhz=None if (top := _number(mhz)) is None else int(top),
                    persistence={"Enabled": True, "Disabled": False}.get(persistence),
                )
            )
    return found


def _by_nvml() -> list[Gpu]:
    try:
        nvml: Any = importlib.import_module("pynvml")  # of nvidia-ml-py
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return []
    try:
        return [
            _nvml_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(nvml.nvmlDeviceGetCount())
        ]
    except nvml.NVMLError:
        return []
    finally:
        with contextlib.suppress(nvml.NVMLError):  # a GPU that fell off its bus
            nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, handle: object) -> Gpu:
    def asked(question: Callable[[], Answer]) -> Answer | None:
        """None where this GPU does not answer: one without memory of its own, a laptop's without a power
        limit, a Jetson's.
        """
        try:
            return question()
        except (nvml.NVMLError, AttributeError):  # the latter: an NVML older than the question
            return None

    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = nvml.nvmlDeviceGetName(handle)
    return Gpu(
        name if isinstance(name, str) else name.decode(),
        f"{major}.{minor}",
        asked(lambda: _gb(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
        power_limit_w=asked(lambda: float(nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3)),
        power_default_w=asked(lambda: float(nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1e3)),
        max_mhz=asked(lambda: int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))),
        persistence=asked(lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle))),
    )


def _by_smi() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
    except (
        OSError,
        subprocess.SubprocessError,
    ):  # no driver, or one too old for the query: the kernel's list remains
        return []
    return parse_smi(done.stdout)


def _by_kernel(root: Path) -> list[Gpu]:
    found = []
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        match = _MODEL.search(read(path))
        if match:
            found.append(Gpu(match[1]))
    return found


def _gb(count_bytes: int | None) -> float | None:
    return None if count_bytes is None else round(count_bytes / 1e9, 1)


def _number(text: str) -> float | None:
    """A figure of nvidia-smi: "450.00"; None where it has none, such as "[N/A]"."""
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else None
