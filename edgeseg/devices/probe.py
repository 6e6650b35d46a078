"""What machine this is: the fingerprint that ties an engine to a device, and the number of cores worth using.

An engine may hold code and data layouts for one instruction set, and its measured latency holds for one processor. So both
are in the fingerprint, with the operating system and the runtime's version; memory size, core count and host name are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeseg.errors import Unsupported

PROC_CPUINFO = Path("/proc/cpuinfo")
SYSCTL = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")

ISA_FLAGS = (
    *("sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""The flags by which inference kernels are chosen, as Linux names them: x86, then ARM."""

_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}
"""(implementer, part) -> name; ARM kernels tell numbers only. Source: Arm's MIDR_EL1 tables, as in util-linux lscpu-arm.c."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A device and the version of a runtime on it.

    Attributes:
        runtime, runtime_version: name in the engine table, and what is installed.
        machine: architecture, e.g. "x86_64", "aarch64".
        cpu: processor model.
        isa: those of `ISA_FLAGS` that every core has.
        os: e.g. "Linux".
        accelerator: of an engine that runs on one: `machine.Machine.accelerator`; "" for the processor. Alone, where engines
            run in every machine that has it.
    """

    runtime: str
    runtime_version: str
    machine: str
    cpu: str
    isa: tuple[str, ...]
    os: str
    accelerator: str = ""

    @property
    def key(self) -> str:
        """sha256 over everything above, hex. An empty accelerator does not count: engines for processors keep their keys."""
        values = {name: value for name, value in asdict(self).items() if name != "accelerator" or value}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def moves(self) -> bool:
        """True where it is an accelerator, in whatever machine."""
        return not self.cpu

    @property
    def place(self) -> str:
        """The device alone."""
        if self.moves:
            return self.accelerator
        isa = " ".join(self.isa) or "no known flags"
        on = f"{self.accelerator} beside " if self.accelerator else ""
        return f"{on}{self.cpu} ({self.machine}, {self.os}; {isa})"

    def __str__(self) -> str:
        return f"{self.place} with {self.runtime} {self.runtime_version}"


def fingerprint(runtime: str, runtime_version: str, cpuinfo: Path = PROC_CPUINFO, *, accelerator: str = "") -> Fingerprint:
    """Fingerprint of this device for a runtime.

    Args:
        cpuinfo: where Linux describes its processors; elsewhere the file is missing and the system is asked.
        accelerator: what the engine runs on beside the processor.
    Raises:
        Unsupported: the processor cannot be told.
    """
    cpu, isa = processor(cpuinfo)
    cpu = cpu or _model_without_proc()
    if not cpu:
        raise Unsupported(
            "the processor of this machine cannot be told, and engines are bound to one",
            hint=f"edgeseg doctor; on Linux, {cpuinfo} must be readable",
        )
    return Fingerprint(runtime, runtime_version, platform.machine(), cpu, isa, platform.system(), accelerator)


def processor(cpuinfo: Path = PROC_CPUINFO) -> tuple[str, tuple[str, ...]]:
    """Model, and those of `ISA_FLAGS` that every core has: boards may mix cores, and code must run on each of them."""
    processors = _processors(cpuinfo)
    models = _distinct(_model(block) for block in processors)
    flags = [set((block.get("flags") or block.get("Features") or "").split()) for block in processors]
    common = set.intersection(*flags) if flags else set()
    return " + ".join(models), tuple(flag for flag in ISA_FLAGS if flag in common)


def usable_cores(cpuinfo: Path = PROC_CPUINFO, cpu_max: Path = CGROUP_CPU_MAX) -> int:
    """Physical cores that this process may use: by its affinity mask and by its container's quota, at least 1.

    Hardware threads of one core count once: a second one adds next to nothing to dense arithmetic.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {
        (block.get("physical id", "0"), block["core id"])
        for block in _processors(cpuinfo)
        if "core id" in block and int(block["processor"]) in allowed
    }
    count = len(cores) or len(allowed)
    quota = _quota_cores(cpu_max)
    return max(1, min(count, int(quota)) if quota else count)


def _quota_cores(cpu_max: Path) -> float | None:
    """Cores' worth of time that the control group grants, e.g. "200000 100000" = 2; None where there is no limit."""
    try:
        quota, period = cpu_max.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _processors(cpuinfo: Path) -> list[dict[str, str]]:
    """One dict a processor, as Linux lists them; [] where there is no such file."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return []
    blocks = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        if values.get("processor", "").isdigit():
            blocks.append(values)
    return blocks


def _model(block: dict[str, str]) -> str:
    if "CPU part" in block:
        implementer, part = block.get("CPU implementer", "?"), block["CPU part"]
        return _ARM_CORES.get((implementer, part), f"ARM {implementer}/{part}")
    return " ".join(block.get("model name", "").split())


def _distinct(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]


def _model_without_proc() -> str:
    """Processor model by the system's own means, "" where it has none. A Mac answers "Apple M2 Pro"."""
    if platform.system() == "Darwin":
        try:
            return subprocess.run(SYSCTL, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            raise Unsupported(f"{' '.join(SYSCTL)} failed: {error}", hint="run it by hand and see") from error
    return platform.processor()
