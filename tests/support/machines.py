"""File trees of machines, as small as a probe needs them.

The form of each file is that of real ones, as people published them: /etc/nv_tegra_release of JetPack 4.6,
5.1.2, 6.2, 7.0 to 7.2 in manuals and bug reports, compatible strings as in Jetson Linux's device trees,
/proc/driver/nvidia as there, the status file as dpkg writes it; power modes, clocks and their governors as
boards in each mode show them.
"""

from __future__ import annotations

from pathlib import Path

Tree = dict[str, str]
"""Path below the root -> content."""


def write_tree(root: Path, tree: Tree) -> Path:
    """Write a tree below `root` and return `root`."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return root


def _arm(implementer: str, part: str, features: str) -> str:
    return "".join(
        f"processor\t: {number}\nBogoMIPS\t: 62.50\nFeatures\t: {features}\nCPU implementer\t:"
        f" {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        for number in range(2)
    )


_A78AE = _arm(
    "0x41",
    "0xd42",
    "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat",
)
_CARMEL = _arm("0x4e", "0x004", "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm dcpop")
_V3AE = _arm("0x41", "0xd83", "fp asimd aes crc32 atomics fphp asimdhp asimddp sve sve2 i8mm bf16")


def _x86(name: str, flags: str) -> str:
    return (
        f"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\ncore id\t\t: 0\nflags\t\t: fpu sse"
        f" sse2 {flags}\n\n"
    )


def _ubuntu(version: str) -> str:
    return (
        f'PRETTY_NAME="Ubuntu {version}'
        f' LTS"\nNAME="Ubuntu"\nVERSION_ID="{version[:5]}"\nID=ubuntu\nID_LIKE=debian\n'
    )


def _packages(versions: dict[str, str]) -> str:
    stanzas = (
        f"Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: libs\nArchitecture:"
        f" arm64\nVersion: {version}\nDescription: as NVIDIA ships it\n a second line: with a colon\n"
        for name, version in versions.items()
    )
    removed = "Package: libnvinfer8\nStatus: deinstall ok config-files\nVersion: 8.5.2-1+cuda11.4\n"
    return "\n".join((*stanzas, removed))


_CPUFREQ = "sys/devices/system/cpu/cpufreq"


def cpufreq(policies: dict[int, tuple[int, int]], governor: str, driver: str, **more: str) -> Tree:
    """Settings of the processor's clocks. `policies`: number -> lowest and highest kHz; `more`: further files
    of each policy.
    """
    return {
        f"{_CPUFREQ}/policy{number}/{name}": f"{value}\n"
        for number, (low, high) in policies.items()
        for name, value in {
            "scaling_min_freq": low,
            "scaling_max_freq": high,
            "scaling_governor": governor,
            "scaling_driver": driver,
            **more,
        }.items()
    }


def devfreq(name: str, low: int, high: int, governor: str) -> Tree:
    """Settings of a Jetson's GPU clock, in Hz."""
    folder = f"sys/class/devfreq/{name}"
    return {
        f"{folder}/min_freq": f"{low}\n",
        f"{folder}/max_freq": f"{high}\n",
        f"{folder}/governor": f"{governor}\n",
    }


def memory(total_kb: int, *swaps: tuple[str, int]) -> Tree:
    """Memory and swap space, in kB."""
    rows = "".join(f"{name:<40}partition\t{size}\t\t0\t\t5\n" for name, size in swaps)
    return {
        "proc/meminfo": f"MemTotal:{total_kb:>16} kB\nMemFree:          813100 kB\n",
        "proc/swaps": f"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n{rows}",
    }


ZRAM = [(f"/dev/zram{number}", 650236) for number in range(6)]
"""JetPack's own swap space: compressed, in memory, one for each core."""
ORIN_NANO_SUPER_MODES = """#
# FORMAT:
# < PARAM TYPE=PARAM_TYPE NAME=PARAM_NAME >
# < POWER_MODEL ID=id_num NAME=mode_name >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< PARAM TYPE=CLOCK NAME=GPU >
FREQ_TABLE /sys/devices/platform/17000000.gpu/devfreq_dev/available_frequencies
MAX_FREQ /sys/devices/platform/17000000.gpu/devfreq_dev/max_freq
MIN_FREQ /sys/devices/platform/17000000.gpu/devfreq_dev/min_freq

< POWER_MODEL ID=0 NAME=15W >
CPU_A78_0 MIN_FREQ 729600
CPU_A78_0 MAX_FREQ 1497600
GPU MIN_FREQ 0
GPU MAX_FREQ 612000000
EMC MAX_FREQ 2133000000

< POWER_MODEL ID=1 NAME=25W >
CPU_A78_0 MAX_FREQ 1344000
GPU MIN_FREQ 0
GPU MAX_FREQ 918000000

< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_A78_0 MAX_FREQ -1
GPU MIN_FREQ 0
GPU MAX_FREQ -1

< POWER_MODEL ID=3 NAME=7W >
CPU_ONLINE CORE_4 0
CPU_ONLINE CORE_5 0
GPU MAX_FREQ 408000000

# mandatory section to configure the default mode
< PM_CONFIG DEFAULT=1 >
"""
_ORIN_NANO_25W: Tree = {
    "etc/nvpmodel.conf": ORIN_NANO_SUPER_MODES,
    "var/lib/nvpmodel/status": "pmode:0001",
    "sys/devices/system/cpu/online": "0-5\n",
    **cpufreq({0: (729600, 1344000), 4: (729600, 1344000)}, "schedutil", "tegra194"),
    **devfreq("17000000.gpu", 306000000, 918000000, "nvhost_podgov"),
    **devfreq("15480000.nvdec", 396800000, 793600000, "wmark_active"),
}
_ORIN_NANO_MAXN_HELD: Tree = {
    **_ORIN_NANO_25W,
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    **cpufreq({0: (1728000, 1728000), 4: (1728000, 1728000)}, "schedutil", "tegra194"),
    **devfreq("17000000.gpu", 1020000000, 1020000000, "nvhost_podgov"),
}

ORIN_NANO_JETPACK_62: Tree = {
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8"
        " 01:49:37 UTC 2025\n"
        "# KERNEL_VARIANT:"
        " oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
        "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
    ),
    "etc/os-release": _ubuntu("22.04.5"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build "
        " (buildbrain@mobile-u64-6336-d8000)  Tue Jan  7 17:35:12 PST 2025\nGCC version:  collect2: error: ld"
        " returned 1 exit status\n"
    ),
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    "var/lib/dpkg/status": _packages(
        {
            "libc6": "2.35-0ubuntu3.8",
            "libnvinfer10": "10.3.0.30-1+cuda12.5",
            "nvidia-jetpack": "6.2+b77",
            "nvidia-l4t-core": "36.4.3-20250107174145",
            "python3-libnvinfer": "10.3.0.30-1+cuda12.5",
        }
    ),
}
ORIN_NANO_WITH_CUDNN: Tree = {
    **ORIN_NANO_JETPACK_62,
    "var/lib/dpkg/status": _packages(
        {"libcudnn9-cuda-12": "9.3.0.75-1", "libopencv-python": "4.8.0-1-g6371ee1"}
    ),
}
ORIN_NANO_25W: Tree = {**ORIN_NANO_JETPACK_62, **_ORIN_NANO_25W, **memory(7802840, *ZRAM)}
"""As it boots."""
ORIN_NANO_MAXN_HELD: Tree = {**ORIN_NANO_JETPACK_62, **_ORIN_NANO_MAXN_HELD, **memory(7802840, *ZRAM)}
"""After nvpmodel -m 2 and jetson_clocks."""
ORIN_NANO_4GB: Tree = {
    **ORIN_NANO_JETPACK_62,
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0004\0nvidia,p3767-0004\0nvidia,tegra234\0",
    **memory(3866704, *ZRAM),
}
ORIN_NX_JETPACK_72: Tree = {
    "etc/nv_tegra_release": "# R39 (release), REVISION: 2.1, GCID: 46758480, BOARD: generic, EABI: aarch64\n",
    "etc/os-release": _ubuntu("24.04.4"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0",
}
AGX_ORIN_CONTAINER: Tree = {  # the host's nv_tegra_release is not in the image, nor is the GPU's device file
    ".dockerenv": "",
    "etc/os-release": _ubuntu("22.04.4"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "var/lib/dpkg/status": _packages({"nvidia-l4t-core": "36.4.7-20250918154033"}),
}
AGX_ORIN_JETPACK_51: Tree = {
    "etc/nv_tegra_release": (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1"
        " 19:57:35 UTC 2023\n"
    ),
    "etc/os-release": _ubuntu("20.04.6"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "Jetson AGX Orin\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0004\0nvidia,tegra234\0nvidia,tegra23x\0",
}
XAVIER_NX_JETPACK_51: Tree = {
    "etc/nv_tegra_release": (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1"
        " 19:57:35 UTC 2023\n"
    ),
    "etc/os-release": _ubuntu("20.04.6"),
    "proc/cpuinfo": _CARMEL,
    "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3509-0000+p3668-0001\0nvidia,tegra194\0",
}
NANO_JETPACK_46: Tree = {
    "etc/nv_tegra_release": (
        "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: Sat Feb 19"
        " 17:05:08 UTC 2022\n"
    ),
    "etc/os-release": _ubuntu("18.04.6"),
    "proc/cpuinfo": _arm("0x41", "0xd07", "fp asimd evtstrm aes pmull sha1 sha2 crc32"),
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "proc/device-tree/compatible": (
        "nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,jetson-nano\0nvidia,tegra210\0"
    ),
}
THOR_JETPACK_70: Tree = {
    "etc/nv_tegra_release": (
        "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, DATE: Thu Sep 25"
        " 22:47:11 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    ),
    "etc/os-release": _ubuntu("24.04.3"),
    "proc/cpuinfo": _V3AE,
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "var/lib/dpkg/status": _packages(
        {"libnvinfer10": "10.13.3.9-1+cuda13.0", "python3-libnvinfer": "10.13.3.9-1+cuda13.0"}
    ),
}
THOR_120W: Tree = {
    **THOR_JETPACK_70,
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nGPU MAX_FREQ -1\n< POWER_MODEL ID=1 NAME=120W >\n",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    **devfreq("gpu-gpc-0", 315000000, 1575000000, "nvhost_podgov"),
    **devfreq("gpu-nvd-0", 315000000, 1692000000, "nvhost_podgov"),
}
T4000_JETPACK_71: Tree = {
    **THOR_JETPACK_70,
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64\n",
    "proc/device-tree/model": "NVIDIA Jetson T4000\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0000\0nvidia,p3834-0000\0nvidia,tegra264\0",
}
NEWER_JETPACK: Tree = {
    **ORIN_NX_JETPACK_72,
    "etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID: 1, BOARD: generic\n",
}
RTX_4090: Tree = {
    "etc/os-release": _ubuntu("24.04.2"),
    "proc/cpuinfo": _x86("13th Gen Intel(R) Core(TM) i9-13900K", "sse4_1 avx f16c fma avx2 avx_vnni"),
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.71.05  Release Build "
        " (dvs-builder@U22-I3-B08-02-2)  Fri Apr 24 06:42:30 UTC 2026\nGCC version:  gcc version 13.3.0"
        " (Ubuntu 13.3.0-6ubuntu2~24.04.1)\n"
    ),
    "proc/driver/nvidia/gpus/0000:01:00.0/information": (
        "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 159\nVideo BIOS: \t 95.02.3c.40.11\nBus Type: \t"
        " PCIe\n"
    ),
}
RTX_4090_CONTAINER: Tree = {**RTX_4090, ".dockerenv": ""}
RTX_4090_CONTAINER_WITH_GPU: Tree = {**RTX_4090_CONTAINER, "dev/nvidiactl": ""}
RTX_2080_TI_OLD_DRIVER: Tree = {
    **RTX_4090,
    "proc/cpuinfo": _x86("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", "sse4_1 avx f16c fma avx2"),
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.216.03  Thu Apr  3 01:14:19 UTC 2025\n"
    ),
    "proc/driver/nvidia/gpus/0000:01:00.0/information": (
        "Model: \t\t NVIDIA GeForce RTX 2080 Ti\nIRQ:   \t\t 145\n"
    ),
}
SERVER: Tree = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/cpuinfo": _x86(
        "Intel(R) Xeon(R) Platinum 8480+",
        "avx2 avx512f avx512bw avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8",
    ),
}
DEBIAN_13: Tree = {**SERVER, "var/lib/dpkg/status": _packages({"python3-opencv": "4.10.0+dfsg-5"})}
WITHOUT_TURBO: Tree = {
    **SERVER,
    "proc/cpuinfo": _x86("Intel(R) Core(TM) i3-8100 CPU @ 3.60GHz", "avx2 fma"),
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
}
"""The kernel says no_turbo of a processor that has none, too, and lets nobody change it."""
LAPTOP_ON_BATTERY: Tree = {
    **SERVER,
    "proc/cpuinfo": _x86("12th Gen Intel(R) Core(TM) i7-1260P", "ida avx2 fma avx_vnni"),
    **cpufreq(
        dict.fromkeys(range(12), (800000, 4900000)),
        "powersave",
        "intel_pstate",
        energy_performance_preference="balance_power",
    ),
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/cpu/online": "0-11\n",
    "sys/firmware/acpi/platform_profile": "low-power\n",
}
OLD_GOVERNOR: Tree = {
    **SERVER,
    **cpufreq({0: (1200000, 3600000)}, "powersave", "acpi-cpufreq"),
    f"{_CPUFREQ}/boost": "1\n",
}
RASPBERRY_PI_5: Tree = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/cpuinfo": _arm(
        "0x41", "0xd0b", "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    ),
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
}
ROCK_5B: Tree = {
    **RASPBERRY_PI_5,
    **cpufreq({0: (408000, 1800000), 4: (408000, 2400000)}, "ondemand", "cpufreq-dt"),
    f"{_CPUFREQ}/boost": "0\n",
}
