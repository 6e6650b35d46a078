"""What this machine is, beyond its processor: system, GPUs, Jetson module, and the versions of what lies outside Python."""

from __future__ import annotations

import json
import platform
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from edgeseg.devices import probe
from edgeseg.devices.jetson import Jetson, device_tree, jetson
from edgeseg.devices.nvidia import Gpu, driver_version, gpus

ROOT = Path("/")
_PACKAGES = re.compile(r"nvidia-jetpack|nvidia-l4t-core|python3-libnvinfer|libnvinfer\d+")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine.

    Attributes:
        arch: architecture, e.g. "aarch64".
        os: the system's name for people, e.g. "Ubuntu 22.04.5 LTS".
        board: model by the device tree; "" on machines without one.
        cpu, isa: see `probe.Fingerprint`.
        gpus: NVIDIA GPUs.
        driver: version of NVIDIA's kernel driver.
        cuda: version of the CUDA toolkit in /usr/local/cuda.
        jetson: which Jetson it is.
        packages: versions of NVIDIA's system packages; "libnvinfer" is TensorRT.
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

    @property
    def accelerator(self) -> str:
        """What an engine for the GPU is bound to: "NVIDIA GeForce RTX 4090 (8.9)", "p3767-0005 tegra234"; "" without one."""
        if self.jetson:  # the module, on whatever carrier board
            return " ".join((*self.jetson.parts[-1:], self.jetson.soc))
        return " + ".join(f"{gpu.name} ({gpu.compute_capability or '?'})" for gpu in dict.fromkeys(self.gpus))


def look(root: Path = ROOT, arch: str | None = None) -> Machine:
    """Look at the machine whose files lie below `root`. What a file does not say is empty; nothing is raised.

    Args:
        arch: architecture; None: of this interpreter.
    """
    cpu, isa = probe.processor(root / "proc/cpuinfo")
    packages = _system_packages(root / "var/lib/dpkg/status")
    return Machine(
        arch=arch or platform.machine(),
        os=_system_name(root / "etc/os-release") or platform.system(),
        board=" ".join(device_tree(root, "model")),
        cpu=cpu,
        isa=isa,
        gpus=tuple(gpus(root)),
        driver=driver_version(root),
        cuda=_cuda(root / "usr/local/cuda/version.json"),
        jetson=jetson(root, packages.get("nvidia-l4t-core")),
        packages=packages,
    )


def _system_name(os_release: Path) -> str | None:
    try:
        lines = os_release.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            try:
                return "".join(shlex.split(value))  # values are quoted as in a shell
            except ValueError:
                return value
    return None


def _cuda(version_json: Path) -> str | None:
    try:
        version = json.loads(version_json.read_text())["cuda"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(version)


def _system_packages(dpkg_status: Path) -> dict[str, str]:
    """Installed packages of interest, as dpkg lists them: name -> version, "libnvinfer10" as "libnvinfer"."""
    try:
        text = dpkg_status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = {}
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"(Package|Status|Version): ", line))
        name = fields.get("Package", "")
        if _PACKAGES.fullmatch(name) and fields.get("Status", "").endswith(" installed"):
            found[name.rstrip("0123456789") if name.startswith("libnvinfer") else name] = fields.get("Version", "")
    return found
