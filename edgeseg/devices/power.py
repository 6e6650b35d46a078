"""Power that this machine draws, in watts by rail: the INA3221 monitors of Jetson boards, RAPL of x86
processors, NVIDIA GPUs by NVML.

The kernel's files are read below a root, so that recorded trees can be read too. Where there is no meter, or
it may not be read (RAPL is root's on most systems), nothing is told: a figure is never made up.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeseg.contracts import Meter
from edgeseg.errors import Unsupported
from edgeseg.registry import METERS_GROUP, Table

_LEAST_INTERVAL_S = 0.25
_UNUSED_RAILS = ("", "NC", "sum of shunt voltages")

METERS: Table[Callable[[], Meter]] = Table(
    METERS_GROUP,
    "power meter",
    {
        "ina3221": "edgeseg.devices.power:Ina3221",
        "rapl": "edgeseg.devices.power:Rapl",
        "nvml": "edgeseg.devices.power:Nvml",
    },
)
"""Every kind of meter; packages add theirs through the entry-point group `edgeseg.meters`."""


class PowerMeter:
    """Reads several meters as one. Threads may share it.

    Args:
        meters: None: one of each kind, without those of packages that cannot be imported.
    """

    def __init__(
        self, meters: Sequence[Meter] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._meters = _all() if meters is None else meters
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._read_s = float("-inf")

    def read(self) -> dict[str, float]:
        """Watts by rail, the whole board's first where it is known; empty where nothing can be read. Never
        raises OSError.

        What was read less than a quarter of a second ago is told again.
        """
        with self._lock:
            if self._clock() - self._read_s >= _LEAST_INTERVAL_S:
                found = {rail: watts for meter in self._meters for rail, watts in meter.read().items()}
                self._last = dict(
                    sorted(found.items(), key=lambda item: not item[0].startswith(("VDD_IN", "VIN")))
                )
                self._read_s = self._clock()
            return dict(self._last)


def _all() -> list[Meter]:
    meters: list[Meter] = []
    for name in METERS.names():
        with suppress(Unsupported):  # the doctor tells it
            meters.append(METERS.load(name)())
    return meters


class Ina3221:
    """Power of each rail that a Jetson's INA3221 monitors watch: voltage times current.

    Source: Linux, Documentation/hwmon/ina3221.rst (inN_input in mV, currN_input in mA).
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self) -> dict[str, float]:
        watts = {}
        for chip in sorted(self._root.glob("sys/class/hwmon/hwmon*")):
            if _text(chip / "name") != "ina3221":
                continue
            for label in sorted(chip.glob("in*_label")):
                channel, rail = label.name.removeprefix("in").removesuffix("_label"), _text(label) or ""
                millivolts, milliamps = (
                    _integer(chip / f"in{channel}_input"),
                    _integer(chip / f"curr{channel}_input"),
                )
                if rail not in _UNUSED_RAILS and millivolts is not None and milliamps is not None:
                    watts[rail] = millivolts * milliamps / 1e6
        return watts


class Rapl:
    """Mean power of each processor package since the last reading, from its energy counter.

    Source: Linux, Documentation/power/powercap/powercap.rst (energy_uj counts up to max_energy_range_uj, then
        from 0 again).
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._before: dict[str, tuple[float, int]] = {}

    def read(self) -> dict[str, float]:
        """Watts by package; empty at the first reading, which only takes the counters down."""
        watts = {}
        for zone in sorted(self._root.glob("sys/class/powercap/intel-rapl:*")):
            energy_uj, name = _integer(zone / "energy_uj"), _text(zone / "name") or ""
            if zone.name.count(":") != 1 or energy_uj is None or not name.startswith("package"):
                continue  # what lies within a package is counted there
            now_s = self._clock()
            if zone.name in self._before:
                before_s, before_uj = self._before[zone.name]
                spent_uj = energy_uj - before_uj
                if spent_uj < 0:
                    spent_uj += (_integer(zone / "max_energy_range_uj") or -spent_uj) + 1
                if now_s > before_s:
                    watts[f"CPU {name}"] = spent_uj / 1e6 / (now_s - before_s)
            self._before[zone.name] = now_s, energy_uj
        return watts


class Nvml:
    """Power of each NVIDIA GPU of this machine, where its Python package and its driver are there."""

    def __init__(self) -> None:
        self._handles: list[Any] | None = None

    def read(self) -> dict[str, float]:
        try:
            nvml: Any = importlib.import_module("pynvml")
        except ImportError:
            return {}
        watts = {}
        try:
            if self._handles is None:
                self._handles = []
                nvml.nvmlInit()
                self._handles = [
                    nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
                ]
            for index, handle in enumerate(self._handles):
                watts[f"GPU {index}"] = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        except nvml.NVMLError:
            return watts
        return watts


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _integer(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else None
