"""Fingerprint: what ties an engine to a device.

An engine may hold code and data layouts for one instruction set, and its measured latency holds for one
processor. So both are in the fingerprint, with the operating system and the runtime's version; memory size,
core count and host name are not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edgeseg.devices.instructions import PROC_CPUINFO
from edgeseg.devices.machine import Machine
from edgeseg.errors import Unsupported
from edgeseg.files import json_digest


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
        return json_digest(values)

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
    runtime: str, runtime_version: str, machine: Machine, *, on_accelerator: bool = False
) -> Fingerprint:
    """Fingerprint of a machine for a runtime.

    Args:
        on_accelerator: the runtime's engines are bound to the accelerator beside the processor.
    Raises:
        Unsupported: the processor cannot be told.
    """
    if not machine.cpu:
        raise Unsupported(
            "the processor of this machine cannot be told, and engines are bound to one"
            + (f"; {machine.isa_remark}" if machine.isa_remark else ""),
            hint=f"edgeseg doctor; on Linux, {PROC_CPUINFO} must be readable",
        )
    return Fingerprint(
        runtime,
        runtime_version,
        machine.arch,
        machine.cpu,
        machine.isa,
        machine.system,
        machine.accelerator if on_accelerator else "",
        machine.isa_unknown,
    )


def place(machine: Machine) -> str:
    """A machine as a whole, which measured times belong to; one line. Raises Unsupported where nothing tells
    its processor.
    """
    return fingerprint("", "", machine, on_accelerator=True).place


def told_isa(isa: tuple[str, ...], unknown: tuple[str, ...]) -> str:
    """An instruction set for people: what is there, and what is not known to be."""
    if unknown and not isa:
        return "instruction set unknown"
    there = " ".join(isa) or "no instruction sets that kernels are chosen by"
    return f"{there}; unknown: {' '.join(unknown)}" if unknown else there
