"""Settings that make a machine slower than it is, or its builds fail: each trap is a function of the machine.

They are no faults, and nothing here changes them: a robot on a battery may want 15 W. But who measures should
know.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvpmodel import fastest

_SMALL_GB, _TIGHT_GB = 4.5, 8.6  # a module of 4 GB, one of 8 GB
_LETS_HARDWARE_CHOOSE = ("intel_pstate", "amd-pstate-epp")
"""Drivers whose governor "powersave" means that the processor follows the load by its preference, not that it
stays slow.

Source: Linux, Documentation/admin-guide/pm/intel_pstate.rst and amd-pstate.rst, "active mode"."""
_SWAPFILE = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon"
    " /swapfile"
)


def low_power_mode(machine: Machine) -> Finding | None:
    """A Jetson in a mode that holds its GPU back: developer kits boot in one."""
    now, best = machine.clocks.get("power_mode"), fastest(machine.power_modes)
    if not now or not best or now == str(best):
        return None
    found = f"{now}; the fastest of this board is {best}, which needs cooling, and may ask for a restart"
    return _trap("power mode", found, f"sudo nvpmodel -m {best.number}")


def clocks_follow_the_load(machine: Machine) -> Finding | None:
    """Between frames a Jetson's clocks fall, and rise late: times are longer, and spread more, than the mode
    allows.
    """
    if machine.clocks.get("jetson_clocks") != "off":
        return None
    limits = f" (GPU {machine.clocks['gpu_mhz']} MHz)" if "gpu_mhz" in machine.clocks else ""
    return _trap(
        "jetson_clocks",
        f"off: clocks follow the load{limits}; on, they are held until the next start",
        "sudo jetson_clocks",
    )


def processor_kept_slow(machine: Machine) -> Finding | None:
    """The governor "powersave" of drivers that take it at its word, or a preference for saving where the
    processor chooses.
    """
    governor, driver = (machine.clocks.get(name, "") for name in ("cpu_governor", "cpu_driver"))
    preference = machine.clocks.get("cpu_preference", "")
    set_performance = "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
    if "powersave" in governor and driver not in _LETS_HARDWARE_CHOOSE:
        return _trap(
            "processor's governor",
            f"powersave: the clock stays at its lowest ({driver or 'unknown driver'})",
            set_performance,
        )
    if governor != "performance" and preference in ("power", "balance_power"):
        return _trap("processor's governor", f"{governor}, with the preference {preference}", set_performance)
    return None


def turbo_off(machine: Machine) -> Finding | None:
    """Check turbo, of x86 alone: ARM's boards come without, and what their "boost" names may be more than
    they can cool.
    """
    if machine.clocks.get("turbo") != "off" or machine.arch not in ("x86_64", "AMD64"):
        return None
    file = "cpufreq/boost" if machine.clocks.get("cpu_driver") != "intel_pstate" else "intel_pstate/no_turbo"
    value = 1 if file.endswith("boost") else 0
    return _trap("turbo", "switched off", f"echo {value} | sudo tee /sys/devices/system/cpu/{file}")


def low_power_profile(machine: Machine) -> Finding | None:
    if machine.clocks.get("platform_profile") not in ("low-power", "quiet", "cool"):
        return None
    found = f"{machine.clocks['platform_profile']}: the firmware holds processor and GPU back"
    return _trap("platform profile", found, "powerprofilesctl set performance")


def capped_card(machine: Machine) -> Finding | None:
    """A graphics card that may draw less than it is made for."""
    for index, gpu in enumerate(machine.gpus):
        if gpu.power_limit_w and gpu.power_default_w and gpu.power_limit_w < gpu.power_default_w:
            found = f"{gpu.name} may draw {gpu.power_limit_w:g} W of {gpu.power_default_w:g} W"
            return _trap("power limit", found, f"sudo nvidia-smi -i {index} -pl {gpu.power_default_w:g}")
    return None


def little_memory(machine: Machine) -> Finding | None:
    """Builds of engines end for want of memory on small modules. Swap in compressed memory is little help to
    one of 4 GB.
    """
    memory_gb, small = machine.memory_gb, (machine.memory_gb or 0.0) < _SMALL_GB
    swap_gb = machine.disk_swap_gb if small else machine.swap_gb
    if not machine.jetson or memory_gb is None or memory_gb > _TIGHT_GB or swap_gb is None or swap_gb > 0:
        return None
    found = (
        f"{memory_gb:g} GB, and no swap{' on a disk' if small else ''}; a line in /etc/fstab keeps it over"
        " restarts"
    )
    return _trap("memory", found, _SWAPFILE)


def gpu_kept_from_the_container(machine: Machine) -> Finding | None:
    """The kernel's files tell of the GPU in every container; libraries and device files come only where one
    asks for them.
    """
    if not machine.gpu_hidden or not (machine.jetson or machine.driver):
        return None
    image = " and an image with the TensorRT of this JetPack" if machine.jetson else ""
    found = f"it has no device file of the GPU: the host needs NVIDIA's container toolkit{image}"
    return _trap(
        "container", found, f"docker run {'--runtime nvidia' if machine.jetson else '--gpus all'} IMAGE"
    )


SLOW: tuple[Callable[[Machine], Finding | None], ...] = (
    low_power_mode,
    clocks_follow_the_load,
    processor_kept_slow,
    turbo_off,
    low_power_profile,
    capped_card,
    little_memory,
    gpu_kept_from_the_container,
)


def _trap(name: str, found: str, hint: str) -> Finding:
    return Finding("traps", name, False, found, hint)
