"""The processor, and what it computes: by /proc/cpuinfo where that describes it, and by the
processor's own word.

/proc/cpuinfo is not there on Windows and macOS, sandboxes hide it, and an emulator in user mode, or a
container that another machine's file is bound into, shows another processor's. So the processor is asked as
well, without a child process and without code of its own that this package would have to run: numpy asks it
when it is imported (CPUID and what the system keeps for a thread on x86, the kernel's HWCAP on ARM), and
archspec reads the bits of CPUID that numpy does not name, among them AVX-VNNI. A file that claims what the
processor denies describes another one. What nobody tells is unknown, which is neither yes nor no.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

PROC_CPUINFO = Path("/proc/cpuinfo")
SYSCTL = ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.optional"]

X86_FLAGS = (
    *(
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
    ),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
)
_ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")
ISA_FLAGS = (*X86_FLAGS, *_ARM_FLAGS)
"""The flags by which inference kernels are chosen, as Linux names them: x86, then ARM."""

_FLAGS = {
    **dict.fromkeys(("x86_64", "AMD64", "i686", "i386"), X86_FLAGS),
    **dict.fromkeys(("aarch64", "arm64", "ARM64", "armv7l", "armv8l"), _ARM_FLAGS),
}
"""`platform.machine()` -> its share of ISA_FLAGS; other architectures have none."""

_NUMPY_NAMES = {
    "SSE41": "sse4_1",
    "AVX": "avx",
    "F16C": "f16c",
    "FMA3": "fma",
    "AVX2": "avx2",
    "AVX512F": "avx512f",
    "AVX512BW": "avx512bw",
    "AVX512VL": "avx512vl",
    "AVX512VNNI": "avx512_vnni",
    "AVX512BF16": "avx512_bf16",
    "AVX512FP16": "avx512_fp16",
    "ASIMD": "asimd",
    "ASIMDHP": "asimdhp",
    "ASIMDDP": "asimddp",
    "SVE": "sve",
}
_NUMPY_SETTINGS = ("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES")
"""With either, numpy says no to what it was told not to use."""
_SYSCTL_NAMES = {
    "asimd": "AdvSIMD",
    "asimdhp": "FEAT_FP16",
    "asimddp": "FEAT_DotProd",
    "i8mm": "FEAT_I8MM",
    "bf16": "FEAT_BF16",
    "sme": "FEAT_SME",
}

_ARM_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}
"""(implementer, part) -> name; ARM kernels tell numbers only. Source: Arm's MIDR_EL1 tables, as in util-linux
lscpu-arm.c.
"""


class Processor(NamedTuple):
    """A processor.

    Attributes:
        model: "" where nothing tells.
        isa: those of `ISA_FLAGS` that every core has: boards may mix cores, and code must run on each of
            them.
        isa_unknown: those that may be there: nothing here tells.
        remark: where two sources differ, which, and what was made of it; or why one failed.
    """

    model: str
    isa: tuple[str, ...]
    isa_unknown: tuple[str, ...] = ()
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A processor, by its own word.

    Attributes:
        model: "" where it does not say.
        flags: of ISA_FLAGS, whether it has them; what it was not asked for, or did not tell, is absent.
        remark: why a source failed.
    """

    model: str = ""
    flags: Mapping[str, bool] = field(default_factory=dict)
    remark: str = ""


def processor(cpuinfo: Path | None = None) -> Processor:
    """This machine's processor, or the one that a file describes. Raises nothing: what nobody tells is
    unknown.
    """
    if cpuinfo is None:
        return here()
    blocks = processors(cpuinfo)
    return Processor(_models(blocks), _in_order(_flags(blocks, "flags") | _flags(blocks, "Features")))


def here() -> Processor:
    """This machine's processor. Tests that need another one replace this function."""
    return judge(PROC_CPUINFO, platform.machine(), ask)


def judge(cpuinfo: Path, machine: str, ask: Callable[[bool], Asked]) -> Processor:
    """Join what a file and a processor say.

    Args:
        machine: architecture of this interpreter, as `platform.machine()` has it.
        ask: what the processor says of itself; see `ask`.
    """
    blocks, vocabulary = processors(cpuinfo), _FLAGS.get(machine, ())
    ours, other = ("flags", "Features") if vocabulary is X86_FLAGS else ("Features", "flags")
    told = _flags(blocks, ours) & {*vocabulary}
    asked = ask(any(flag not in ask(False).flags for flag in told))
    denied = [flag for flag in vocabulary if flag in told and asked.flags.get(flag) is False]
    if not vocabulary or (any(ours in block for block in blocks) and not denied):
        hidden = [flag for flag in vocabulary if flag not in told and asked.flags.get(flag)]
        remark = f"{cpuinfo} leaves out {' '.join(hidden)}, which the processor says it has" if hidden else ""
        return Processor(
            _models(blocks) or ask(True).model or platform.processor(), _in_order(told), (), remark
        )
    asked, why = ask(True), ""
    if denied:
        why = f"the processor has no {' '.join(denied)}"
    elif any(other in block for block in blocks):
        why = f"its {other} are not of {machine}"
    return Processor(
        asked.model or _models(blocks) or platform.processor(),
        _in_order(flag for flag, has in asked.flags.items() if has),
        tuple(flag for flag in vocabulary if flag not in asked.flags),
        f"{cpuinfo} describes another processor ({why}); this one was asked itself" if why else asked.remark,
    )


@cache
def ask(thoroughly: bool) -> Asked:
    """Ask the processor that this process runs on.

    Args:
        thoroughly: also for what numpy does not know, which takes some milliseconds, and on macOS a child
            process.
    """
    system, machine = platform.system(), platform.machine()
    vocabulary = _FLAGS.get(machine, ())
    by_numpy = _numpy(vocabulary, system)
    if not thoroughly:
        return Asked("", by_numpy)
    if system == "Darwin":
        return _asked_of_macos(by_numpy, vocabulary)
    model, by_cpuid, remark = _cpuid() if vocabulary is X86_FLAGS else ("", {}, "")
    # That the system keeps a thread's wide registers is in numpy's word; that it keeps AMX's is in nobody's.
    usable = {name: has and by_numpy.get(_BASE.get(name, ""), True) for name, has in by_cpuid.items()}
    flags = {name: has for name, has in usable.items() if not (has and name.startswith("amx_"))} | by_numpy
    return Asked(model, flags, remark)


_BASE = {"avx_vnni": "avx2", **dict.fromkeys(("avx512_bf16", "avx512_fp16"), "avx512f")}
"""A flag that numpy may not name -> one that it does name, and without which it is of no use."""


def _numpy(vocabulary: tuple[str, ...], system: str) -> dict[str, bool]:
    """Return what numpy found of `vocabulary` when it was imported; {} where this numpy does not tell.

    Off Linux, numpy for ARM says no to what it was not compiled for: there, only its yes is one.
    """
    names = {key: name for key, name in _NUMPY_NAMES.items() if name in vocabulary}
    sure = (vocabulary is X86_FLAGS or system == "Linux") and not any(
        name in os.environ for name in _NUMPY_SETTINGS
    )
    for module in (
        "numpy._core._multiarray_umath",
        "numpy.core._multiarray_umath",
    ):  # of numpy 2, and of numpy 1
        try:
            found: Mapping[str, bool] = importlib.import_module(module).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return {
            name: bool(found[key]) for key, name in names.items() if key in found and (found[key] or sure)
        }
    return {}


def _cpuid() -> tuple[str, dict[str, bool], str]:
    """The model and all of x86's flags by CPUID, and why where it cannot be read: in some sandboxes no memory
    may hold code.
    """
    try:
        collector = importlib.import_module("archspec.cpu.detect").CpuidInfoCollector()
        model = " ".join((collector.brand_string() or "").split())
        features = frozenset(collector.features)
    except (ImportError, AttributeError, OSError, SystemError, MemoryError, ValueError) as error:
        return "", {}, f"CPUID cannot be read: {error}"
    return model, {flag: flag in features for flag in X86_FLAGS}, ""


def _asked_of_macos(by_numpy: Mapping[str, bool], vocabulary: tuple[str, ...]) -> Asked:
    """macOS lists all that an Apple processor has; of Intel's, no Mac has what numpy does not name, and
    neither has Rosetta.
    """
    try:
        done = subprocess.run(SYSCTL, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Asked("", by_numpy, f"{' '.join(SYSCTL)} failed: {error}")
    values = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    model = values.get("machdep.cpu.brand_string", "").strip()
    if vocabulary is X86_FLAGS:
        return Asked(model, {**dict.fromkeys(vocabulary, False), **by_numpy})
    features = {
        name.rpartition(".")[2]: value
        for name, value in values.items()
        if name.startswith("hw.optional.arm.")
    }
    if "FEAT_DotProd" not in features:  # before macOS 12
        return Asked(model, by_numpy)
    return Asked(
        model, {**{flag: features.get(_SYSCTL_NAMES.get(flag, "")) == "1" for flag in vocabulary}, **by_numpy}
    )


def processors(cpuinfo: Path) -> list[dict[str, str]]:
    """One dict a processor, as Linux lists them; [] where there is no such file."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return []
    blocks = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        if values.get("processor", "").isdigit():
            blocks.append(values)
    return blocks


def _flags(blocks: list[dict[str, str]], key: str) -> set[str]:
    """Those of ISA_FLAGS that every processor lists."""
    listed = [set(block.get(key, "").split()) for block in blocks]
    return set.intersection(set(ISA_FLAGS), *listed) if listed else set()


def _in_order(flags: Iterable[str]) -> tuple[str, ...]:
    there = set(flags)
    return tuple(flag for flag in ISA_FLAGS if flag in there)


def _models(blocks: list[dict[str, str]]) -> str:
    return " + ".join(name for name in dict.fromkeys(map(_model, blocks)) if name)


def _model(block: dict[str, str]) -> str:
    if "CPU part" in block:
        implementer, part = block.get("CPU implementer", "?"), block["CPU part"]
        return _ARM_CORES.get((implementer, part), f"ARM {implementer}/{part}")
    return " ".join(block.get("model name", "").split())
