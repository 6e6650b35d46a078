"""The catalogue of devices, and of the software that fits each: `catalog.yaml`, checked as it is read.

Every figure carries its source; one that is absent was not found, and is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeseg.devices.instructions import ISA_FLAGS
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu

CATALOG = Path(__file__).with_name("catalog.yaml")

Value = TypeVar("Value")
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
Capability = Annotated[str, Field(pattern=r"^\d+\.\d$")]
"""CUDA compute capability, "8.7" for sm_87."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Strict, Generic[Value]):
    """A value, and the key in `Catalog.sources` of where it is from."""

    value: Value
    source: str


Number = Figure[Annotated[float, Field(ge=0, strict=True)]]
Flag = Figure[Annotated[bool, Field(strict=True)]]
Text = Figure[str]
Texts = Figure[tuple[str, ...]]


class Rates(_Strict):
    """Changes by a mode of higher clocks; see `Device`."""

    int8_tops: Number | None = None
    bandwidth_gb_s: Number | None = None


class Device(_Strict):
    """A module, a card or a class of processors.

    Attributes:
        name: short name, unique.
        soc, parts: of a Jetson: name in the device tree ("tegra234"), part numbers of the module
        ("p3767-0003"). gpu_names: of a card: what its driver calls it. requires: of a class of processors:
        the flags of `instructions.ISA_FLAGS` that it needs. memory_gb, bandwidth_gb_s: size and peak
        bandwidth of the memory that the GPU works in. int8_tops, fp16_tflops: peak of the GPU, dense; a
        multiply-add is two operations. FP16 with FP32 accumulation. dla, dla_int8_tops: number of
        deep-learning accelerators, and peak of all of them together, dense. encoder: it has a video encoder;
        without one the processor encodes. super_mode: what differs where the device tree's names end in
        "-super". int8_macs, fp16_macs, bf16_macs: multiply-adds of one instruction. unsupported: why edgeseg
        builds no engine for it.
    """

    name: Name
    title: str
    kind: Literal["jetson", "rtx", "datacenter", "x86", "arm"]
    soc: str | None = None
    parts: Texts | None = None
    gpu_names: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    compute_capability: Figure[Capability] | None = None
    memory_gb: Number | None = None
    bandwidth_gb_s: Number | None = None
    int8_tops: Number | None = None
    fp16_tflops: Number | None = None
    dla: Number | None = None
    dla_int8_tops: Number | None = None
    encoder: Flag | None = None
    super_mode: Rates | None = None
    int8_macs: Number | None = None
    fp16_macs: Number | None = None
    bf16_macs: Number | None = None
    notes: tuple[Text, ...] = ()
    unsupported: str | None = None

    @model_validator(mode="after")
    def _can_be_recognised(self) -> Device:
        marks = {
            "jetson": self.soc and self.parts and self.compute_capability,
            "rtx": self.gpu_names and self.compute_capability,
            "datacenter": self.gpu_names and self.compute_capability,
            "x86": self.requires,
            "arm": self.requires,
        }
        if not marks[self.kind]:
            raise ValueError(f"{self.name}: nothing by which a {self.kind} is recognised")
        if unknown := set(self.requires) - set(ISA_FLAGS):
            raise ValueError(f"{self.name}: requires {sorted(unknown)}, which no probe looks for")
        return self


class Stack(_Strict):
    """Versions that fit together on one kind of machine: a line of JetPack on one chip, or a PC.

    Attributes:
        socs, l4t: of JetPack: chips that it runs on; Jetson Linux release -> JetPack release.
        gpu: of a PC: it has an NVIDIA GPU.
        python: versions of Python that the packages are built for.
        cuda, tensorrt, torch_tensorrt: versions; those of JetPack lie in the system. None: there is none that
        fits. driver_min, compute_capability_min: oldest driver (major version) and GPU for these versions.
        wheels: package index of what PyPI does not hold. install: runtime -> what to type for it.
        unsupported: why edgeseg builds no engine there.
    """

    name: str
    socs: tuple[str, ...] = ()
    l4t: dict[str, str] = {}
    gpu: bool | None = None
    ubuntu: str | None = None
    python: tuple[str, ...]
    cuda: str | None = None
    tensorrt: str | None = None
    torch_tensorrt: str | None = None
    driver_min: int | None = None
    compute_capability_min: Capability | None = None
    wheels: str | None = None
    install: dict[str, str] = {}
    notes: tuple[Text, ...] = ()
    unsupported: str | None = None
    source: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Stack:
        if not (bool(self.socs) == bool(self.l4t) == (self.gpu is None)):
            raise ValueError(f"{self.name}: either socs and l4t, or gpu")
        return self


class Runtime(_Strict):
    """A runtime: its name for people, and the packages by which pip knows it."""

    title: str
    distributions: tuple[str, ...] = Field(min_length=1)


class Catalog(_Strict):
    """`catalog.yaml`.

    Attributes:
        sources: key -> where a figure is from.
        versions: component -> version -> key of its source.
    """

    sources: dict[str, str]
    versions: dict[str, dict[str, str]]
    runtimes: dict[str, Runtime]
    stacks: tuple[Stack, ...]
    devices: tuple[Device, ...]

    @model_validator(mode="after")
    def _refers_to_itself(self) -> Catalog:
        """Sources exist and are used, versions are in the table, names are given once."""
        cited = {key for table in self.versions.values() for key in table.values()}
        cited |= {key for stack in self.stacks for key in stack.source} | set(
            _cited((*self.devices, *self.stacks))
        )
        if cited != set(self.sources):
            raise ValueError(
                f"sources cited and not listed, or listed and not cited: {sorted(cited ^ set(self.sources))}"
            )
        for stack in self.stacks:
            for component, table in self.versions.items():
                version = getattr(stack, component)
                if version is not None and version not in table:
                    raise ValueError(f"{stack.name}: {component} {version} is not in the table of versions")
            if unknown := set(stack.install) - set(self.runtimes):
                raise ValueError(f"{stack.name}: no such runtimes: {sorted(unknown)}")
        names = [device.name for device in self.devices]
        marks = [mark for d in self.devices for mark in (*(d.parts.value if d.parts else ()), *d.gpu_names)]
        for given in (names, marks):
            if twice := {name for name in given if given.count(name) > 1}:
                raise ValueError(f"given twice: {sorted(twice)}")
        return self

    def find(self, text: str) -> list[Device]:
        """Devices whose name or title holds `text`; case, blanks and dashes do not count."""
        return [device for device in self.devices if _plain(text) in _plain(device.name + "|" + device.title)]

    def recognise(self, machine: Machine) -> list[Device]:
        """The entries that a machine is: its module or cards, then its class of processors."""
        parts = set(machine.jetson.parts) if machine.jetson else set()
        found = [d for d in self.devices if d.parts and parts & set(d.parts.value)]
        found += [d for gpu in machine.gpus for d in self.devices if gpu.name in d.gpu_names]
        kind = {"x86_64": "x86", "AMD64": "x86", "aarch64": "arm", "arm64": "arm"}.get(machine.arch)
        classes = (d for d in self.devices if d.kind == kind and set(d.requires) <= set(machine.isa))
        return [*dict.fromkeys(found), *([first] if (first := next(classes, None)) else [])]

    def compute_capability(self, gpu: Gpu) -> str | None:
        """Compute capability of a card: what its driver says, else what the catalogue knows of its name."""
        known = (
            d.compute_capability.value
            for d in self.devices
            if d.compute_capability and gpu.name in d.gpu_names
        )
        return gpu.compute_capability or next(known, None)

    def stack(self, machine: Machine) -> Stack | None:
        """The software line of a machine; None where it runs a JetPack that the catalogue does not know."""
        if not machine.jetson:
            return next(stack for stack in self.stacks if stack.gpu == bool(machine.gpus))
        lines = [stack for stack in self.stacks if machine.jetson.soc in stack.socs]
        older = [
            (release, line)
            for line in lines
            for release in line.l4t
            if _same_line(release, machine.jetson.l4t)
        ]
        return max(older, key=lambda pair: _ordered(pair[0]))[1] if older else None

    def jetpack(self, machine: Machine) -> str | None:
        """JetPack's release by the Jetson Linux release; None where the catalogue names none for it."""
        releases = (
            (stack.l4t.get(machine.jetson.l4t or "") for stack in self.stacks) if machine.jetson else iter(())
        )
        return next((release for release in releases if release), None)


def _cited(value: object) -> Iterator[str]:
    """Keys of the sources of all figures below a value."""
    if isinstance(value, Figure):
        yield value.source
    elif isinstance(value, BaseModel):
        for _, field in value:
            yield from _cited(field)
    elif isinstance(value, tuple):
        for item in value:
            yield from _cited(item)


def _same_line(release: str, l4t: str | None) -> bool:
    """A Jetson Linux release belongs to the newest listed one of its major version that is no newer than
    itself.
    """
    return l4t is not None and _ordered(release)[0] == _ordered(l4t)[0] and _ordered(release) <= _ordered(l4t)


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _plain(text: str) -> str:
    return text.lower().replace(" ", "").replace("-", "")


@cache
def load_catalog(path: Path = CATALOG) -> Catalog:
    """The catalogue. Raises ValueError (pydantic's) with every mistake: in the shipped file, a bug."""
    return Catalog.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
