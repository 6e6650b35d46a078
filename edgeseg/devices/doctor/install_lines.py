"""Runtimes that this device can build engines for, by the catalogue, and the install line of each that is
missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgeseg.devices.catalog import Catalog, Device, Stack, load_catalog
from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.machine import Machine

_FLASH = "flash JetPack 6.2 or 7.2: https://developer.nvidia.com/embedded/jetpack"
_SYSTEM_PYTHON = "sudo apt install python3-venv && /usr/bin/python3 -m venv --system-site-packages .venv"
_OTHER_DEVICE = "another device: edgeseg devices"


def targets(machine: Machine, packages: Mapping[str, str], python: str) -> Iterator[Finding]:
    """Findings of the areas "device" and "runtimes".

    Args:
        packages: installed Python packages, normalised name -> version.
        python: version of this Python, "3.10".
    """
    catalog = load_catalog()
    yield _entry(catalog, machine)
    stack = catalog.stack(machine)
    if machine.jetson:
        yield _jetpack(catalog, machine, stack)
    if stack is None or stack.unsupported:
        return
    yield from _fits(catalog, machine, stack, python)
    if stack.notes:
        yield Finding("device", "notes", True, "; ".join(note.value for note in stack.notes))
    if (
        machine.jetson and machine.gpu_hidden
    ):  # apt has no JetPack in there: another image does, as the trap "container" says
        return
    for name, line in stack.install.items():
        yield _runtime(catalog, machine, packages, name, line)


def _entry(catalog: Catalog, machine: Machine) -> Finding:
    entries = catalog.recognise(machine)
    reason = next((entry.unsupported for entry in entries if entry.unsupported), None)
    if reason:
        return Finding("device", "catalogue", False, f"{entries[0].title}: {reason}", _OTHER_DEVICE)
    known = " + ".join(entry.title for entry in entries) or "this device is not in the catalogue"
    return Finding("device", "catalogue", True, "; ".join((known, *_limits(entries))))


def _limits(entries: Sequence[Device]) -> Iterator[str]:
    """Yield what people look for and a device is without."""
    for entry in entries:
        if entry.encoder and not entry.encoder.value:
            yield "no video encoder: the processor encodes mp4 and RTSP"
        if entry.soc and entry.dla:
            count = int(entry.dla.value)
            yield f"{count} DLA core{'s' if count > 1 else ''}" if count else "no DLA"


def _jetpack(catalog: Catalog, machine: Machine, stack: Stack | None) -> Finding:
    release = machine.jetson.l4t if machine.jetson else None
    if stack is None:
        found = (
            f"Jetson Linux {release} is not in the catalogue"
            if release
            else "nothing tells the Jetson Linux release"
        )
        return Finding(
            "device",
            "JetPack",
            False,
            found,
            f"pip install --upgrade edgeseg, or {_FLASH}" if release else _FLASH,
        )
    # A release that the catalogue does not name belongs to a line all the same.
    named = f"JetPack {catalog.jetpack(machine)}" if catalog.jetpack(machine) else stack.name
    if stack.unsupported:
        soc = machine.jetson.soc if machine.jetson else None
        newer = any(soc in line.socs and not line.unsupported for line in catalog.stacks)
        found = f"{named} (Jetson Linux {release}): {stack.unsupported}"
        return Finding("device", "JetPack", False, found, _FLASH if newer else _OTHER_DEVICE)
    versions = {"CUDA": stack.cuda, "TensorRT": stack.tensorrt, "torch-tensorrt": stack.torch_tensorrt}
    fits = ", ".join(
        (f"Python {' or '.join(stack.python)}", *(f"{name} {v or 'none'}" for name, v in versions.items()))
    )
    return Finding("device", "JetPack", True, f"{named} (Jetson Linux {release}): {fits}")


def _fits(catalog: Catalog, machine: Machine, stack: Stack, python: str) -> Iterator[Finding]:
    """Yield a line for each demand of a stack on Python, driver and GPU that is not met."""
    if python not in stack.python:
        hint = _SYSTEM_PYTHON if stack.socs else f"a virtual environment of Python {stack.python[-1]}"
        found = f"Python {python} runs; {stack.name} has packages for {', '.join(stack.python)}"
        yield Finding("device", "Python of the runtimes", False, found, hint)
    if stack.driver_min and machine.driver:
        enough = int(machine.driver.partition(".")[0]) >= stack.driver_min
        found = machine.driver if enough else f"{machine.driver}; CUDA {stack.cuda} needs {stack.driver_min}"
        hint = (
            ""
            if enough
            else f"install NVIDIA's driver {stack.driver_min} or newer, and start the machine again"
        )
        yield Finding("device", "NVIDIA driver", enough, found, hint)
    if stack.compute_capability_min:
        for index, gpu in enumerate(machine.gpus):
            capability = catalog.compute_capability(gpu)
            enough = capability is None or float(capability) >= float(stack.compute_capability_min)
            found = f"{gpu.name}, compute capability {capability or 'unknown'}"
            hint = (
                ""
                if enough
                else (
                    f"TensorRT {stack.tensorrt} needs {stack.compute_capability_min}: engines for the"
                    " processor"
                )
            )
            yield Finding("device", f"GPU {index}", enough, found, hint)


def _runtime(
    catalog: Catalog, machine: Machine, packages: Mapping[str, str], name: str, line: str
) -> Finding:
    runtime = catalog.runtimes[name]
    here = next(
        (f"{package} {packages[package]}" for package in runtime.distributions if package in packages), None
    )
    if here:
        return Finding("runtimes", runtime.title, True, here)
    if name == "tensorrt" and "python3-libnvinfer" in machine.packages:
        found = f"the system has {machine.packages['python3-libnvinfer']}, and this Python does not see it"
        return Finding("runtimes", runtime.title, False, found, line.replace("nvidia-jetpack ", ""))
    return Finding("runtimes", runtime.title, False, "not installed", line)
