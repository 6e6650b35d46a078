"""NVIDIA GPUs and their driver: by NVML where its Python package is installed, else nvidia-smi, else what the kernel lists."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_QUERY = ["--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")
_MODEL = re.compile(r"^Model:\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as its driver has it.
        compute_capability: e.g. "8.9"; None where nobody could be asked.
        memory_gb: size of its memory in 1e9 bytes; None where it is the system's, or unknown.
    """

    name: str
    compute_capability: str | None = None
    memory_gb: float | None = None


def gpus(root: Path) -> list[Gpu]:
    """The GPUs of the machine whose files lie below `root`. Libraries and programs are asked for `/` alone."""
    live = root == Path("/")
    return (_by_nvml() or _by_smi() if live else []) or _by_kernel(root)


def driver_version(root: Path) -> str | None:
    """Version of the kernel's driver, e.g. "580.95.05"; None where there is none."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    match = _DRIVER.search(text)
    return match[1] if match else None


def parse_smi(text: str) -> list[Gpu]:
    """GPUs of nvidia-smi's answer: one a line, "name, compute capability, MiB"; what it does not know stands in brackets."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.partition(",")
        capability, _, memory_mib = rest.partition(",")
        if name.strip() and rest:
            known = re.fullmatch(r"\d+\.\d+", capability.strip())
            size = re.fullmatch(r"\d+", memory_mib.strip())
            found.append(Gpu(name.strip(), known[0] if known else None, _gb(int(size[0]) << 20) if size else None))
    return found


def _by_nvml() -> list[Gpu]:
    try:
        nvml = importlib.import_module("pynvml")  # of nvidia-ml-py
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        return []
    try:
        return [_nvml_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: ModuleType, handle: object) -> Gpu:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = nvml.nvmlDeviceGetName(handle)
    try:
        memory_gb = _gb(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # a GPU without memory of its own
        memory_gb = None
    return Gpu(name if isinstance(name, str) else name.decode(), f"{major}.{minor}", memory_gb)


def _by_smi() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver, or one too old for the query: the kernel's list remains
        return []
    return parse_smi(done.stdout)


def _by_kernel(root: Path) -> list[Gpu]:
    found = []
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        match = _MODEL.search(path.read_text(errors="replace"))
        if match:
            found.append(Gpu(match[1]))
    return found


def _gb(count_bytes: int) -> float:
    return round(count_bytes / 1e9, 1)
