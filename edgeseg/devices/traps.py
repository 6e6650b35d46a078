"""Installations that look right and are not: each trap is a function of the machine and its Python packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from edgeseg.devices.finding import Finding
from edgeseg.devices.machine import Machine

Packages = Mapping[str, str]
"""Installed Python packages: normalised name ("opencv-python") -> version."""

_ONNXRUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn"),
    "onnxruntime-training",
)
_OPENCVS = ("opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless")
_TENSORRTS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_MODELOPT_NEEDS = ("requests", "huggingface-hub")


def traps(machine: Machine, packages: Packages) -> Iterator[Finding]:
    """The traps that this installation is in; one line if it is in none."""
    found = [finding for trap in TRAPS if (finding := trap(machine, packages))]
    yield from found or [Finding("traps", "known traps", True, f"none of {len(TRAPS)}")]


def two_onnxruntimes(machine: Machine, packages: Packages) -> Finding | None:
    """All of them fill one folder: files of the last one installed lie among those of the other."""
    both = [name for name in _ONNXRUNTIMES if name in packages]
    return _one_of("ONNX Runtime", both, keep=both[-1]) if len(both) > 1 else None


def two_opencvs(machine: Machine, packages: Packages) -> Finding | None:
    """As with ONNX Runtime: one folder, cv2."""
    both = [name for name in _OPENCVS if name in packages]
    return _one_of("OpenCV", both, keep=both[-1]) if len(both) > 1 else None


def opencv_of_pip_on_jetson(machine: Machine, packages: Packages) -> Finding | None:
    """It has no GStreamer, which CSI cameras and the hardware's decoders need, and hides JetPack's, which has."""
    pips = [name for name in _OPENCVS if name in packages]
    if not machine.jetson or not pips:
        return None
    found = f"{pips[0]} has no GStreamer, and hides JetPack's OpenCV, which has"
    hint = f"pip uninstall -y {' '.join(pips)} && sudo apt install python3-opencv (and a venv with --system-site-packages)"
    return Finding("traps", "OpenCV from pip on a Jetson", False, found, hint)


def modelopt_without_its_needs(machine: Machine, packages: Packages) -> Finding | None:
    """nvidia-modelopt imports packages that it does not declare (0.47)."""
    absent = [name for name in _MODELOPT_NEEDS if name not in packages]
    if "nvidia-modelopt" not in packages or not absent:
        return None
    found = f"nvidia-modelopt needs {' and '.join(absent)}, and does not say so"
    return Finding("traps", "Model Optimizer", False, found, f"pip install {' '.join(absent)}")


def torchvision_of_another_torch(machine: Machine, packages: Packages) -> Finding | None:
    """torchvision's operators are compiled against one build of torch; beside another, importing it (or timm) fails."""
    if "torch" not in packages or "torchvision" not in packages:
        return None
    torch, torchvision = (packages[name].partition("+")[2] for name in ("torch", "torchvision"))
    if torch == torchvision or "cpu" not in (torch, torchvision):
        return None
    users = "it and timm" if "timm" in packages else "it"
    found = f"torchvision {packages['torchvision']} beside torch {packages['torch']}: {users} cannot be imported"
    index = " --index-url https://download.pytorch.org/whl/cpu" if torch == "cpu" else ""
    return Finding("traps", "torchvision", False, found, f"pip install --force-reinstall --no-deps torchvision{index}")


def tensorrt_of_pip_on_jetson(machine: Machine, packages: Packages) -> Finding | None:
    """Engines of one TensorRT do not open in another, and pip's is not built for Orin's GPU. Torch-TensorRT's own is meant."""
    system = machine.packages.get("libnvinfer")
    pips = [name for name in _TENSORRTS if name in packages]
    if not machine.jetson or not system or not pips or "torch-tensorrt" in packages:
        return None
    others = [name for name in pips if _minor(packages[name]) != _minor(system)]
    if not others:
        return None
    found = f"{others[0]} {packages[others[0]]} beside JetPack's TensorRT {system.partition('-')[0]}"
    return Finding("traps", "TensorRT from pip on a Jetson", False, found, f"pip uninstall -y {' '.join(others)}")


TRAPS: tuple[Callable[[Machine, Packages], Finding | None], ...] = (
    two_onnxruntimes,
    two_opencvs,
    opencv_of_pip_on_jetson,
    modelopt_without_its_needs,
    torchvision_of_another_torch,
    tensorrt_of_pip_on_jetson,
)


def _one_of(what: str, packages: list[str], keep: str) -> Finding:
    found = f"{' and '.join(packages)} fill the same folder"
    return Finding("traps", f"two of {what}", False, found, f"pip uninstall -y {' '.join(packages)} && pip install {keep}")


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
