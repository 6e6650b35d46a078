"""Installations that look right and are not: each trap is a function of the machine and its Python
packages.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.doctor.releases import int8_of_earlier_bundles, too_old
from edgeseg.devices.doctor.slowdowns import SLOW
from edgeseg.devices.machine import Machine

Packages = Mapping[str, str]
"""Installed Python packages: normalised name ("opencv-python") -> version."""

_ONNXRUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn"),
    "onnxruntime-training",
)
_OPENCVS = (
    "opencv-python",
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-contrib-python-headless",
)
_TENSORRTS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_MODELOPT_NEEDS = ("requests", "huggingface-hub")
_TENSORRT_OF_TORCH_TENSORRT = {"2.12": "10.16", "2.13": "11.0", "2.14": "11.1"}
"""Torch-TensorRT -> the TensorRT that its packages on PyPI ask for. Source: their metadata."""

_CUDNN = "libcudnn.so.9"
_NUMPY_2_OPENCV = (4, 10)
"""The first OpenCV that can be compiled against numpy 2, as Debian 13's is. Source: OpenCV's change log of
4.10.
"""
_CUSPARSELT = "https://developer.download.nvidia.com/compute/cusparselt/redist/libcusparse_lt/linux-sbsa"


def traps(machine: Machine, packages: Packages) -> Iterator[Finding]:
    """The traps that this machine is in, by its packages and by its settings; one line if it is in none."""
    found = [finding for trap in TRAPS if (finding := trap(machine, packages))]
    found += [finding for trap in SLOW if (finding := trap(machine))]
    yield from found or [Finding("traps", "known traps", True, f"none of {len(TRAPS) + len(SLOW)}")]


def two_onnxruntimes(machine: Machine, packages: Packages) -> Finding | None:
    """All of them fill one folder: files of the last one installed lie among those of the other."""
    both = [name for name in _ONNXRUNTIMES if name in packages]
    if len(both) < 2:
        return None
    stack = load_catalog().stack(machine)
    gpu = (
        stack.install.get("onnxruntime_gpu", "") if stack and "onnxruntime-gpu" in both else ""
    )  # a Jetson's is not on PyPI
    return _one_of("ONNX Runtime", both, keep=gpu.partition("pip install ")[2] or both[-1])


def two_opencvs(machine: Machine, packages: Packages) -> Finding | None:
    """As with ONNX Runtime: one folder, cv2."""
    both = [name for name in _OPENCVS if name in packages]
    return _one_of("OpenCV", both, keep=both[-1]) if len(both) > 1 else None


def opencv_of_pip_on_jetson(machine: Machine, packages: Packages) -> Finding | None:
    """It has no GStreamer, which CSI cameras and the hardware's decoders need, and hides JetPack's, which
    has.
    """
    pips = [name for name in _OPENCVS if name in packages]
    if not machine.jetson or not pips:
        return None
    found = (
        f"{pips[0]} has no GStreamer, and hides JetPack's OpenCV, which has; a venv sees that with"
        " --system-site-packages"
    )
    hint = f"pip uninstall -y {' '.join(pips)} && sudo apt install python3-opencv"
    return Finding("traps", "OpenCV from pip on a Jetson", False, found, hint)


def modelopt_without_its_needs(machine: Machine, packages: Packages) -> Finding | None:
    """nvidia-modelopt imports packages that it does not declare (0.47)."""
    absent = [name for name in _MODELOPT_NEEDS if name not in packages]
    if "nvidia-modelopt" not in packages or not absent:
        return None
    found = f"nvidia-modelopt needs {' and '.join(absent)}, and does not say so"
    return Finding("traps", "Model Optimizer", False, found, f"pip install {' '.join(absent)}")


def torchvision_of_another_torch(machine: Machine, packages: Packages) -> Finding | None:
    """torchvision's operators are compiled against one build of torch; beside another, importing it (or timm)
    fails.
    """
    if "torch" not in packages or "torchvision" not in packages:
        return None
    torch, torchvision = (packages[name].partition("+")[2] for name in ("torch", "torchvision"))
    if torch == torchvision or "cpu" not in (torch, torchvision):
        return None
    if (
        "" in (torch, torchvision) and machine.arch != "x86_64"
    ):  # what names no CUDA has it there alone (pytorch/vision#9197)
        return None
    users = "it and timm" if "timm" in packages else "it"
    found = (
        f"torchvision {packages['torchvision']} beside torch {packages['torch']}: {users} cannot be imported"
    )
    index = " --index-url https://download.pytorch.org/whl/cpu" if torch == "cpu" else ""
    return Finding(
        "traps", "torchvision", False, found, f"pip install --force-reinstall --no-deps torchvision{index}"
    )


def tensorrt_of_pip_on_jetson(machine: Machine, packages: Packages) -> Finding | None:
    """Engines of one TensorRT do not open in another, and pip's is not built for Orin's GPU. Torch-TensorRT's
    own is meant.
    """
    system = machine.packages.get("libnvinfer")
    pips = [name for name in _TENSORRTS if name in packages]
    if not machine.jetson or not system or not pips or "torch-tensorrt" in packages:
        return None
    others = [name for name in pips if _minor(packages[name]) != _minor(system)]
    if not others:
        return None
    found = f"{others[0]} {packages[others[0]]} beside JetPack's TensorRT {system.partition('-')[0]}"
    return Finding(
        "traps", "TensorRT from pip on a Jetson", False, found, f"pip uninstall -y {' '.join(others)}"
    )


def another_tensorrt_for_torch(machine: Machine, packages: Packages) -> Finding | None:
    """Torch-TensorRT is compiled against one TensorRT; beside another its library does not load. JetPack's
    takes JetPack's.
    """
    wanted = _TENSORRT_OF_TORCH_TENSORRT.get(".".join(_minor(packages.get("torch-tensorrt", ""))))
    there = next((name for name in ("tensorrt-cu13", "tensorrt-cu12", "tensorrt") if name in packages), None)
    if wanted is None or there is None or ".".join(_minor(packages[there])) == wanted:
        return None
    found = (
        f"torch-tensorrt {packages['torch-tensorrt']} wants TensorRT {wanted}, and {there} {packages[there]}"
        " is installed"
    )
    return Finding("traps", "TensorRT of Torch-TensorRT", False, found, f"pip install '{there}=={wanted}.*'")


def cudas_of_two_majors(machine: Machine, packages: Packages) -> Finding | None:
    """TensorRT for CUDA 12 beside torch for CUDA 13, or the other way round: each brings gigabytes of CUDA
    libraries of its own, and which of them a process gets depends on what is imported first."""
    torch = packages.get("torch", "").partition("+cu")[2][:2]
    others = [
        name
        for name in ("tensorrt-cu12", "tensorrt-cu13")
        if name in packages and torch and not name.endswith(torch)
    ]
    if machine.jetson or not others:
        return None
    found = f"{others[0]} {packages[others[0]]} beside torch {packages['torch']}"
    hint = f"pip uninstall -y tensorrt {others[0]} && pip install tensorrt-cu{torch}"
    return Finding("traps", "CUDA of two releases", False, found, hint)


def onnxruntime_without_cudnn(machine: Machine, packages: Packages) -> Finding | None:
    """onnxruntime-gpu loads cuDNN 9 when a session is opened; without it, it says so in its log and runs on
    the processor.
    """
    pips = [packages[name] for name in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12") if name in packages]
    versions = [*pips, *([machine.packages["libcudnn"]] if "libcudnn" in machine.packages else [])]
    if (
        "onnxruntime-gpu" not in packages
        or any(version.partition(".")[0] == "9" for version in versions)
        or loads(_CUDNN)
    ):
        return None
    here = f"cuDNN {versions[0]} is here" if versions else "none is here"
    found = f"onnxruntime-gpu {packages['onnxruntime-gpu']} needs cuDNN 9, and {here}"
    hint = (
        "sudo apt install nvidia-jetpack" if machine.jetson else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    return Finding("traps", "cuDNN of ONNX Runtime", False, found, hint)


def numpy_2_with_opencv_of_the_system(machine: Machine, packages: Packages) -> Finding | None:
    """Ubuntu's and JetPack's OpenCV are compiled against numpy 1; with numpy 2 in the virtual environment,
    `import cv2` fails.
    """
    version = machine.packages.get("opencv", "")
    old = tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _NUMPY_2_OPENCV
    if (
        not version
        or not old
        or not packages.get("numpy", "").startswith("2.")
        or any(name in packages for name in _OPENCVS)
    ):
        return None
    if "dist-packages" not in str(module("cv2")):  # a plain virtual environment does not see it
        return None
    found = (
        f"numpy {packages['numpy']} beside the system's OpenCV {machine.packages['opencv']}: cv2 cannot be"
        " imported"
    )
    return Finding("traps", "numpy 2 with the system's OpenCV", False, found, "pip install 'numpy>=1.26,<2'")


def torch_without_cusparselt(machine: Machine, packages: Packages) -> Finding | None:
    """torch for JetPack 6 is linked against cuSPARSELt, which JetPack does not bring: `import torch` fails.

    Source: docs.pytorch.org/TensorRT/getting_started/jetpack.html, "System Preparation".
    """
    on_jetpack_6 = machine.jetson is not None and (machine.jetson.l4t or "").startswith("36.")
    if (
        not on_jetpack_6
        or "torch" not in packages
        or "libcusparselt" in machine.packages
        or "nvidia-cusparselt-cu12" in packages
    ):
        return None
    init = module("torch")
    if (
        init is None or not (init.parent / "lib/libtorch_cuda.so").exists()
    ):  # PyPI's for ARM computes on the processor
        return None
    found = f"torch {packages['torch']} needs libcusparseLt.so, which lies nowhere in /usr/local/cuda/lib64"
    archive = "libcusparse_lt-linux-sbsa-0.5.2.1-archive"
    hint = (
        f"wget {_CUSPARSELT}/{archive}.tar.xz && tar xf {archive}.tar.xz && sudo cp -a {archive}/lib/*"
        " /usr/local/cuda/lib64/ && sudo ldconfig"
    )
    return Finding("traps", "torch without cuSPARSELt", False, found, hint)


def no_nvml(machine: Machine, packages: Packages) -> Finding | None:
    """Without NVML's package, what a graphics card draws is not measured."""
    if machine.jetson or not machine.gpus or machine.gpu_hidden or "nvidia-ml-py" in packages:
        return None
    found = "nvidia-ml-py is not installed: no watts in reports and on the live page"
    return Finding("traps", "power of the GPU", False, found, "pip install nvidia-ml-py")


TRAPS: tuple[Callable[[Machine, Packages], Finding | None], ...] = (
    too_old,
    int8_of_earlier_bundles,
    two_onnxruntimes,
    two_opencvs,
    opencv_of_pip_on_jetson,
    modelopt_without_its_needs,
    torchvision_of_another_torch,
    tensorrt_of_pip_on_jetson,
    another_tensorrt_for_torch,
    cudas_of_two_majors,
    onnxruntime_without_cudnn,
    numpy_2_with_opencv_of_the_system,
    torch_without_cusparselt,
    no_nvml,
)


def module(name: str) -> Path | None:
    """The file that an import of a module would read; None where there is none. Nothing is imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.origin else None


def loads(library: str) -> bool:
    """Tell whether a shared library is where this process looks for such: not only packages of pip and dpkg
    bring them.
    """
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _one_of(what: str, packages: list[str], keep: str) -> Finding:
    found = f"{' and '.join(packages)} fill the same folder"
    return Finding(
        "traps",
        f"two of {what}",
        False,
        found,
        f"pip uninstall -y {' '.join(packages)} && pip install {keep}",
    )


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
