"""Fingerprints from what real machines say of themselves."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.devices.cores import usable_cores
from edgeseg.devices.machine import detect
from edgeseg.devices.nvidia import Gpu
from edgeseg.devices.probe import Fingerprint, fingerprint
from edgeseg.errors import Unsupported
from machines import write_tree

DESKTOP = "".join(
    f"""processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 158
model name\t: Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz
physical id\t: 0
siblings\t: 12
core id\t\t: {number % 6}
cpu cores\t: 6
flags\t\t: fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 avx f16c rdrand bmi1 avx2 smep bmi2 rdseed adx
bogomips\t: 7392.00

"""
    for number in range(12)
)
ORIN = "".join(
    f"""processor\t: {number}
model name\t: ARMv8 Processor rev 1 (v8l)
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp uscat
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
    for number in range(6)
)
MIXED = """processor\t: 0
Features\t: fp asimd asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 1
Features\t: fp asimd asimdhp asimddp i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd0b

"""


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc" / "cpuinfo"


def found_by(cpuinfo: Path, runtime: str = "onnxruntime", version: str = "1.31.1") -> Fingerprint:
    return fingerprint(runtime, version, detect(cpuinfo.parents[1]))


def test_desktop(cpuinfo: Path) -> None:
    cpuinfo.write_text(DESKTOP)
    found = found_by(cpuinfo)
    assert found.cpu == "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz"
    assert found.isa == ("sse4_1", "avx", "f16c", "fma", "avx2")
    assert "\n" not in str(found)
    assert all(part in str(found) for part in (found.cpu, "avx2", "onnxruntime 1.31.1", platform.machine()))


def test_jetson_orin_is_named_by_its_core(cpuinfo: Path) -> None:
    cpuinfo.write_text(ORIN)
    found = found_by(cpuinfo)
    assert (found.cpu, found.isa) == ("Cortex-A78AE", ("asimd", "asimdhp", "asimddp"))


def test_mixed_cores_have_what_all_have(cpuinfo: Path) -> None:
    cpuinfo.write_text(MIXED)
    found = found_by(cpuinfo)
    assert (found.cpu, found.isa) == ("ARM 0x41/0xd05 + Cortex-A76", ("asimd", "asimdhp", "asimddp"))


def test_key_changes_with_runtime_version_and_instruction_set(cpuinfo: Path) -> None:
    cpuinfo.write_text(DESKTOP)
    first = found_by(cpuinfo)
    assert first.key == found_by(cpuinfo).key
    others = [found_by(cpuinfo, version="1.31.2"), found_by(cpuinfo, "openvino")]
    cpuinfo.write_text(DESKTOP.replace(" avx2", " avx2 avx512f"))
    others.append(found_by(cpuinfo))
    assert len({first.key, *(other.key for other in others)}) == 4


def test_the_key_of_an_engine_for_a_processor_is_stable() -> None:
    """Engines in bundles that were built before accelerators had a place in the fingerprint keep their
    device.
    """
    found = Fingerprint("onnxruntime", "1.31.1", "x86_64", "AMD EPYC", ("avx", "avx2"), "Linux")
    assert found.key == "ed68a25175e07287065ecad9d0944506c075ef2e2a51b8a70c0984a08f287ab0"


def test_an_accelerator_changes_key_and_name(cpuinfo: Path) -> None:
    cpuinfo.write_text(DESKTOP)
    cards = (), (Gpu("RTX 4090", "8.9"),), (Gpu("RTX 5090", "12.0"),)
    found = [
        fingerprint("tensorrt", "11.0", replace(detect(cpuinfo.parents[1]), gpus=gpus), on_accelerator=True)
        for gpus in cards
    ]
    assert len({one.key for one in found}) == 3
    assert "RTX 4090 (8.9) beside Intel" in str(found[1])


def test_core_count_does_not_change_the_key(cpuinfo: Path) -> None:
    cpuinfo.write_text(ORIN)
    six = found_by(cpuinfo).key
    cpuinfo.write_text(ORIN.split("\n\n")[0] + "\n\n")
    assert found_by(cpuinfo).key == six


def test_a_machine_that_nothing_tells_of(cpuinfo: Path) -> None:
    with pytest.raises(Unsupported, match="cannot be told") as caught:
        found_by(cpuinfo)
    assert "/proc/cpuinfo" in caught.value.hint


def test_what_is_unknown_makes_another_machine() -> None:
    """Its engines are not opened where all is known, nor the other way round."""
    here = replace(detect(), cpu="a processor")
    found = [
        fingerprint("onnxruntime", "1", replace(here, isa=("avx", "avx2"), isa_unknown=unknown))
        for unknown in ((), ("avx_vnni",), ("avx_vnni", "amx_int8"))
    ]
    assert len({one.key for one in found}) == 3
    assert "avx avx2; unknown: avx_vnni amx_int8" in found[-1].place
    nothing = replace(here, isa=(), isa_unknown=("avx", "avx2"))
    assert "instruction set unknown" in fingerprint("onnxruntime", "1", nothing).place


def test_this_machine() -> None:
    here = fingerprint("onnxruntime", "1", detect())
    assert here == fingerprint("onnxruntime", "1", detect())
    assert here.cpu


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity masks on this system")
@pytest.mark.parametrize(
    "affinity, quota, cores",
    [
        (range(12), None, 6),  # two hardware threads a core
        (range(12), "max 100000", 6),
        (range(12), "350000 100000", 3),
        (range(12), "150000 100000", 1),
        (range(12), "50000 100000", 1),
        (range(12), "1600000 100000", 6),
        ({0, 6}, None, 1),  # both threads of one core
        ({0, 1, 2}, "max 100000", 3),
        (range(12), "nonsense", 6),
    ],
)
def test_usable_cores(
    affinity: set[int],
    quota: str | None,
    cores: int,
    cpuinfo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpuinfo.write_text(DESKTOP)
    write_tree(tmp_path, {"sys/fs/cgroup/cpu.max": f"{quota}\n"} if quota else {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(affinity))
    assert usable_cores(cpuinfo, tmp_path) == cores


def test_usable_cores_without_core_numbers(
    cpuinfo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo.write_text(ORIN)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert usable_cores(cpuinfo, tmp_path) == 4
