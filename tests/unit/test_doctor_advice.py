"""The doctor's advice on recorded machines: which line fits, what to type for each runtime, and every trap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import machines
from edgeseg.devices import checkup, slow, traps
from edgeseg.devices.finding import Finding
from edgeseg.devices.machine import Machine, look
from edgeseg.devices.targets import targets
from machines import Tree, write_tree

Advise = Callable[[Tree, dict[str, str], str], dict[str, Finding]]
Trap = Callable[[Machine, traps.Packages], Finding | None]


@pytest.fixture
def advise(tmp_path: Path) -> Advise:
    def of(tree: Tree, packages: dict[str, str], python: str) -> dict[str, Finding]:
        arch = "x86_64" if "GenuineIntel" in tree["proc/cpuinfo"] else "aarch64"
        found = list(targets(look(write_tree(tmp_path, tree), arch), packages, python))
        assert all(finding.ok != bool(finding.hint) for finding in found)
        named = {finding.name: finding for finding in found}
        assert len(named) == len(found)
        return named

    return of


def test_orin_on_jetpack_62(advise: Advise) -> None:
    found = advise(machines.ORIN_NANO_JETPACK_62, {}, "3.10")
    fits = "Python 3.10, CUDA 12.6, TensorRT 10.3, torch-tensorrt 2.8.0"
    assert found["JetPack"].found == f"JetPack 6.2 (Jetson Linux 36.4.3): {fits}"
    assert found["catalogue"].found.startswith("Jetson Orin Nano 8GB")
    # JetPack's TensorRT is there, and a plain virtual environment does not see it.
    assert "10.3.0.30" in found["TensorRT"].found
    venv = "/usr/bin/python3 -m venv --system-site-packages .venv"
    assert found["TensorRT"].hint == f"{venv} && .venv/bin/pip install edgeseg 'numpy<2'"
    assert "no video encoder" in found["catalogue"].found and "no DLA" in found["catalogue"].found
    assert "cuSPARSELt" in found["notes"].found
    index = "--index-url https://pypi.jetson-ai-lab.io/jp6/cu126"
    assert found["Torch-TensorRT"].hint == f"pip install torch==2.8.0 torch-tensorrt==2.8.0 {index}"
    assert "Python of the runtimes" not in found


def test_what_is_installed_is_named(advise: Advise) -> None:
    found = advise(machines.ORIN_NANO_JETPACK_62, {"tensorrt": "10.3.0", "torch-tensorrt": "2.8.0"}, "3.10")
    assert (found["TensorRT"].ok, found["TensorRT"].found) == (True, "tensorrt 10.3.0")
    assert found["Torch-TensorRT"].ok


def test_a_python_that_jetpack_does_not_serve(advise: Advise) -> None:
    found = advise(machines.ORIN_NANO_JETPACK_62, {}, "3.12")["Python of the runtimes"]
    assert "3.12 runs" in found.found
    assert "3.10" in found.found


def test_orin_on_jetpack_72_has_no_torch_tensorrt(advise: Advise) -> None:
    found = advise(machines.ORIN_NX_JETPACK_72, {}, "3.12")
    assert "torch-tensorrt none" in found["JetPack"].found
    assert "Torch-TensorRT" not in found
    assert found["TensorRT"].hint.startswith("sudo apt install nvidia-jetpack")
    assert any("no torch-tensorrt wheel" in finding.found for finding in found.values())


def test_thor(advise: Advise) -> None:
    found = advise(machines.THOR_JETPACK_70, {}, "3.12")
    assert "TensorRT 10.13.3, torch-tensorrt 2.12.1" in found["JetPack"].found
    assert "torch-tensorrt==2.12.1" in found["Torch-TensorRT"].hint


@pytest.mark.parametrize(
    "tree", [machines.XAVIER_NX_JETPACK_51, machines.NANO_JETPACK_46, machines.AGX_ORIN_JETPACK_51, machines.NEWER_JETPACK]
)
def test_lines_without_engines_get_no_install_lines(tree: Tree, advise: Advise) -> None:
    found = advise(tree, {}, "3.10")
    assert not found["JetPack"].ok
    # An Orin can be flashed; for a Xavier there is nothing to flash; a JetPack that is newer than the catalogue may be fine.
    wanted = {
        id(machines.AGX_ORIN_JETPACK_51): "flash JetPack",
        id(machines.NEWER_JETPACK): "pip install --upgrade edgeseg, or flash",
    }
    assert found["JetPack"].hint.startswith(wanted.get(id(tree), "another device"))
    assert set(found) == {"catalogue", "JetPack"}
    assert found["catalogue"].ok == (tree not in (machines.XAVIER_NX_JETPACK_51, machines.NANO_JETPACK_46))


def test_desktop(advise: Advise) -> None:
    found = advise(machines.RTX_4090, {"tensorrt-rtx-cu13": "1.7.1.116"}, "3.12")
    assert found["NVIDIA driver"].ok
    assert found["GPU 0"].found == "NVIDIA GeForce RTX 4090, compute capability 8.9"
    assert found["TensorRT for RTX"].found == "tensorrt-rtx-cu13 1.7.1.116"
    assert found["Torch-TensorRT"].hint == "pip install torch==2.13.0 torch-tensorrt==2.13.0"
    assert found["ONNX Runtime for GPUs"].hint == "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"


def test_an_old_driver_and_an_old_card(advise: Advise) -> None:
    old = {
        **machines.RTX_2080_TI_OLD_DRIVER,
        "proc/driver/nvidia/gpus/0000:02:00.0/information": "Model: \t\t Some unknown card\n",
    }
    found = advise(old, {}, "3.12")
    assert found["NVIDIA driver"].found == "535.216.03; CUDA 13.2 needs 580"
    assert found["GPU 0"].ok  # Turing is the oldest that TensorRT takes
    assert "unknown" in found["GPU 1"].found


def test_a_card_below_tensorrts_floor(tmp_path: Path) -> None:
    volta = look(write_tree(tmp_path, machines.RTX_4090), "x86_64")
    gpu = type(volta.gpus[0])("Tesla V100", "7.0")
    found = [f for f in targets(_with(volta, gpus=(gpu,)), {}, "3.12") if f.name == "GPU 0"]
    assert [(f.ok, "needs 7.5" in f.hint) for f in found] == [(False, True)]


def test_a_machine_without_a_gpu(advise: Advise) -> None:
    found = advise(machines.SERVER, {}, "3.12")
    assert found["TensorRT for RTX"].hint == "pip install 'edgeseg[rtx]'"
    assert "TensorRT" not in found


def _with(machine: Machine, **changes: object) -> Machine:
    fields = {name: getattr(machine, name) for name in Machine.__slots__}
    return Machine(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def system_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What this Python would import on a Jetson that has all: the system's OpenCV, and a torch that computes on the GPU."""
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
    """A plain virtual environment has no cv2, PyPI's torch for ARM no CUDA; cuDNN comes from elsewhere than pip and dpkg, too."""
    board = look(write_tree(tmp_path, JETSON_DEV), "aarch64")
    packages = {"numpy": "2.2.6", "torch": "2.8.0", "onnxruntime-gpu": "1.31.1"}
    asked = (traps.numpy_2_with_opencv_of_the_system, traps.torch_without_cusparselt)
    assert all(trap(board, packages) for trap in asked)
    del system_modules["cv2"]
    (tmp_path / "torch/lib/libtorch_cuda.so").unlink()
    assert not any(trap(board, packages) for trap in asked)
    card = look(write_tree(tmp_path / "card", PC), "x86_64")
    assert traps.onnxruntime_without_cudnn(card, packages)
    monkeypatch.setattr(traps, "loads", lambda library: library == "libcudnn.so.9")
    assert not traps.onnxruntime_without_cudnn(card, packages)


def test_modules_and_libraries_are_looked_for_without_an_import() -> None:
    assert traps.module("edgeseg") == Path(checkup.__file__).parents[1] / "__init__.py"
    assert traps.module("no_such_module") is None
    assert not traps.loads("libnothing_of_the_kind.so.9")


JETSON, PC = machines.ORIN_NANO_JETPACK_62, machines.RTX_4090
JETSON_DEV = machines.ORIN_NANO_WITH_CUDNN


@pytest.mark.parametrize(
    "trap, tree, packages, hint",
    [
        (
            traps.two_onnxruntimes,
            PC,
            {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"},
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        ),
        (traps.two_onnxruntimes, PC, {"onnxruntime-gpu": "1.31.1", "onnxruntime-ep-nv-tensorrt-rtx": "0.5.0"}, None),
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
        (traps.modelopt_without_its_needs, PC, {"nvidia-modelopt": "0.47.0", "requests": "2"}, "pip install huggingface-hub"),
        (traps.modelopt_without_its_needs, PC, {"nvidia-modelopt": "0.47.0"}, "pip install requests huggingface-hub"),
        (traps.modelopt_without_its_needs, PC, {"nvidia-modelopt": "0.47.0", "requests": "2", "huggingface-hub": "1"}, None),
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
        (traps.another_tensorrt_for_torch, PC, {"torch-tensorrt": "2.13.0", "tensorrt-cu13": "11.0.0.114"}, None),
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
        (traps.onnxruntime_without_cudnn, PC, {"onnxruntime-gpu": "1.31.1", "nvidia-cudnn-cu13": "9.20.0.46"}, None),
        (traps.onnxruntime_without_cudnn, PC, {"onnxruntime": "1.31.1"}, None),
        (
            traps.onnxruntime_without_cudnn,
            {**PC, "usr/local/cuda/lib64/libcudnn.so.9": ""},
            {"onnxruntime-gpu": "1.31.1"},
            None,
        ),
        (traps.onnxruntime_without_cudnn, JETSON_DEV, {"onnxruntime-gpu": "1.23.0"}, None),
        (traps.onnxruntime_without_cudnn, JETSON, {"onnxruntime-gpu": "1.23.0"}, "sudo apt install nvidia-jetpack"),
        (traps.numpy_2_with_opencv_of_the_system, JETSON_DEV, {"numpy": "2.2.6"}, "pip install 'numpy>=1.26,<2'"),
        (traps.numpy_2_with_opencv_of_the_system, JETSON_DEV, {"numpy": "1.26.4"}, None),
        (traps.numpy_2_with_opencv_of_the_system, JETSON_DEV, {"numpy": "2.2.6", "opencv-python": "5.0.0.93"}, None),
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
            {**JETSON, "usr/local/cuda/lib64/libcusparseLt.so": "", "usr/local/cuda/lib64/libcusparseLt.so.0.5.2.1": ""},
            {"torch": "2.8.0"},
            None,
        ),
        (traps.torch_without_cusparselt, JETSON, {}, None),
        (traps.torch_without_cusparselt, machines.ORIN_NX_JETPACK_72, {"torch": "2.12.0"}, None),
        (traps.no_nvml, PC, {}, "pip install nvidia-ml-py"),
        (traps.no_nvml, PC, {"nvidia-ml-py": "13.590.44"}, None),
        (traps.no_nvml, JETSON, {}, None),
        (traps.no_nvml, machines.SERVER, {}, None),
    ],
)
@pytest.mark.usefixtures("system_modules")
def test_each_trap(trap: Trap, tree: Tree, packages: dict[str, str], hint: str | None, tmp_path: Path) -> None:
    found = trap(look(write_tree(tmp_path, tree), "x86_64" if tree is PC else "aarch64"), packages)
    assert (found and found.hint) == hint
    assert found is None or (found.area == "traps" and not found.ok)


@pytest.mark.usefixtures("system_modules")
def test_every_trap_is_looked_for(tmp_path: Path) -> None:
    count = len(traps.TRAPS) + len(slow.SLOW)
    machine = look(write_tree(tmp_path / "jetson", JETSON), "aarch64")
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
    card = look(write_tree(tmp_path / "pc", {**machines.RTX_4090_CONTAINER, **machines.LAPTOP_ON_BATTERY}), "x86_64")
    board = look(write_tree(tmp_path / "board", {**machines.ORIN_NANO_25W, **machines.memory(7802840)}), "aarch64")
    found = [[finding.name for finding in traps.traps(one, everything)] for one in (card, board)]
    assert all(len(set(names)) == len(names) for names in found)
    without_torch = {name: version for name, version in everything.items() if name != "torch-tensorrt"}
    seen = {name for names in found for name in names} | {finding.name for finding in traps.traps(board, without_torch)}
    # Two more ask for what these two machines cannot have at once: no OpenCV of pip's, and a card with a limit.
    assert len(seen) == count - 2


def test_opencv_without_gstreamer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutGStreamer:
        def getBuildInformation(self) -> str:
            return "  Video I/O:\n    FFMPEG:                      YES\n    GStreamer:                   NO\n"

    monkeypatch.setattr(checkup, "opencv", WithoutGStreamer)
    monkeypatch.setattr(checkup, "_writes_mp4", lambda cv2: True)
    found = {finding.name: finding for finding in checkup._video()}
    assert (found["FFMPEG"].ok, found["GStreamer"].ok) == (True, False)
    assert "apt install python3-opencv" in found["GStreamer"].hint


def test_installed_packages_have_normal_names() -> None:
    packages = checkup.installed()
    assert {"numpy", "onnxruntime", "edgeseg"} <= set(packages)
    assert all(name == name.lower() and "_" not in name and "." not in name for name in packages)
