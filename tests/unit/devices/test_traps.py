"""Every trap of the doctor on recorded machines: where it is, and where it is not."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import machines
from edgeseg.devices.doctor import checks, releases, slowdowns, traps
from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.machine import Machine, detect
from machines import Tree, write_tree

Trap = Callable[[Machine, traps.Packages], Finding | None]
JETSON, PC = machines.ORIN_NANO_JETPACK_62, machines.RTX_4090
JETSON_DEV = machines.ORIN_NANO_WITH_CUDNN


@pytest.fixture
def system_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What this Python would import on a Jetson that has all: the system's OpenCV, and a torch that computes
    on the GPU.
    """
    library = tmp_path / "torch/lib/libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    library.touch()
    found = {"cv2": Path("/usr/lib/python3/dist-packages/cv2.so"), "torch": tmp_path / "torch/__init__.py"}
    monkeypatch.setattr(traps, "module", found.get)
    monkeypatch.setattr(traps, "loads", lambda library: False)
    return found


def test_what_this_python_does_not_see_is_no_trap(
    system_modules: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain virtual environment has no cv2, PyPI's torch for ARM no CUDA; cuDNN comes from elsewhere than
    pip and dpkg, too.
    """
    board = detect(write_tree(tmp_path, JETSON_DEV), "aarch64")
    packages = {"numpy": "2.2.6", "torch": "2.8.0", "onnxruntime-gpu": "1.31.1"}
    asked = (traps.numpy_2_with_opencv_of_the_system, traps.torch_without_cusparselt)
    assert all(trap(board, packages) for trap in asked)
    del system_modules["cv2"]
    (tmp_path / "torch/lib/libtorch_cuda.so").unlink()
    assert not any(trap(board, packages) for trap in asked)
    card = detect(write_tree(tmp_path / "card", PC), "x86_64")
    assert traps.onnxruntime_without_cudnn(card, packages)
    monkeypatch.setattr(traps, "loads", lambda library: library == "libcudnn.so.9")
    assert not traps.onnxruntime_without_cudnn(card, packages)


def test_modules_and_libraries_are_looked_for_without_an_import() -> None:
    assert traps.module("edgeseg") == Path(checks.__file__).parents[2] / "__init__.py"
    assert traps.module("no_such_module") is None
    assert not traps.loads("libnothing_of_the_kind.so.9")


@pytest.mark.parametrize(
    "trap, tree, packages, hint",
    [
        (
            traps.two_onnxruntimes,
            PC,
            {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"},
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            traps.two_onnxruntimes,
            JETSON,
            {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.23.0"},
            "pip uninstall -y onnxruntime onnxruntime-gpu && "
            "pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/jp6/cu126",
        ),
        (
            traps.two_onnxruntimes,
            PC,
            {"onnxruntime-gpu": "1.31.1", "onnxruntime-ep-nv-tensorrt-rtx": "0.5.0"},
            None,
        ),
        (
            traps.two_opencvs,
            PC,
            {"opencv-python": "5.0.0.93", "opencv-python-headless": "5.0.0.93"},
            "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless",
        ),
        (traps.two_opencvs, PC, {"opencv-python": "5.0.0.93"}, None),
        (
            traps.opencv_of_pip_on_jetson,
            JETSON,
            {"opencv-python-headless": "5.0.0.93"},
            "pip uninstall -y opencv-python-headless && sudo apt install python3-opencv",
        ),
        (traps.opencv_of_pip_on_jetson, JETSON, {"numpy": "2.0"}, None),
        (traps.opencv_of_pip_on_jetson, PC, {"opencv-python-headless": "5.0.0.93"}, None),
        (
            traps.modelopt_without_its_needs,
            PC,
            {"nvidia-modelopt": "0.47.0", "requests": "2"},
            "pip install huggingface-hub",
        ),
        (
            traps.modelopt_without_its_needs,
            PC,
            {"nvidia-modelopt": "0.47.0"},
            "pip install requests huggingface-hub",
        ),
        (
            traps.modelopt_without_its_needs,
            PC,
            {"nvidia-modelopt": "0.47.0", "requests": "2", "huggingface-hub": "1"},
            None,
        ),
        (traps.modelopt_without_its_needs, PC, {}, None),
        (
            traps.torchvision_of_another_torch,
            PC,
            {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "timm": "1.0"},
            "pip install --force-reinstall --no-deps torchvision --index-url https://download.pytorch.org/whl/cpu",
        ),
        (
            traps.torchvision_of_another_torch,
            PC,
            {"torch": "2.13.0", "torchvision": "0.28.0+cpu"},
            "pip install --force-reinstall --no-deps torchvision",
        ),
        (traps.torchvision_of_another_torch, PC, {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}, None),
        (traps.torchvision_of_another_torch, PC, {"torch": "2.13.0+cu130", "torchvision": "0.28.0"}, None),
        (traps.torchvision_of_another_torch, PC, {"torch": "2.13.0+cpu"}, None),
        # For ARM there is no torchvision+cpu.
        (traps.torchvision_of_another_torch, JETSON, {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, None),
        (
            traps.tensorrt_of_pip_on_jetson,
            JETSON,
            {"tensorrt": "11.0.0.114", "tensorrt-cu13": "11.0.0.114"},
            "pip uninstall -y tensorrt tensorrt-cu13",
        ),
        (traps.tensorrt_of_pip_on_jetson, JETSON, {"tensorrt": "10.3.0"}, None),  # JetPack's own
        (traps.tensorrt_of_pip_on_jetson, JETSON, {"tensorrt": "10.16.1", "torch-tensorrt": "2.12.1"}, None),
        (traps.tensorrt_of_pip_on_jetson, PC, {"tensorrt": "11.0.0.114"}, None),
        (
            traps.another_tensorrt_for_torch,
            PC,
            {"torch-tensorrt": "2.13.0", "tensorrt-cu13": "11.1.0.5"},
            "pip install 'tensorrt-cu13==11.0.*'",
        ),
        (
            traps.another_tensorrt_for_torch,
            PC,
            {"torch-tensorrt": "2.13.0", "tensorrt-cu13": "11.0.0.114"},
            None,
        ),
        (traps.another_tensorrt_for_torch, JETSON, {"torch-tensorrt": "2.8.0", "tensorrt": "10.3.0"}, None),
        (traps.another_tensorrt_for_torch, PC, {"tensorrt": "11.1.0"}, None),
        (
            traps.cudas_of_two_majors,
            PC,
            {"torch": "2.13.0+cu130", "tensorrt-cu12": "11.0.0.114"},
            "pip uninstall -y tensorrt tensorrt-cu12 && pip install tensorrt-cu13",
        ),
        (traps.cudas_of_two_majors, PC, {"torch": "2.13.0+cu130", "tensorrt-cu13": "11.0.0.114"}, None),
        (traps.cudas_of_two_majors, PC, {"torch": "2.13.0+cpu", "tensorrt-cu12": "11.0.0.114"}, None),
        (
            traps.onnxruntime_without_cudnn,
            PC,
            {"onnxruntime-gpu": "1.31.1"},
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            traps.onnxruntime_without_cudnn,
            PC,
            {"onnxruntime-gpu": "1.31.1", "nvidia-cudnn-cu12": "8.9.7.29"},
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (
            traps.onnxruntime_without_cudnn,
            PC,
            {"onnxruntime-gpu": "1.31.1", "nvidia-cudnn-cu13": "9.20.0.46"},
            None,
        ),
        (traps.onnxruntime_without_cudnn, PC, {"onnxruntime": "1.31.1"}, None),
        (
            traps.onnxruntime_without_cudnn,
            {**PC, "usr/local/cuda/lib64/libcudnn.so.9": ""},
            {"onnxruntime-gpu": "1.31.1"},
            None,
        ),
        (traps.onnxruntime_without_cudnn, JETSON_DEV, {"onnxruntime-gpu": "1.23.0"}, None),
        (
            traps.onnxruntime_without_cudnn,
            JETSON,
            {"onnxruntime-gpu": "1.23.0"},
            "sudo apt install nvidia-jetpack",
        ),
        (
            traps.numpy_2_with_opencv_of_the_system,
            JETSON_DEV,
            {"numpy": "2.2.6"},
            "pip install 'numpy>=1.26,<2'",
        ),
        (traps.numpy_2_with_opencv_of_the_system, JETSON_DEV, {"numpy": "1.26.4"}, None),
        (
            traps.numpy_2_with_opencv_of_the_system,
            JETSON_DEV,
            {"numpy": "2.2.6", "opencv-python": "5.0.0.93"},
            None,
        ),
        (traps.numpy_2_with_opencv_of_the_system, JETSON, {"numpy": "2.2.6"}, None),
        (traps.numpy_2_with_opencv_of_the_system, machines.DEBIAN_13, {"numpy": "2.2.6"}, None),
        (
            traps.torch_without_cusparselt,
            JETSON,
            {"torch": "2.8.0"},
            "wget https://developer.download.nvidia.com/compute/cusparselt/redist/libcusparse_lt/linux-sbsa/libcusparse_lt-linux-sbsa-"
            "0.5.2.1-archive.tar.xz && tar xf libcusparse_lt-linux-sbsa-0.5.2.1-archive.tar.xz && sudo cp -a "
            "libcusparse_lt-linux-sbsa-0.5.2.1-archive/lib/* /usr/local/cuda/lib64/ && sudo ldconfig",
        ),
        (
            traps.torch_without_cusparselt,
            {
                **JETSON,
                "usr/local/cuda/lib64/libcusparseLt.so": "",
                "usr/local/cuda/lib64/libcusparseLt.so.0.5.2.1": "",
            },
            {"torch": "2.8.0"},
            None,
        ),
        (traps.torch_without_cusparselt, JETSON, {}, None),
        (traps.torch_without_cusparselt, machines.ORIN_NX_JETPACK_72, {"torch": "2.12.0"}, None),
        (traps.no_nvml, PC, {}, "pip install nvidia-ml-py"),
        (traps.no_nvml, PC, {"nvidia-ml-py": "13.590.44"}, None),
        (traps.no_nvml, JETSON, {}, None),
        (traps.no_nvml, machines.RTX_4090_CONTAINER, {}, None),
        (traps.no_nvml, machines.SERVER, {}, None),
    ],
)
@pytest.mark.usefixtures("system_modules")
def test_each_trap(
    trap: Trap, tree: Tree, packages: dict[str, str], hint: str | None, tmp_path: Path
) -> None:
    found = trap(detect(write_tree(tmp_path, tree), "x86_64" if tree is PC else "aarch64"), packages)
    assert (found and found.hint) == hint
    assert found is None or (found.area == "traps" and not found.ok)


LINES = [
    "onnxruntime>=1.20",
    "pydantic>=2.9",
    'av>=15.0; extra == "video"',
    'torch<2.14,>=2.11; extra == "train"',
]
LINES += ['opencv-python-headless>=4.11; extra == "video"', 'openvino>=2026.0; extra == "openvino"', "click"]


@pytest.mark.parametrize(
    "packages, old",
    [
        ({}, []),
        ({"onnxruntime": "1.20.0", "av": "15.0", "openvino": "2026.0.0", "pydantic": "2.10.0"}, []),
        ({"onnxruntime": "1.19.2"}, ["onnxruntime>=1.20"]),
        ({"onnxruntime-gpu": "1.19.0"}, ["onnxruntime-gpu>=1.20"]),
        ({"opencv-python": "4.10.0.84", "av": "14.4.0"}, ["av>=15.0", "opencv-python>=4.11"]),
        ({"openvino": "2025.4.1", "pydantic": "2.8.2"}, ["pydantic>=2.9", "openvino>=2026.0"]),
        ({"torch": "2.8.0"}, []),  # a Jetson's, for Torch-TensorRT; it does not train
        ({"onnxruntime": "unknown", "av": "15", "pydantic": "3.0.0a1"}, []),
    ],
)
def test_what_is_older_than_what_is_asked_for(
    packages: dict[str, str], old: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: LINES)
    found = releases.too_old(detect(tmp_path, "x86_64"), packages)
    assert (found.hint if found else "") == (
        f"pip install --upgrade {' '.join(repr(one) for one in old)}" if old else ""
    )


def test_a_folder_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", not_installed)
    assert releases.too_old(detect(tmp_path, "x86_64"), {"onnxruntime": "1.0"}) is None


@pytest.mark.parametrize(
    "python, packages, hint",
    [
        ((3, 12), {"onnxruntime": "1.24.1"}, None),
        ((3, 12), {"onnxruntime": "1.20.0"}, "pip install --upgrade 'onnxruntime>=1.24'"),
        ((3, 10), {"onnxruntime": "1.23.2"}, "edgeseg export RECIPE --force"),
        ((3, 10), {"onnxruntime-gpu": "1.22.0"}, "edgeseg export RECIPE --force"),
        ((3, 10), {}, None),
    ],
)
def test_int8_of_earlier_bundles(
    python: tuple[int, int],
    packages: dict[str, str],
    hint: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 1))
    found = releases.int8_of_earlier_bundles(detect(tmp_path, "x86_64"), packages)
    assert (found and found.hint) == hint
    assert found is None or ("1.23.2 is the newest for Python 3.10" in found.found) == (python == (3, 10))


@pytest.mark.usefixtures("system_modules")
def test_every_trap_is_looked_for(tmp_path: Path) -> None:
    count = len(traps.TRAPS) + len(slowdowns.SLOW)
    machine = detect(write_tree(tmp_path / "jetson", JETSON), "aarch64")
    assert [finding.found for finding in traps.traps(machine, {})] == [f"none of {count}"]
    everything = {
        "onnxruntime": "1",
        "onnxruntime-gpu": "1",
        "opencv-python": "5",
        "opencv-python-headless": "5",
        "tensorrt": "11.0",
        "tensorrt-cu12": "11.1",
        "torch-tensorrt": "2.13.0",
        "nvidia-modelopt": "0.47",
        "torch": "2.13.0+cu130",
        "torchvision": "0.28.0+cpu",
    }
    card = detect(
        write_tree(tmp_path / "pc", {**machines.RTX_4090_CONTAINER, **machines.LAPTOP_ON_BATTERY}), "x86_64"
    )
    board = detect(
        write_tree(tmp_path / "board", {**machines.ORIN_NANO_25W, **machines.memory(7802840)}), "aarch64"
    )
    found = [[finding.name for finding in traps.traps(one, everything)] for one in (card, board)]
    assert all(len(set(names)) == len(names) for names in found)
    without_torch = {name: version for name, version in everything.items() if name != "torch-tensorrt"}
    seen = {name for names in found for name in names} | {
        finding.name for finding in traps.traps(board, without_torch)
    }
    seen |= {finding.name for finding in traps.traps(detect(write_tree(tmp_path / "card", PC), "x86_64"), {})}
    # Two more ask for what these two machines cannot have at once: no OpenCV of pip's, and a card with a
    # limit.
    assert len(seen) == count - 2
