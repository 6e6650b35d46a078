"""Releases of packages that are installed and too old: pip lets them be where another package, or a system,
put them there.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator, Mapping

from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.machine import Machine

_EXTRAS = ("", "video", "openvino", "web", "mqtt")
"""Packages of the device side: what trains has an environment of its own, or is not there."""
_UNDER_OTHER_NAMES = {
    "onnxruntime": (
        "onnxruntime-gpu",
        "onnxruntime-openvino",
        "onnxruntime-directml",
        "onnxruntime-qnn",
        "onnxruntime-training",
    ),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
_NEWEST = {("onnxruntime", (3, 10)): "1.23.2"}
"""The last release with wheels for an old Python. Source: pypi.org, 2026-12."""
INT8_BOUNDS = "1.24"
"""The first ONNX Runtime with Max and Min of bytes, by which INT8 programs once bounded their convolutions;
all have Clip.
"""


def too_old(machine: Machine, packages: Mapping[str, str]) -> Finding | None:
    """A package older than edgeseg asks for."""
    old = [
        (name, packages[name], wanted)
        for name, wanted in _asked_for()
        if _below(packages.get(name, ""), wanted)
    ]
    if not old:
        return None
    found = ", ".join(f"{name} {version} is older than {wanted}" for name, version, wanted in old)
    install = " ".join(f"'{name}>={wanted}'" for name, _, wanted in old)
    return Finding(
        "traps", "releases", False, f"{found}, which edgeseg asks for", f"pip install --upgrade {install}"
    )


def int8_of_earlier_bundles(machine: Machine, packages: Mapping[str, str]) -> Finding | None:
    """INT8 of bundles from before December 2026 is refused by an ONNX Runtime before 1.24; those made since
    run with all.
    """
    here = next(
        (name for name in ("onnxruntime", *_UNDER_OTHER_NAMES["onnxruntime"]) if name in packages), None
    )
    wanted = INT8_BOUNDS
    if here is None or not _below(packages[here], wanted):
        return None
    found = (
        f"INT8 in bundles from before December 2026 needs onnxruntime {wanted}, and {here} {packages[here]}"
        " is installed"
    )
    newest = _NEWEST.get(("onnxruntime", sys.version_info[:2]))
    if newest is None:
        return Finding(
            "traps", "INT8 of older bundles", False, found, f"pip install --upgrade '{here}>={wanted}'"
        )
    python = ".".join(map(str, sys.version_info[:2]))
    found += f"; {newest} is the newest for Python {python}"
    return Finding("traps", "INT8 of older bundles", False, found, "edgeseg export RECIPE --force")


def _asked_for() -> Iterator[tuple[str, str]]:
    """Packages under all their names, and the lowest release of each that edgeseg declares."""
    try:
        lines = importlib.metadata.requires("edgeseg") or []
    except importlib.metadata.PackageNotFoundError:  # it runs from a folder
        return
    for line in lines:
        name = re.match(r"[\w.-]+", line, re.ASCII)
        lowest = re.search(r">=\s*([\d.]+)", line.partition(";")[0])
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if name and lowest and (extra[1] if extra else "") in _EXTRAS:
            plain = re.sub(r"[-_.]+", "-", name[0]).lower()
            yield from ((other, lowest[1]) for other in (plain, *_UNDER_OTHER_NAMES.get(plain, ())))


def _below(version: str, wanted: str) -> bool:
    """Tell whether an installed release is before another; of what is not installed, or has no number, it is
    not.
    """
    numbers = re.match(r"\d+(?:\.\d+)*", version, re.ASCII)
    return numbers is not None and _ordered(numbers[0]) < _ordered(wanted)


def _ordered(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in version.split(".")]
    while parts and not parts[-1]:  # 15 is 15.0
        parts.pop()
    return tuple(parts)
