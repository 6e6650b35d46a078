"""A machine beyond its processor: system, GPUs, Jetson module, and the versions of what lies
outside Python.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edgeseg.devices.clocks import clocks
from edgeseg.devices.control_groups import memory_limit
from edgeseg.devices.cores import usable_cores
from edgeseg.devices.instructions import Processor, processor
from edgeseg.devices.integers import Integers, integers
from edgeseg.devices.jetson import Jetson, device_tree, jetson
from edgeseg.devices.nvidia import Gpu, driver_version, gpus
from edgeseg.devices.nvpmodel import PowerMode, power_modes
from edgeseg.devices.system_file import read

ROOT = Path("/")
_PACKAGE = re.compile(
    r"^Package:"
    r" (nvidia-jetpack|nvidia-l4t-core|python3-libnvinfer|libnvinfer\d+"
    r"|libcudnn\d+(?:-cuda-\d+)?|libcusparselt\d+"
    r"|libopencv-python|python3-opencv)$",
    re.MULTILINE | re.ASCII,
)
_FAMILY = re.compile(r"libnvinfer|libcudnn|libcusparselt|opencv")
_CONTAINER = (".dockerenv", "run/.containerenv")
_GPU_NODES = ("dev/nvidiactl", "dev/nvhost-ctrl-gpu", "dev/nvgpu", "dev/dxg")
"""Device files of the driver for cards, of Jetson's drivers, and of Windows' Linux."""
_LIBRARIES = {"libcudnn": "libcudnn.so.*", "libcusparselt": "libcusparseLt.so.*"}
"""Libraries that people also copy into place by hand: name -> its file, whose ending is its version."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine.

    Attributes:
        arch: architecture, e.g. "aarch64".
        os: the system's name for people, e.g. "Ubuntu 22.04.5 LTS".
        board: model by the device tree; "" on machines without one.
        cpu, isa, isa_unknown, isa_remark: see `instructions.Processor`.
        gpus: NVIDIA GPUs.
        driver: version of NVIDIA's kernel driver.
        cuda: version of the CUDA toolkit in /usr/local/cuda.
        jetson: which Jetson it is.
        packages: versions of the system's packages and libraries; "libnvinfer" is TensorRT, "libcudnn" is
            cuDNN, "opencv" the one for the system's Python.
        memory_gb: of the system, in 1e9 bytes; None where nothing says.
        memory_limit_gb: how much of it this process's control groups grant; None where there is no limit.
        swap_gb, disk_swap_gb: swap space, and how much of it lies on a disk rather than, compressed, in
        memory. clocks: how fast it is set to run; see `clocks.clocks`. power_modes: of a Jetson, those that
        it has. gpu_hidden: it is a container, and has no device file of a GPU; what the kernel tells of GPUs
        it sees all the same.
        system: kind of operating system as Python names it, e.g. "Linux".
        cores: physical cores that this process may use; see `cores.usable_cores`.
    """

    arch: str
    os: str
    board: str
    cpu: str
    isa: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    driver: str | None
    cuda: str | None
    jetson: Jetson | None
    packages: dict[str, str]
    memory_gb: float | None = None
    swap_gb: float | None = None
    disk_swap_gb: float | None = None
    clocks: dict[str, str] = field(default_factory=dict)
    power_modes: tuple[PowerMode, ...] = ()
    gpu_hidden: bool = False
    isa_unknown: tuple[str, ...] = ()
    isa_remark: str = ""
    memory_limit_gb: float | None = None
    system: str = "Linux"
    cores: int = 1

    @property
    def integers(self) -> Integers:
        """INT8 programs on its processor."""
        return integers(Processor(self.cpu, self.isa, self.isa_unknown), self.arch)

    @property
    def accelerator(self) -> str:
        """Device that an engine for the GPU is bound to: "NVIDIA GeForce RTX 4090 (8.9)", "p3767-0005
        tegra234"; "" without one.
        """
        if self.jetson:  # the module, on whatever carrier board
            return " ".join((*self.jetson.parts[-1:], self.jetson.soc))
        # What a card is, not how it is set: limits of power and clocks do not tell two cards apart.
        return " + ".join(dict.fromkeys(f"{gpu.name} ({gpu.compute_capability or '?'})" for gpu in self.gpus))


def detect(root: Path = ROOT, arch: str | None = None) -> Machine:
    """Describe the machine whose files lie below `root`. What no file says is empty; nothing is raised.

    This machine's GPUs, and what NVML says of their limits, are asked for once a process; files are read each
    time.

    Args:
        arch: architecture; None: of this interpreter.
    """
    cpuinfo = None if root == ROOT else root / "proc/cpuinfo"
    cpu, isa, isa_unknown, isa_remark = processor(cpuinfo)
    packages = _copied_libraries(root) | _system_packages(root / "var/lib/dpkg/status")
    cards, board = (
        _gpus_here() if root == ROOT else tuple(gpus(root)),
        jetson(root, packages.get("nvidia-l4t-core")),
    )
    swap_gb, disk_swap_gb = _swap_gb(root / "proc/swaps")
    return Machine(
        arch=arch or platform.machine(),
        os=_system_name(root / "etc/os-release") or platform.system(),
        board=" ".join(device_tree(root, "model")),
        cpu=cpu,
        isa=isa,
        gpus=cards,
        driver=driver_version(root),
        cuda=_cuda(root / "usr/local/cuda/version.json"),
        jetson=board,
        packages=packages,
        memory_gb=_memory_gb(root / "proc/meminfo"),
        swap_gb=swap_gb,
        disk_swap_gb=disk_swap_gb,
        clocks=clocks(root, () if board else cards, jetson=board is not None),
        power_modes=tuple(power_modes(root)[1]) if board else (),
        gpu_hidden=_any(root, _CONTAINER) and not _any(root, _GPU_NODES),
        isa_unknown=isa_unknown,
        isa_remark=isa_remark,
        memory_limit_gb=_gb(memory_limit(root)),
        system=platform.system(),
        cores=usable_cores(cpuinfo, root),
    )


def told_memory(machine: Machine) -> str:
    """Its memory for people; "" where nothing says."""
    if machine.memory_gb is None:
        return ""
    limit = machine.memory_limit_gb
    ours = (
        "" if limit is None or limit >= machine.memory_gb else f", {limit:g} GB of it for this control group"
    )
    swap = "" if machine.swap_gb is None else f", {machine.swap_gb:g} GB of swap"
    return f"{machine.memory_gb:g} GB{ours}{swap}"


@cache
def _gpus_here() -> tuple[Gpu, ...]:
    """Asked once: a command may look at the machine several times, and nvidia-smi may load the driver each
    time.
    """
    return tuple(gpus(ROOT))


def _system_name(os_release: Path) -> str | None:
    for line in read(os_release).splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            try:
                return "".join(shlex.split(value))  # values are quoted as in a shell
            except ValueError:
                return value
    return None


def _cuda(version_json: Path) -> str | None:
    try:
        version = json.loads(read(version_json))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(version)


def _system_packages(dpkg_status: Path) -> dict[str, str]:
    """Installed packages of interest, as dpkg lists them: name -> version; "libnvinfer10" as "libnvinfer",
    others likewise.
    """
    found, text = {}, read(dpkg_status)
    for match in _PACKAGE.finditer(
        text
    ):  # the file is a megabyte, and a few of its thousands of stanzas matter
        stanza, name = text[match.end() :].partition("\n\n")[0], match[1]
        fields = dict(
            line.split(": ", 1) for line in stanza.splitlines() if line.startswith(("Status: ", "Version: "))
        )
        if fields.get("Status", "").endswith(" installed"):
            family = _FAMILY.search(name) if name != "python3-libnvinfer" else None
            found[family[0] if family else name] = fields.get("Version", "")
    return found


def _any(root: Path, names: Sequence[str]) -> bool:
    return any((root / name).exists() for name in names)


def _copied_libraries(root: Path) -> dict[str, str]:
    """Libraries in the folder of the CUDA toolkit: name -> version as far as the file's name has it."""
    folder, found = root / "usr/local/cuda/lib64", {}
    for name, pattern in _LIBRARIES.items():
        versions = [path.name.partition(".so.")[2] for path in folder.glob(pattern)]
        if versions:
            found[name] = max(versions, key=len)
    return found


def _memory_gb(meminfo: Path) -> float | None:
    match = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", read(meminfo), re.MULTILINE | re.ASCII)
    return _gb(int(match[1]) * 1024) if match else None


def _gb(size: int | None) -> float | None:
    return None if size is None else round(size / 1e9, 1)


def _swap_gb(swaps: Path) -> tuple[float | None, float | None]:
    """Swap space in all, and that on disks: zram is memory, too. None where nothing says."""
    lines = read(swaps).splitlines()
    if not lines:
        return None, None
    rows = [re.fullmatch(r"(\S+)\s+\w+\s+(\d{1,15})\s.*", line, re.ASCII) for line in lines[1:]]
    sizes = [(row[1], int(row[2]) * 1024 / 1e9) for row in rows if row]
    on_disk = sum((gb for name, gb in sizes if "zram" not in name), 0.0)
    return round(sum((gb for _, gb in sizes), 0.0), 1), round(on_disk, 1)
