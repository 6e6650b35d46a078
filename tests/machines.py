"""File trees of machines, as small as a probe needs them.

The form of each file is that of real ones, as people published them: /etc/nv_tegra_release of JetPack 5.1.2, 6.2, 7.0 and 7.2
in manuals and bug reports, compatible strings as in Jetson Linux's device trees, /proc/driver/nvidia as there, the status
file as dpkg writes it.
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
        f"processor\t: {number}\nBogoMIPS\t: 62.50\nFeatures\t: {features}\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        for number in range(2)
    )


_A78AE = _arm("0x41", "0xd42", "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat")
_CARMEL = _arm("0x4e", "0x004", "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm dcpop")
_V3AE = _arm("0x41", "0xd83", "fp asimd aes crc32 atomics fphp asimdhp asimddp sve sve2 i8mm bf16")


def _x86(name: str, flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\ncore id\t\t: 0\nflags\t\t: fpu sse sse2 {flags}\n\n"


def _ubuntu(version: str) -> str:
    return f'PRETTY_NAME="Ubuntu {version} LTS"\nNAME="Ubuntu"\nVERSION_ID="{version[:5]}"\nID=ubuntu\nID_LIKE=debian\n'


def _packages(versions: dict[str, str]) -> str:
    stanzas = (
        f"Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: libs\nArchitecture: arm64\n"
        f"Version: {version}\nDescription: as NVIDIA ships it\n a second line: with a colon\n"
        for name, version in versions.items()
    )
    removed = "Package: libnvinfer8\nStatus: deinstall ok config-files\nVersion: 8.5.2-1+cuda11.4\n"
    return "\n".join((*stanzas, removed))


ORIN_NANO_JETPACK_62: Tree = {
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
        "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\nTARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
    ),
    "etc/os-release": _ubuntu("22.04.5"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile-u64-6336-d8000)  "
        "Tue Jan  7 17:35:12 PST 2025\nGCC version:  collect2: error: ld returned 1 exit status\n"
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
ORIN_NX_JETPACK_72: Tree = {
    "etc/nv_tegra_release": "# R39 (release), REVISION: 2.1, GCID: 46758480, BOARD: generic, EABI: aarch64\n",
    "etc/os-release": _ubuntu("24.04.4"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0",
}
AGX_ORIN_CONTAINER: Tree = {  # the host's nv_tegra_release is not in the image
    "etc/os-release": _ubuntu("22.04.4"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "var/lib/dpkg/status": _packages({"nvidia-l4t-core": "36.4.7-20250918154033"}),
}
AGX_ORIN_JETPACK_51: Tree = {
    "etc/nv_tegra_release": (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n"
    ),
    "etc/os-release": _ubuntu("20.04.6"),
    "proc/cpuinfo": _A78AE,
    "proc/device-tree/model": "Jetson AGX Orin\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0004\0nvidia,tegra234\0nvidia,tegra23x\0",
}
XAVIER_NX_JETPACK_51: Tree = {
    "etc/nv_tegra_release": (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n"
    ),
    "etc/os-release": _ubuntu("20.04.6"),
    "proc/cpuinfo": _CARMEL,
    "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3509-0000+p3668-0001\0nvidia,tegra194\0",
}
THOR_JETPACK_70: Tree = {
    "etc/nv_tegra_release": (
        "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, DATE: Thu Sep 25 22:47:11 UTC 2025\n"
        "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    ),
    "etc/os-release": _ubuntu("24.04.3"),
    "proc/cpuinfo": _V3AE,
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "var/lib/dpkg/status": _packages({"libnvinfer10": "10.13.3.9-1+cuda13.0", "python3-libnvinfer": "10.13.3.9-1+cuda13.0"}),
}
NEWER_JETPACK: Tree = {**ORIN_NX_JETPACK_72, "etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID: 1, BOARD: generic\n"}
RTX_4090: Tree = {
    "etc/os-release": _ubuntu("24.04.2"),
    "proc/cpuinfo": _x86("13th Gen Intel(R) Core(TM) i9-13900K", "sse4_1 avx f16c fma avx2 avx_vnni"),
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.71.05  Release Build  (dvs-builder@U22-I3-B08-02-2)  "
        "Fri Apr 24 06:42:30 UTC 2026\nGCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04.1)\n"
    ),
    "proc/driver/nvidia/gpus/0000:01:00.0/information": (
        "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 159\nVideo BIOS: \t 95.02.3c.40.11\nBus Type: \t PCIe\n"
    ),
}
RTX_2080_TI_OLD_DRIVER: Tree = {
    **RTX_4090,
    "proc/cpuinfo": _x86("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", "sse4_1 avx f16c fma avx2"),
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.216.03  Thu Apr  3 01:14:19 UTC 2025\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 2080 Ti\nIRQ:   \t\t 145\n",
}
SERVER: Tree = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/cpuinfo": _x86(
        "Intel(R) Xeon(R) Platinum 8480+", "avx2 avx512f avx512bw avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"
    ),
}
RASPBERRY_PI_5: Tree = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "proc/cpuinfo": _arm("0x41", "0xd0b", "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
}
