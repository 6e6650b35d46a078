"""Speed that a machine is set to: power mode, limits of the clocks, and who moves them. A time means
little without them.

None of it is in an engine's key: an engine stays right at every clock. It is written down when an engine is
timed, and compared before one is used. Only settings are read, never the clock of the moment, which moves by
itself.

Sources: Linux, Documentation/admin-guide/pm/cpufreq.rst, intel_pstate.rst, and
    ABI/testing/sysfs-class-devfreq; NVIDIA, Jetson
Linux Developer Guide, "Platform Power and Performance": jetson_clocks holds every clock at the top of the
power mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgeseg.devices.nvidia import Gpu
from edgeseg.devices.nvpmodel import power_modes
from edgeseg.devices.system_file import read

CPU = "sys/devices/system/cpu"
WORDS = {
    "power_mode": "power mode",
    "jetson_clocks": "jetson_clocks",
    "gpu_mhz": "GPU MHz",
    "gpu_governor": "GPU governor",
    "cpu_mhz": "CPU MHz",
    "cpu_governor": "CPU governor",
    "cpu_driver": "CPU clock driver",
    "cpu_preference": "CPU preference",
    "turbo": "turbo",
    "cores_online": "cores online",
    "platform_profile": "platform profile",
}
"""Keys of `clocks`, for people; those of graphics cards (`gpu0_power_limit_w`) are told as they are."""


def clocks(root: Path, gpus: Sequence[Gpu] = (), *, jetson: bool = False) -> dict[str, str]:
    """The settings of the machine whose files lie below `root`; what no file says is left out. Raises
    nothing.

    Args:
        gpus: its graphics cards.
    """
    found: dict[str, str | None] = {}
    if jetson:
        mode, _ = power_modes(root)
        found |= {
            "power_mode": str(mode) if mode else None,
            "jetson_clocks": _held(root),
            **_jetson_gpu(root),
        }
    found |= _processor(root)
    for index, gpu in enumerate(gpus):
        found |= {
            f"gpu{index}_power_limit_w": None if gpu.power_limit_w is None else f"{gpu.power_limit_w:g}",
            f"gpu{index}_max_mhz": None if gpu.max_mhz is None else str(gpu.max_mhz),
            f"gpu{index}_persistence": _on(gpu.persistence),
        }
    return {name: value for name, value in found.items() if value}


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """List what was set otherwise, for people: "power mode is 15W (0), was 25W (1)". What one side does not
    know does not count.
    """
    return [
        f"{told(name)} is {now[name]}, was {then[name]}"
        for name in then
        if name in now and now[name] != then[name]
    ]


def told(name: str) -> str:
    """A key of `clocks` for people."""
    card = re.fullmatch(r"gpu(\d+)_(\w+?)(_w|_mhz)?", name)
    unit = {"_w": " W", "_mhz": " MHz"}.get(card[3], "") if card else ""
    return WORDS.get(name) or (f"GPU {card[1]} {card[2].replace('_', ' ')}{unit}" if card else name)


def _processor(root: Path) -> dict[str, str | None]:
    policies = sorted((root / CPU / "cpufreq").glob("policy*"), key=lambda path: (len(path.name), path.name))
    no_turbo, boost = _text(root / CPU / "intel_pstate/no_turbo"), _text(root / CPU / "cpufreq/boost")
    if no_turbo == "1" and not _has_turbo(root):
        no_turbo = ""
    return {
        "cpu_mhz": _each(
            _range(_mhz(p / "scaling_min_freq", 1e3), _mhz(p / "scaling_max_freq", 1e3)) for p in policies
        ),
        "cpu_governor": _each(_text(policy / "scaling_governor") for policy in policies),
        "cpu_driver": _each(_text(policy / "scaling_driver") for policy in policies),
        "cpu_preference": _each(_text(policy / "energy_performance_preference") for policy in policies),
        "turbo": {"0": "on", "1": "off"}.get(no_turbo) or {"1": "on", "0": "off"}.get(boost),
        "cores_online": _text(root / CPU / "online"),
        "platform_profile": _text(root / "sys/firmware/acpi/platform_profile"),
    }


def _has_turbo(root: Path) -> bool:
    """Tell whether an Intel processor has turbo that its firmware allows: without, no_turbo is 1 too, and
    cannot be changed.

    Source: Intel SDM, volume 3, "Opportunistic Processor Operation": CPUID leaf 6, which Linux lists as
        "ida".
    """
    return re.search(r"^flags\s*:.*\bida\b", read(root / "proc/cpuinfo"), re.MULTILINE) is not None


def _jetson_gpu(root: Path) -> dict[str, str | None]:
    """Limits of the GPU's clock. It is "17000000.gpu" on Orin, ".ga10b" and ".gv11b" on older systems,
    "gpu-gpc-0" on Thor.
    """
    device = _gpu_device(root)
    if device is None:
        return {}
    limits = _mhz(device / "min_freq", 1e6), _mhz(device / "max_freq", 1e6)
    return {"gpu_mhz": _range(*limits), "gpu_governor": _text(device / "governor")}


def _gpu_device(root: Path) -> Path | None:
    devices = sorted((root / "sys/class/devfreq").glob("*"))
    named = (
        d for ending in ("gpu", "ga10b", "gv11b", "gp10b") for d in devices if d.name.endswith(f".{ending}")
    )
    return next(named, None) or next(
        (device for device in devices if device.name.startswith("gpu-gpc")), None
    )


def _held(root: Path) -> str | None:
    """Tell whether jetson_clocks holds the clocks: the lowest that each may have is then the highest. None
    where no file says.
    """
    device = _gpu_device(root)
    pairs = [(device / "min_freq", device / "max_freq")] if device else []
    pairs += [
        (p / "scaling_min_freq", p / "scaling_max_freq") for p in (root / CPU / "cpufreq").glob("policy*")
    ]
    limits = [(_text(low), _text(high)) for low, high in pairs]
    if not limits or any(not low or not high for low, high in limits):
        return None
    return _on(all(low == high for low, high in limits))


def _each(values: Iterable[str | None]) -> str | None:
    """Join what cores are set to; of different clusters each once, in their order."""
    return " + ".join(dict.fromkeys(value for value in values if value)) or None


def _range(low: int | None, high: int | None) -> str | None:
    if high is None:
        return None
    return f"{high}" if low in (None, high) else f"{low}-{high}"


def _mhz(path: Path, per_mhz: float) -> int | None:
    text = _text(path)
    return round(int(text) / per_mhz) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _on(flag: bool | None) -> str | None:
    return None if flag is None else "on" if flag else "off"


def _text(path: Path) -> str:
    """The first line of a file, at most so long as a setting is; "" where it cannot be read."""
    return "".join(char for char in read(path).strip().partition("\n")[0] if char.isprintable())[:100]
