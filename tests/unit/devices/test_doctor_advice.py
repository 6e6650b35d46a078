"""The doctor's advice on recorded machines: which line fits, and what to type for each runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import machines
from edgeseg.devices.doctor import checks
from edgeseg.devices.doctor.findings import Finding
from edgeseg.devices.doctor.install_lines import targets
from edgeseg.devices.machine import Machine, detect
from machines import Tree, write_tree

Advise = Callable[[Tree, dict[str, str], str], dict[str, Finding]]


@pytest.fixture
def advise(tmp_path: Path) -> Advise:
    def of(tree: Tree, packages: dict[str, str], python: str) -> dict[str, Finding]:
        arch = "x86_64" if "GenuineIntel" in tree["proc/cpuinfo"] else "aarch64"
        found = list(targets(detect(write_tree(tmp_path, tree), arch), packages, python))
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
    venv = "sudo apt install python3-venv && /usr/bin/python3 -m venv --system-site-packages .venv"
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


def test_nothing_is_installed_into_a_container_without_the_gpu(advise: Advise) -> None:
    assert set(advise(machines.AGX_ORIN_CONTAINER, {}, "3.10")) == {"catalogue", "JetPack", "notes"}


def test_thor(advise: Advise) -> None:
    found = advise(machines.THOR_JETPACK_70, {}, "3.12")
    assert "TensorRT 10.13.3, torch-tensorrt 2.12.1" in found["JetPack"].found
    assert "torch-tensorrt==2.12.1" in found["Torch-TensorRT"].hint


@pytest.mark.parametrize(
    "tree",
    [
        machines.XAVIER_NX_JETPACK_51,
        machines.NANO_JETPACK_46,
        machines.AGX_ORIN_JETPACK_51,
        machines.NEWER_JETPACK,
    ],
)
def test_lines_without_engines_get_no_install_lines(tree: Tree, advise: Advise) -> None:
    found = advise(tree, {}, "3.10")
    assert not found["JetPack"].ok
    # An Orin can be flashed; for a Xavier there is nothing to flash; a JetPack that is newer than the
    # catalogue may be fine.
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
    assert (
        found["ONNX Runtime for GPUs"].hint
        == "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


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
    volta = detect(write_tree(tmp_path, machines.RTX_4090), "x86_64")
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


def test_opencv_without_gstreamer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutGStreamer:
        def getBuildInformation(self) -> str:
            return "  Video I/O:\n    FFMPEG:                      YES\n    GStreamer:                   NO\n"

    monkeypatch.setattr(checks, "opencv", WithoutGStreamer)
    monkeypatch.setattr(checks, "_writes_mp4", lambda: True)
    found = {finding.name: finding for finding in checks._video()}
    assert (found["FFMPEG"].ok, found["GStreamer"].ok) == (True, False)
    assert "apt install python3-opencv" in found["GStreamer"].hint


@pytest.mark.parametrize(
    "error",
    [ImportError("libGL.so.1: cannot open shared object file"), AttributeError("_ARRAY_API not found")],
)
def test_opencv_that_cannot_be_imported_is_a_finding(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(checks, "opencv", fail)
    (found,) = checks._video()
    assert (found.ok, found.found) == (False, f"cannot be imported: {error}")
    assert found.hint


def test_installed_packages_have_normal_names() -> None:
    packages = checks.installed()
    assert {"numpy", "onnxruntime", "edgeseg"} <= set(packages)
    assert all(name == name.lower() and "_" not in name and "." not in name for name in packages)
