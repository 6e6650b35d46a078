"""Checks of what a machine can do with edgeseg: each finding is a fact, and where something is missing, what
to type.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeseg.devices.clocks import told
from edgeseg.devices.control_groups import cpu_quota
from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.doctor.install_lines import targets
from edgeseg.devices.doctor.traps import module, traps
from edgeseg.devices.instructions import PROC_CPUINFO
from edgeseg.devices.machine import Machine, detect, told_memory
from edgeseg.devices.probe import fingerprint, told_isa
from edgeseg.errors import MissingDependency, Unsupported
from edgeseg.images import opencv

_DISTRIBUTION = "edgeseg"
# The extras that something here uses.
_EXTRAS = ("video", "train", "quant", "demo", "openvino", "web", "mqtt")
# Packages whose import name is not their distribution's; the others differ in dashes and case only.
_IMPORT_NAMES = {
    "nvidia-modelopt": "modelopt",
    "opencv-python-headless": "cv2",
    "paho-mqtt": "paho",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-video": "skvideo",
}


def check(machine: Machine | None = None) -> list[Finding]:
    """Check a machine and this interpreter's packages; a second or so. Raises nothing: what fails is a
    finding.

    Args:
        machine: None: this one.
    """
    machine, packages = machine or detect(), installed()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [
        *(
            *_python(),
            *_processor(machine),
            *_settings(machine),
            *_packages(),
            *targets(machine, packages, python),
        ),
        *(*_video(), *_storage(), *traps(machine, packages)),
    ]


def installed() -> dict[str, str]:
    """Python packages that this interpreter sees: normalised name -> version; the first on its path
    counts.
    """
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    new_enough = sys.version_info >= (3, 10)
    yield Finding(
        "python",
        "python",
        new_enough,
        found,
        "" if new_enough else "install Python 3.10 or newer",
        required=True,
    )


def _processor(machine: Machine) -> Iterator[Finding]:
    try:
        here = fingerprint("onnxruntime", _version("onnxruntime", "onnxruntime"), machine)
    except Unsupported as error:
        yield Finding("machine", "processor", False, str(error), error.hint, required=True)
    else:
        yield Finding("machine", "processor", True, f"{here.cpu} ({here.machine}, {here.os})")
    yield _instruction_sets(machine)
    yield Finding("machine", "INT8", True, machine.integers.outlook)
    quota = cpu_quota()
    granted = "" if quota is None else f", by a quota of {quota:g}"
    yield Finding("machine", "usable cores", True, f"{machine.cores}{granted}")
    try:
        import onnxruntime
    except ImportError as error:  # absent, or its binary does not fit this system
        yield Finding(
            "machine",
            "ONNX Runtime",
            False,
            str(error),
            "pip install --force-reinstall onnxruntime",
            required=True,
        )
    else:
        # Azure's sends frames to a server; edgeseg has no use for it, and every package names it.
        names = (name for name in onnxruntime.get_available_providers() if name != "AzureExecutionProvider")
        providers = (name.removesuffix("ExecutionProvider") for name in names)
        yield Finding(
            "machine", "ONNX Runtime", True, f"{onnxruntime.__version__}, runs on {', '.join(providers)}"
        )


def _instruction_sets(machine: Machine) -> Finding:
    """Report the instruction sets. Unknown ones are not used, and engines that were built so are not opened
    where it is known.
    """
    told = told_isa(machine.isa, machine.isa_unknown)
    told, hint = told + (f"; {machine.isa_remark}" if machine.isa_remark else ""), ""
    if (
        any(flag.startswith("avx") for flag in machine.isa_unknown)
        and importlib.util.find_spec("archspec") is None
    ):
        hint = "pip install archspec"
    elif machine.isa_unknown and machine.system == "Linux":
        hint = f"make {PROC_CPUINFO} of this processor readable"
    return Finding("machine", "instruction sets", not hint, told, hint)


def _settings(machine: Machine) -> Iterator[Finding]:
    """Memory, and how fast the machine is set to run: times hold for that alone."""
    if machine.memory_gb is not None:
        yield Finding("machine", "memory", True, told_memory(machine))
    if machine.clocks:
        yield Finding(
            "machine",
            "power and clocks",
            True,
            ", ".join(f"{told(name)} {value}" for name, value in machine.clocks.items()),
        )


def _packages() -> Iterator[Finding]:
    try:
        groups = _requirements()
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            _DISTRIBUTION,
            False,
            "runs from a folder, not installed",
            f"pip install {_DISTRIBUTION}",
        )
        return
    for extra, distributions in groups.items():
        modules = {
            name: _IMPORT_NAMES.get(name.lower(), name.lower().replace("-", "_")) for name in distributions
        }
        absent = [name for name, module in modules.items() if importlib.util.find_spec(module) is None]
        versions = (f"{name} {_version(name, module)}" for name, module in modules.items())
        yield Finding(
            "packages",
            f"extra {extra}" if extra else "core",
            not absent,
            f"not installed: {', '.join(absent)}" if absent else ", ".join(versions),
            (f"pip install '{_DISTRIBUTION}[{extra}]'" if extra else f"pip install {' '.join(absent)}")
            if absent
            else "",
            required=not extra,
        )


def _requirements() -> dict[str, list[str]]:
    """Extra -> distributions, as edgeseg declares them; "" is the core. Raises PackageNotFoundError."""
    groups: dict[str, list[str]] = {}
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        distribution = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if distribution and distribution[0] != _DISTRIBUTION and (not extra or extra[1] in _EXTRAS):
            groups.setdefault(extra[1] if extra else "", []).append(distribution[0])
    return groups


def _version(distribution: str, module: str) -> str:
    """Version of an installed package, also where another distribution (a vendor's OpenCV, a GPU runtime)
    brings the module.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        owners = importlib.metadata.packages_distributions().get(module)
        return (
            f"{importlib.metadata.version(owners[0])} (from {owners[0]})" if owners else "of unknown version"
        )


def _video() -> Iterator[Finding]:
    try:
        cv2 = opencv()
    except MissingDependency as error:
        yield Finding("video", "OpenCV", False, "not installed", error.hint)
        return
    except (
        ImportError,
        AttributeError,
    ) as error:  # a library that it needs is not there, or another numpy than it is made for
        of_the_system = "dist-packages" in str(module("cv2"))
        hint = (
            "pip install 'numpy>=1.26,<2'"
            if of_the_system
            else "pip install --force-reinstall opencv-python-headless"
        )
        yield Finding("video", "OpenCV", False, f"cannot be imported: {error}", hint)
        return
    build = cv2.getBuildInformation()
    for feature, hint in (
        ("FFMPEG", "pip install opencv-python-headless"),
        ("GStreamer", "for camera pipelines use the system's OpenCV: apt install python3-opencv"),
    ):
        match = re.search(rf"^\s*{feature}:\s*(\S+)(.*)$", build, re.MULTILINE)
        there = match is not None and match[1] == "YES"
        yield Finding(
            "video",
            feature,
            there,
            "in this OpenCV" if there else "not in this OpenCV",
            "" if there else hint,
        )
    works = _writes_mp4()
    yield Finding(
        "video",
        "mp4",
        works,
        "H.264, written and read back" if works else "no mp4 with H.264 can be written by PyAV and read back",
        "" if works else "pip install --force-reinstall av",
    )


def _writes_mp4() -> bool:
    """Write three frames and count them on the way back: a codec's name in the build is no proof that it
    works.
    """
    try:
        av = importlib.import_module("av")
    except ImportError:
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "probe.mp4")
        try:
            with av.open(path, "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width = stream.height = 64
                for _ in range(3):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
                container.mux(stream.encode(None))
            with av.open(path) as container:
                return sum(1 for _ in container.decode(video=0)) == 3
        except (OSError, ValueError, av.FFmpegError):
            return False


def _storage() -> Iterator[Finding]:
    for name, folder in (("working folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            yield Finding(
                "storage",
                name,
                False,
                f"{folder}: {error.strerror}",
                "change to a folder that can be written",
            )
        else:
            yield Finding(
                "storage", name, True, f"{folder}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free"
            )
