"""What machine this is: the fingerprint that ties an engine to a device, and the number of cores worth using.

An engine may hold code and data layouts for one instruction set, and its measured latency holds for one
processor. So both are in the fingerprint, with the operating system and the runtime's version; memory size,
core count and host name are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeseg.devices.control_groups import cpu_quota
from edgeseg.devices.instructions import PROC_CPUINFO, processors
from edgeseg.devices.instructions import processor as processor
from edgeseg.errors import Unsupported

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A device and the version of a runtime on it.

    Attributes:
        runtime, runtime_version: name in the engine table, and what is installed.
        machine: architecture, e.g. "x86_64", "aarch64".
        cpu: processor model.
        isa: those of `instructions.ISA_FLAGS` that every core has.
        os: e.g. "Linux".
        accelerator: of an engine that runs on one: `machine.Machine.accelerator`; "" for the processor.
            Alone, where engines run in every machine that has it.
        isa_unknown: those of which nothing told whether they are there. Where all is told, such an engine is
            another machine's.
    """

    runtime: str
    runtime_version: str
    machine: str
    cpu: str
    isa: tuple[str, ...]
    os: str
    accelerator: str = ""
    isa_unknown: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """sha256 over everything above, hex. What came later does not count where it is empty: engines keep
        their keys.
        """
        later = ("accelerator", "isa_unknown")
        values = {name: value for name, value in asdict(self).items() if name not in later or value}
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
        isa = told_isa(self.isa, self.isa_unknown)
        on = f"{self.accelerator} beside " if self.accelerator else ""
        return f"{on}{self.cpu} ({self.machine}, {self.os}; {isa})"

    def __str__(self) -> str:
        return f"{self.place} with {self.runtime} {self.runtime_version}"


def fingerprint(
    runtime: str, runtime_version: str, cpuinfo: Path | None = None, *, accelerator: str = ""
) -> Fingerprint:
    """Fingerprint of this device for a runtime.

    Args:
        cpuinfo: a file that describes another processor, as Linux does; for tests.
        accelerator: what the engine runs on beside the processor.
    Raises:
        Unsupported: the processor cannot be told.
    """
    cpu, isa, unknown, remark = processor(cpuinfo)
    if not cpu:
        raise Unsupported(
            "the processor of this machine cannot be told, and engines are bound to one"
            + (f"; {remark}" if remark else ""),
            hint=f"edgeseg doctor; on Linux, {cpuinfo or PROC_CPUINFO} must be readable",
        )
    return Fingerprint(
        runtime, runtime_version, platform.machine(), cpu, isa, platform.system(), accelerator, unknown
    )


def told_isa(isa: tuple[str, ...], unknown: tuple[str, ...]) -> str:
    """An instruction set for people: what is there, and what is not known to be."""
    if unknown and not isa:
        return "instruction set unknown"
    there = " ".join(isa) or "no instruction sets that kernels are chosen by"
    return f"{there}; unknown: {' '.join(unknown)}" if unknown else there


def usable_cores(cpuinfo: Path | None = None, root: Path = ROOT) -> int:
    """Physical cores that this process may use: by its affinity mask and by the quotas of its control groups,
    at least 1.

    Hardware threads of one core count once: a second one adds next to nothing to dense arithmetic. Of a
    fraction of a core nothing is used: a thread too many waits for the next period of the quota with all the
    others, in the middle of a frame.

    Args:
        cpuinfo, root: files of another machine, for tests.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {
        (block.get("physical id", "0"), block["core id"])
        for block in processors(cpuinfo or PROC_CPUINFO)
        if "core id" in block and int(block["processor"]) in allowed
    }
    count, quota = len(cores) or len(allowed), cpu_quota(root)
    return max(1, count if quota is None else min(count, int(quota)))
