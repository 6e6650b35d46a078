"""What a machine is, from the files that say so, and its entry in the catalogue."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import machines
from edgeseg.devices import cuda_driver, nvidia
from edgeseg.devices import machine as machine_module
from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.cuda_driver import CudaDevice
from edgeseg.devices.jetson import parse_release
from edgeseg.devices.machine import detect
from edgeseg.devices.nvidia import Gpu, gpus, parse_smi
from machines import Tree, write_tree


@pytest.mark.parametrize(
    "tree, arch, entries, jetpack, stack",
    [
        (machines.ORIN_NANO_JETPACK_62, "aarch64", ["orin-nano-8gb", "arm-dotprod"], "6.2", "JetPack 6.2"),
        (
            machines.ORIN_NX_JETPACK_72,
            "aarch64",
            ["orin-nx-16gb", "arm-dotprod"],
            "7.2.1",
            "JetPack 7.2 on Orin",
        ),
        (machines.AGX_ORIN_CONTAINER, "aarch64", ["agx-orin-64gb", "arm-dotprod"], "6.2.1", "JetPack 6.2"),
        (machines.AGX_ORIN_JETPACK_51, "aarch64", ["agx-orin-32gb", "arm-dotprod"], "5.1.2", "JetPack 5.1"),
        (machines.XAVIER_NX_JETPACK_51, "aarch64", ["xavier-nx", "arm-neon"], "5.1.2", "JetPack 5.1"),
        (machines.ORIN_NANO_4GB, "aarch64", ["orin-nano-4gb", "arm-dotprod"], "6.2", "JetPack 6.2"),
        (machines.NANO_JETPACK_46, "aarch64", ["jetson-nano", "arm-neon"], "4.6.1", "JetPack 4.6"),
        (machines.THOR_JETPACK_70, "aarch64", ["agx-thor", "arm-i8mm"], "7.0", "JetPack 7.0 and 7.1"),
        (machines.T4000_JETPACK_71, "aarch64", ["t4000", "arm-i8mm"], "7.1", "JetPack 7.0 and 7.1"),
        (machines.NEWER_JETPACK, "aarch64", ["orin-nx-16gb", "arm-dotprod"], None, None),
        (machines.RTX_4090, "x86_64", ["rtx4090", "x86-avx-vnni"], None, "PC with an NVIDIA GPU"),
        (machines.RTX_2080_TI_OLD_DRIVER, "x86_64", ["rtx2080ti", "x86-avx2"], None, "PC with an NVIDIA GPU"),
        (machines.SERVER, "x86_64", ["x86-amx"], None, "PC without an NVIDIA GPU"),
        (machines.RASPBERRY_PI_5, "aarch64", ["arm-dotprod"], None, "PC without an NVIDIA GPU"),
        ({}, "riscv64", [], None, "PC without an NVIDIA GPU"),
    ],
)
def test_recorded_machines(
    tree: Tree, arch: str, entries: list[str], jetpack: str | None, stack: str | None, tmp_path: Path
) -> None:
    machine, catalog = detect(write_tree(tmp_path, tree), arch), load_catalog()
    assert [entry.name for entry in catalog.recognise(machine)] == entries
    assert catalog.jetpack(machine) == jetpack
    found = catalog.stack(machine)
    assert (found and found.name) == stack


def test_an_orin_nano_in_full(tmp_path: Path) -> None:
    machine = detect(write_tree(tmp_path, machines.ORIN_NANO_JETPACK_62), "aarch64")
    assert machine.os == "Ubuntu 22.04.5 LTS"
    assert machine.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (machine.cpu, machine.isa) == ("Cortex-A78AE", ("asimd", "asimdhp", "asimddp"))
    assert (machine.driver, machine.cuda) == ("540.4.0", "12.6.11")
    assert machine.jetson is not None
    assert (machine.jetson.soc, machine.jetson.l4t, machine.jetson.super_mode) == ("tegra234", "36.4.3", True)
    assert machine.jetson.parts == ("p3768-0000", "p3767-0005")
    assert machine.accelerator == "p3767-0005 tegra234"
    assert machine.packages == {
        "libnvinfer": "10.3.0.30-1+cuda12.5",
        "nvidia-jetpack": "6.2+b77",
        "nvidia-l4t-core": "36.4.3-20250107174145",
        "python3-libnvinfer": "10.3.0.30-1+cuda12.5",
    }


def test_a_desktop_in_full(tmp_path: Path) -> None:
    machine = detect(write_tree(tmp_path, machines.RTX_4090), "x86_64")
    assert machine.gpus == (Gpu("NVIDIA GeForce RTX 4090"),)
    assert machine.driver == "595.71.05"
    assert machine.jetson is None
    assert load_catalog().compute_capability(machine.gpus[0]) == "8.9"
    assert machine.accelerator.startswith("NVIDIA GeForce RTX 4090")


def test_a_laptop_card_is_not_the_desktop_card(tmp_path: Path) -> None:
    laptop = "Model: \t\t NVIDIA GeForce RTX 4090 Laptop GPU\n"
    machine = detect(
        write_tree(
            tmp_path, {**machines.RTX_4090, "proc/driver/nvidia/gpus/0000:01:00.0/information": laptop}
        ),
        "x86_64",
    )
    assert [entry.name for entry in load_catalog().recognise(machine)] == ["x86-avx-vnni"]


@pytest.mark.parametrize(
    "content", ["", "\0", "{", "[]", "Package: libnvinfer10", "PRETTY_NAME='open", "a, b\n\n,,\n"]
)
def test_files_that_make_no_sense_are_as_good_as_absent(content: str, tmp_path: Path) -> None:
    everywhere = dict.fromkeys(machines.ORIN_NANO_JETPACK_62, content)
    machine = detect(write_tree(tmp_path, everywhere), "aarch64")
    assert (machine.jetson, machine.driver, machine.cuda, machine.packages) == (None, None, None, {})


def test_a_revision_that_the_catalogue_does_not_name_belongs_to_its_line(tmp_path: Path) -> None:
    newer = {
        **machines.ORIN_NANO_JETPACK_62,
        "etc/nv_tegra_release": "# R36 (release), REVISION: 5.2, GCID: 46426093\n",
    }
    machine, catalog = detect(write_tree(tmp_path, newer), "aarch64"), load_catalog()
    stack = catalog.stack(machine)
    assert stack is not None
    assert (stack.name, catalog.jetpack(machine)) == ("JetPack 6.2", None)


@given(
    major=st.integers(1, 99),
    revision=st.lists(st.integers(0, 99), min_size=1, max_size=3),
    rest=st.text(max_size=80),
)
def test_parse_release_reads_what_jetson_linux_writes(major: int, revision: list[int], rest: str) -> None:
    dotted = ".".join(map(str, revision))
    assert parse_release(f"# R{major} (release), REVISION: {dotted}, {rest}") == f"{major}.{dotted}"
    assert parse_release(f"# first line\n# R{major} (release), REVISION: {dotted}\n") == f"{major}.{dotted}"


@given(st.text() | st.from_regex(r"#? ?R\d* ?\(?rel[a-z]*\)?,? REVISION:? ?[\d.]*"))
def test_parse_release_never_fails(text: str) -> None:
    found = parse_release(text)
    assert found is None or all(part.isdigit() for part in found.split("."))


def test_parse_smi() -> None:
    text = (
        "NVIDIA GeForce RTX 4090, 8.9, 24564, 350.00, 450.00, 3105, Enabled\n"
        "Orin (nvgpu), 8.7, [N/A], [N/A], [N/A], [N/A], [N/A]\n"
        "Old, [Not Supported], 8192\n"
    )
    assert parse_smi(text) == [
        Gpu("NVIDIA GeForce RTX 4090", "8.9", 25.8, None, 350.0, 450.0, 3105, True),
        Gpu("Orin (nvgpu)", "8.7", None),
        Gpu("Old", None, 8.6),
    ]
    assert parse_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []


@given(
    st.text()
    | st.lists(st.sampled_from(["a", "8.9", "[N/A]", "24564", "1e999", "", "Enabled", "-3"])).map(", ".join)
)
def test_parse_smi_never_fails(text: str) -> None:
    assert all(gpu.name and (gpu.power_limit_w is None or gpu.power_limit_w >= 0) for gpu in parse_smi(text))


class CudaLibrary:
    """Two GPUs as the CUDA driver tells of them: a card, and one that shares the system's memory and says
    little.
    """

    def __init__(self, *, broken: str = "") -> None:
        self._broken = broken

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name == self._broken == "cuInit":
            return lambda *arguments: 100  # CUDA_ERROR_NO_DEVICE
        answers: dict[str, Callable[..., object]] = {
            "cuInit": lambda flags: None,
            "cuDeviceGetCount": lambda count: setattr(count._obj, "value", 2),
            "cuDeviceGet": lambda handle, index: setattr(handle._obj, "value", index),
            "cuDeviceGetName": lambda name, size, handle: setattr(
                name, "value", (b"NVIDIA L4", b"Orin")[handle.value]
            ),
            "cuDeviceTotalMem_v2": lambda size, handle: setattr(size._obj, "value", 24_000_000_000),
            "cuDeviceGetAttribute": lambda value, number, handle: setattr(
                value._obj, "value", {16: (58, 8), 18: (0, 1), 75: (8, 8), 76: (9, 7)}[number][handle.value]
            ),
        }
        if name not in answers or name == self._broken:
            raise AttributeError(name)
        return lambda *arguments: answers[name](*arguments) or 0


def test_the_cuda_driver_counts_multiprocessors() -> None:
    card, board = cuda_driver.read(CudaLibrary())
    assert card == CudaDevice("NVIDIA L4", "8.9", 58, 24_000_000_000)
    assert board == CudaDevice("Orin", "8.7", 8, None)


@pytest.mark.parametrize("broken", ["cuInit", "cuDeviceGetCount", "cuDeviceTotalMem_v2"])
def test_a_cuda_driver_that_does_not_answer(broken: str) -> None:
    assert cuda_driver.read(CudaLibrary(broken=broken)) == ()


@pytest.mark.usefixtures("_no_nvml")
def test_a_board_without_nvml_is_known_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_by_smi", list)
    monkeypatch.setattr(cuda_driver, "devices", lambda: cuda_driver.read(CudaLibrary()))
    assert gpus(Path("/")) == [Gpu("NVIDIA L4", "8.9", 24.0, 58), Gpu("Orin", "8.7", None, 8)]


def test_memory_and_swap(tmp_path: Path) -> None:
    found = detect(write_tree(tmp_path, machines.ORIN_NANO_25W), "aarch64")
    assert (found.memory_gb, found.swap_gb, found.disk_swap_gb) == (8.0, 4.0, 0.0)
    both = detect(
        write_tree(tmp_path, machines.memory(3866704, *machines.ZRAM, ("/swapfile", 8388604))), "aarch64"
    )
    assert (both.memory_gb, both.swap_gb, both.disk_swap_gb) == (4.0, 12.6, 8.6)


@pytest.fixture
def _no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(cuda_driver, "devices", lambda: ())


@pytest.mark.usefixtures("_no_nvml")
def test_the_one_gpu_of_a_board_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_by_smi", lambda: [Gpu("Orin (nvgpu)")])
    monkeypatch.setattr(cuda_driver, "devices", lambda: (CudaDevice("Orin", "8.7", 8, None),))
    assert gpus(Path("/")) == [Gpu("Orin (nvgpu)", multiprocessors=8)]


@pytest.mark.usefixtures("_no_nvml")
def test_libraries_that_never_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Event()
    monkeypatch.setattr(nvidia, "PATIENCE_S", 0.05)
    monkeypatch.setattr(cuda_driver, "devices", asked.wait)
    monkeypatch.setattr(nvidia, "_by_nvml", asked.wait)
    monkeypatch.setattr(nvidia, "_by_smi", list)
    monkeypatch.setattr(nvidia, "_by_kernel", lambda root: [Gpu("NVIDIA L4")])
    assert gpus(Path("/")) == [Gpu("NVIDIA L4")]
    asked.set()


@pytest.mark.usefixtures("_no_nvml")
@pytest.mark.parametrize(
    "script, found",
    [
        ("echo 'NVIDIA L4, 8.9, 23034'", [Gpu("NVIDIA L4", "8.9", 24.2)]),
        ("echo failed; exit 9", []),
        ("", []),
    ],
)
def test_nvidia_smi_is_asked(
    script: str, found: list[Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia, "_by_kernel", lambda root: [])
    assert gpus(Path("/")) == found


@pytest.mark.parametrize(
    "fails_at",
    [
        None,
        "nvmlInit",
        "nvmlDeviceGetCount",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetPersistenceMode",
        "nvmlShutdown",
    ],
)
def test_nvml_comes_first(fails_at: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def fail(*_: object) -> None:
        raise NVMLError

    fake, calls = ModuleType("pynvml"), []
    answers = {
        "nvmlInit": lambda: calls.append("init"),
        "nvmlShutdown": lambda: calls.append("shutdown"),
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H200",  # bytes, as older versions answer
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=150_754_820_096),
        "nvmlDeviceGetPowerManagementLimit": lambda handle: 600_000,
        "nvmlDeviceGetPowerManagementDefaultLimit": lambda handle: 700_000,
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 1980}[kind],
        "nvmlDeviceGetPersistenceMode": lambda handle: 1,
    }
    fake.NVML_CLOCK_SM = 1  # type: ignore[attr-defined]
    for name, answer in answers.items():
        setattr(fake, name, fail if name == fails_at else answer)
    fake.NVMLError = NVMLError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(cuda_driver, "devices", lambda: ())
    monkeypatch.setattr(nvidia, "_by_smi", list)
    monkeypatch.setattr(nvidia, "_by_kernel", lambda root: [])
    limits = {"power_limit_w": 600.0, "power_default_w": 700.0, "max_mhz": 1980, "persistence": True}
    by_failure = {
        None: [Gpu("NVIDIA H200", "9.0", 150.8, **limits)],
        "nvmlDeviceGetMemoryInfo": [Gpu("NVIDIA H200", "9.0", None, **limits)],
        "nvmlDeviceGetPersistenceMode": [Gpu("NVIDIA H200", "9.0", 150.8, **{**limits, "persistence": None})],
    }
    by_failure["nvmlShutdown"] = by_failure[None]
    assert gpus(Path("/")) == by_failure.get(fails_at, [])
    assert calls == {"nvmlInit": [], "nvmlShutdown": ["init"]}.get(str(fails_at), ["init", "shutdown"])


def test_a_recorded_tree_asks_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_by_nvml", lambda: pytest.fail("asked NVML"))
    monkeypatch.setattr(nvidia, "_by_smi", lambda: pytest.fail("asked nvidia-smi"))
    assert gpus(write_tree(tmp_path, machines.RTX_4090)) == [Gpu("NVIDIA GeForce RTX 4090")]


def test_this_machines_gpus_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command looks at the machine twenty times; nvidia-smi may take a second each time."""
    asked: list[Path] = []

    def answer(root: Path) -> list[Gpu]:
        asked.append(root)
        return [Gpu("NVIDIA L4")]

    monkeypatch.setattr(machine_module, "gpus", answer)
    machine_module._gpus_here.cache_clear()
    try:
        assert detect().gpus == detect().gpus == (Gpu("NVIDIA L4"),)
    finally:
        machine_module._gpus_here.cache_clear()
    assert asked == [Path("/")]


def test_this_machine() -> None:
    assert detect() == detect()
    assert detect().os
