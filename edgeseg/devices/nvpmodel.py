"""The power modes of a Jetson, from the two files that NVIDIA's nvpmodel keeps: the one in force, and all
that there are.

`/var/lib/nvpmodel/status` holds "pmode:0002", written whenever the mode changes; `/etc/nvpmodel.conf` defines
the modes. Neither needs root, nor the program. Numbers say nothing of speed: an Orin Nano Super has 15W (0),
25W (1), MAXN_SUPER (2) and 7W (3).

Source: NVIDIA, Jetson Linux Developer Guide, "Platform Power and Performance", and the head of nvpmodel.conf
    itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.devices.system_file import read

_STATUS = re.compile(r"\bpmode:0*(\d{1,9})\b", re.ASCII)
_SECTION = re.compile(r"<\s*(\w+)\s+([^<>]*)>", re.ASCII)
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*(\S+)", re.ASCII)
_GPU_LIMIT = re.compile(r"GPU\w*\s+MAX_FREQ\s+(-?\d{1,18})", re.ASCII)
_WATTS = re.compile(r"(\d{1,9})W", re.ASCII)


@dataclass(frozen=True, slots=True)
class PowerMode:
    """One mode.

    Attributes:
        number: what `nvpmodel -m` takes.
        name: "15W", "MAXN_SUPER".
        gpu_max_hz: limit of the GPU's clock; infinite where the mode sets none, None where it says nothing of
            it.
    """

    number: int
    name: str
    gpu_max_hz: float | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.number})"


def power_modes(root: Path) -> tuple[PowerMode | None, list[PowerMode]]:
    """The mode in force, and all modes, of the Jetson whose files lie below `root`; None and [] where the
    files do not say.
    """
    modes, number = (
        parse_modes(read(root / "etc/nvpmodel.conf")),
        parse_status(read(root / "var/lib/nvpmodel/status")),
    )
    known = next((mode for mode in modes if mode.number == number), None)
    return known or (None if number is None else PowerMode(number, "mode")), modes


def parse_status(text: str) -> int | None:
    """Number of the mode in force: "pmode:0002" -> 2; None where there is none."""
    match = _STATUS.search(text)
    return int(match[1]) if match else None


def parse_modes(text: str) -> list[PowerMode]:
    """The modes that an nvpmodel.conf defines, in its order; of two with one number the first. What makes no
    sense is no mode.
    """
    modes: dict[int, PowerMode] = {}
    current: tuple[int, str] | None = None
    limits: list[float] = []

    def close() -> None:
        if current and current[0] not in modes:
            modes[current[0]] = PowerMode(*current, max(limits, default=None))

    for line in text.splitlines():
        line = line.strip()
        if line.startswith("#"):
            continue
        section, limit = _SECTION.fullmatch(line), _GPU_LIMIT.fullmatch(line)
        if section:
            close()
            given = dict(_ATTRIBUTE.findall(section[2]))
            number, name = given.get("ID", ""), given.get("NAME", "")
            is_mode = section[1] == "POWER_MODEL" and re.fullmatch(r"[0-9]{1,9}", number) and name
            current, limits = ((int(number), name) if is_mode else None), []
        elif limit and current:
            hz = int(limit[1])
            limits.append(hz if hz >= 0 else math.inf)
    close()
    return list(modes.values())


def fastest(modes: Sequence[PowerMode]) -> PowerMode | None:
    """The mode that holds the GPU back least: by the limit of its clock, then by name (MAXN has no cap), then
    by watts.
    """

    def speed(mode: PowerMode) -> tuple[float, bool, int]:
        watts = _WATTS.search(mode.name)
        return mode.gpu_max_hz or 0.0, "MAXN" in mode.name.upper(), int(watts[1]) if watts else 0

    return max(modes, key=speed, default=None)
