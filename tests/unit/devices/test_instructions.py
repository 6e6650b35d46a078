"""Instruction sets by /proc/cpuinfo, by the processor's own word, and where the two differ."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import machines
from edgeseg.cli.main import run
from edgeseg.devices import instructions
from edgeseg.devices.doctor.checks import check
from edgeseg.devices.instructions import ISA_FLAGS, Asked, Processor, judge, processor
from edgeseg.devices.machine import detect
from processor import VNNI, be, has, needs_vnni, pretend

ZEN_5 = (
    "sse4_1",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
)
ALDER_LAKE = ("sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni")
HASWELL = ("sse4_1", "avx", "f16c", "fma", "avx2")
X86, ARM = instructions._FLAGS["x86_64"], instructions._FLAGS["aarch64"]
NUMPY_KNOWS = {
    "sse4_1",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_fp16",
}
"""Of numpy 1.26; 2.4 also knows avx512_bf16."""

Ask = Callable[[bool], Asked]


def says(*flags: str, model: str = "the one that was asked", cpuid: bool = True) -> Ask:
    """An x86 processor that has these flags, and memory that may hold code or may not."""

    def ask(thoroughly: bool) -> Asked:
        known = {flag: flag in flags for flag in X86 if flag in NUMPY_KNOWS or (thoroughly and cpuid)}
        return Asked(model if thoroughly and cpuid else "", known)

    return ask


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    instructions.ask.cache_clear()
    yield
    instructions.ask.cache_clear()


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Callable[..., Path]:
    def write(*flags: str, model: str = "of the file", text: str | None = None) -> Path:
        path = tmp_path / "cpuinfo"
        path.write_text(
            f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: fpu sse2 {' '.join(flags)}\n\n"
            if text is None
            else text
        )
        return path

    return write


@pytest.mark.parametrize("flags", [ZEN_5, ALDER_LAKE, HASWELL])
@pytest.mark.parametrize("cpuid", [True, False])
def test_a_file_that_the_processor_confirms(
    flags: tuple[str, ...], cpuid: bool, cpuinfo: Callable[..., Path]
) -> None:
    assert judge(cpuinfo(*flags), "x86_64", says(*flags, cpuid=cpuid)) == Processor("of the file", flags)


def test_cpuid_is_not_read_where_numpy_knows_enough(cpuinfo: Callable[..., Path]) -> None:
    def ask(thoroughly: bool) -> Asked:
        assert not thoroughly
        return says(*HASWELL)(False)

    assert judge(cpuinfo(*HASWELL), "x86_64", ask).isa == HASWELL


@pytest.mark.parametrize("host", [ZEN_5, ALDER_LAKE])
def test_an_emulator_shows_the_file_of_its_host(host: tuple[str, ...], cpuinfo: Callable[..., Path]) -> None:
    """Believed, its VNNI would be computed with by kernels that this processor has not, and saturate."""
    found = judge(cpuinfo(*host, model="the host"), "x86_64", says(*HASWELL, model="Haswell"))
    assert found[:3] == ("Haswell", HASWELL, ())
    assert "describes another processor (the processor has no avx_vnni" in found.remark


def test_an_emulator_where_only_numpy_can_be_asked(cpuinfo: Callable[..., Path]) -> None:
    found = judge(cpuinfo(*ZEN_5, model="the host"), "x86_64", says(*HASWELL, cpuid=False))
    assert found.isa == HASWELL
    assert found.isa_unknown == ("avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")


def test_a_file_of_another_architecture(cpuinfo: Callable[..., Path]) -> None:
    """QEMU for ARM on an x86 host, and Rosetta's Linux on an ARM one."""
    arm = Asked("", {"asimd": True, "asimdhp": True, "asimddp": False, "sve": False})
    found = judge(cpuinfo(*ZEN_5, model="AMD EPYC"), "aarch64", lambda thoroughly: arm)
    assert found[:3] == ("AMD EPYC", ("asimd", "asimdhp"), ("i8mm", "bf16", "sve2", "sme"))
    assert "its flags are not of aarch64" in found.remark
    orin = cpuinfo(text=machines.ORIN_NANO_JETPACK_62["proc/cpuinfo"])
    found = judge(orin, "x86_64", says(*HASWELL, model="VirtualApple"))
    assert found[:3] == ("VirtualApple", HASWELL, ())
    assert "its Features are not of x86_64" in found.remark


def test_what_a_file_leaves_out_is_left_out_and_told(cpuinfo: Callable[..., Path]) -> None:
    found = judge(cpuinfo(*HASWELL), "x86_64", says(*HASWELL, "avx512f", "avx512_vnni"))
    assert found.isa == HASWELL
    assert "leaves out avx512f avx512_vnni" in found.remark


def test_without_a_file_the_processor_is_asked(tmp_path: Path) -> None:
    """Windows; and Linux whose /proc is hidden."""
    none = tmp_path / "none"
    assert judge(none, "AMD64", says(*ALDER_LAKE, model="12th Gen")) == Processor("12th Gen", ALDER_LAKE)
    unsure = judge(none, "x86_64", says(*HASWELL, cpuid=False))
    assert (unsure.isa, set(unsure.isa_unknown)) == (HASWELL, set(X86) - NUMPY_KNOWS)
    nothing = judge(none, "x86_64", lambda thoroughly: Asked())
    assert (nothing.isa, nothing.isa_unknown) == ((), X86)


def test_a_file_without_flags_is_none(cpuinfo: Callable[..., Path]) -> None:
    found = judge(
        cpuinfo(text="processor\t: 0\nmodel name\t: a sandbox's\n\n"), "x86_64", says(*HASWELL, cpuid=False)
    )
    assert (found.model, found.isa) == ("a sandbox's", HASWELL)


def test_an_old_processor_has_none_of_them_and_that_is_known(cpuinfo: Callable[..., Path]) -> None:
    assert judge(cpuinfo(), "x86_64", says(cpuid=False)) == Processor("of the file", ())


def test_an_architecture_without_flags_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "Some RISC-V")
    assert judge(tmp_path / "none", "riscv64", lambda thoroughly: Asked()) == Processor("Some RISC-V", ())


MAC = "machdep.cpu.brand_string: Apple M2 Pro\nhw.optional.arm.AdvSIMD: 1\nhw.optional.arm.FEAT_FP16: 1\n"
NEWER = f"{MAC}hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_SME: 0\n"


@pytest.mark.parametrize(
    "arch, answer, by_numpy, isa, unknown",
    [
        ("arm64", NEWER, {"ASIMD": True}, ("asimd", "asimdhp", "asimddp", "i8mm"), ()),
        (
            "arm64",
            MAC,
            {"ASIMD": True, "ASIMDDP": False},
            ("asimd",),
            ("asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
        ),
        (
            "x86_64",
            "machdep.cpu.brand_string: VirtualApple @ 2.50GHz\n",
            {"SSE41": True, "AVX2": False},
            ("sse4_1",),
            (),
        ),
    ],
)
def test_a_mac(
    arch: str,
    answer: str,
    by_numpy: Mapping[str, bool],
    isa: tuple[str, ...],
    unknown: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: arch)
    monkeypatch.setattr(instructions, "PROC_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(instructions, "SYSCTL", [sys.executable, "-c", f"print({answer!r}, end='')"])
    numpy_says(monkeypatch, by_numpy)
    found = processor()
    assert found.model == answer.partition("\n")[0].partition(": ")[2]
    assert (found.isa, found.isa_unknown) == (isa, unknown)


def test_a_mac_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(instructions, "PROC_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(instructions, "SYSCTL", ["/bin/false"])
    numpy_says(monkeypatch, {"ASIMD": True})
    found = processor()
    assert (found.model, found.isa) == ("arm", ("asimd",))
    assert "/bin/false failed" in found.remark


def numpy_says(patch: pytest.MonkeyPatch, features: Mapping[str, bool] | None) -> None:
    """Make numpy know these features only; None: it keeps what it knows to itself."""
    module = SimpleNamespace() if features is None else SimpleNamespace(__cpu_features__=features)
    real = importlib.import_module
    patch.setattr(
        importlib, "import_module", lambda name: module if name.endswith("_multiarray_umath") else real(name)
    )


def cpuid_says(
    patch: pytest.MonkeyPatch, features: set[str] | Exception, brand: str | None = "a processor"
) -> None:
    class Collector:
        def __init__(self) -> None:
            if isinstance(features, Exception):
                raise features
            self.features = features

        def brand_string(self) -> str | None:
            return brand

    patch.setitem(sys.modules, "archspec.cpu.detect", SimpleNamespace(CpuidInfoCollector=Collector))  # type: ignore[arg-type]


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 154")
    monkeypatch.setattr(instructions, "PROC_CPUINFO", tmp_path / "none")
    for name in instructions._NUMPY_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


NUMPY = {
    "SSE41": True,
    "AVX": True,
    "F16C": True,
    "FMA3": True,
    "AVX2": True,
    "AVX512F": False,
    "AVX512VNNI": False,
}


def test_windows(windows: pytest.MonkeyPatch) -> None:
    """AVX-VNNI is not among what numpy knows."""
    numpy_says(windows, NUMPY)
    cpuid_says(windows, {*ALDER_LAKE, "amx_tile"}, "12th Gen Intel(R)  Core(TM) i7-1260P ")
    assert processor() == Processor("12th Gen Intel(R) Core(TM) i7-1260P", ALDER_LAKE, ("amx_tile",))


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'archspec'"), PermissionError(13, "mmap"), MemoryError("RWX")]
)
def test_windows_without_cpuid(error: Exception, windows: pytest.MonkeyPatch) -> None:
    numpy_says(windows, NUMPY)
    cpuid_says(windows, error)
    found = processor()
    assert (found.model, found.isa) == ("Intel64 Family 6 Model 154", HASWELL)
    assert "avx_vnni" in found.isa_unknown
    assert str(error) in found.remark


def test_registers_that_the_system_does_not_keep(windows: pytest.MonkeyPatch) -> None:
    """CPUID says what the silicon has; numpy, what of it may be used."""
    numpy_says(windows, {"SSE41": True, "AVX": False, "AVX2": False, "AVX512F": False, "AVX512VNNI": False})
    cpuid_says(windows, set(ZEN_5))
    found = processor()
    assert not {"avx2", "avx_vnni", "avx512_vnni", "avx512_bf16"} & {*found.isa, *found.isa_unknown}


def test_a_numpy_that_does_not_tell(windows: pytest.MonkeyPatch) -> None:
    numpy_says(windows, None)
    cpuid_says(windows, set(HASWELL))
    assert processor()[1:3] == (HASWELL, ())
    cpuid_says(windows, ImportError("archspec"))
    instructions.ask.cache_clear()
    assert processor()[1:3] == ((), X86)


def test_what_numpy_was_told_not_to_use_may_be_there(windows: pytest.MonkeyPatch) -> None:
    windows.setenv("NPY_DISABLE_CPU_FEATURES", "AVX2")
    numpy_says(windows, {**NUMPY, "AVX2": False})
    cpuid_says(windows, ImportError("archspec"))
    assert "avx2" in processor().isa_unknown


def test_this_processor_is_asked() -> None:
    """What numpy says of it is what its file says, or the file describes another one."""
    found = processor()
    asked = instructions.ask(True)
    assert asked.flags or platform.machine() not in instructions._FLAGS
    assert set(found.isa) <= {flag for flag in ISA_FLAGS if asked.flags.get(flag, True)}
    assert not found.isa_unknown or found.remark


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is of x86")
def test_cpuid_says_what_numpy_says() -> None:
    pytest.importorskip("archspec")
    model, flags, remark = instructions._cpuid()
    assert (bool(model), remark) == (True, "")
    known = instructions._numpy(X86, "Linux")
    assert {flag: flags[flag] for flag in known} == known


@pytest.mark.parametrize(
    "isa, unknown, told",
    [
        (ZEN_5, (), "can be faster than float on this processor, by avx512_vnni"),
        (HASWELL, (), "this processor has no VNNI"),
        (HASWELL, ("avx_vnni", "amx_tile"), "VNNI is not known"),
        ((), X86, "is not known"),
        (("asimd", "asimddp"), (), "by asimddp"),
        (("asimd",), (), "no dot products of bytes"),
    ],
)
def test_the_doctor_tells_how_bytes_are_multiplied(
    isa: tuple[str, ...], unknown: tuple[str, ...], told: str
) -> None:
    machine = replace(detect(), isa=isa, isa_unknown=unknown)
    assert told in next(finding.found for finding in check(machine) if finding.name == "INT8")


@needs_vnni
def test_where_vnni_is_found_it_is_there() -> None:
    assert any(instructions.ask(True).flags.get(flag) for flag in VNNI)


def test_what_is_pretended_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "asimd", unknown=("asimddp",))
    assert has("asimd")
    assert not has("asimddp", *VNNI)


def test_the_commands_tell_what_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, *HASWELL, unknown=("avx_vnni",))
    assert run(["devices", "--here"]) == 0
    assert "unknown: avx_vnni" in " ".join(capsys.readouterr().out.split())
    assert run(["devices", "--here", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["isa_unknown"] == ["avx_vnni"]
    (finding,) = (finding for finding in check() if finding.name == "instruction sets")
    assert (finding.ok, finding.required) == (False, False)
    assert "unknown: avx_vnni" in finding.found
    assert finding.hint


def test_the_commands_tell_of_a_file_that_describes_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other: dict[str, Any] = {
        "isa": HASWELL,
        "isa_remark": "/proc/cpuinfo describes another processor (it has no avx_vnni)",
    }
    seen = replace(detect(), **other)
    be(monkeypatch, seen)
    assert run(["devices", "--here"]) == 0
    assert "describes another processor" in " ".join(capsys.readouterr().out.split())
