"""edgeseg devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render
from edgeseg.errors import Unsupported

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from edgeseg.devices.catalog import Catalog, Device, Stack
    from edgeseg.devices.machine import Machine


@click.command()
@click.argument("name", required=False)
@click.option("--here", is_flag=True, help="Show what this machine is instead, and its catalogue entries.")
@render.json_option
def devices(name: str | None, here: bool, as_json: bool) -> None:
    """List the devices that engines can be built for; NAME is a part of a name ("orin nano", "rtx4090",
    "avx").

    Rates are dense, of the GPU alone; of processors: multiply-adds of one instruction. With NAME, the sources
    are listed too.
    """
    from edgeseg.devices.catalog import load_catalog

    catalog = load_catalog()
    if here:
        if name:
            raise click.UsageError("--here takes no NAME")
        _show_here(catalog, as_json)
        return
    found = catalog.find(name) if name else list(catalog.devices)
    if not found:
        raise Unsupported(f"no device in the catalogue is named like {name!r}", hint="edgeseg devices")
    document = {"devices": _plain(found), "stacks": _plain(catalog.stacks), "sources": catalog.sources}
    details = (_installs, _sources) if name else ()
    render.result(
        document,
        as_json,
        lambda: [*_tables(catalog, found), *(part for one in details for part in one(catalog, found))],
    )


def _show_here(catalog: Catalog, as_json: bool) -> None:
    from edgeseg.devices.machine import detect

    machine = detect()
    found, stack = catalog.recognise(machine), catalog.stack(machine)
    document = {
        "machine": asdict(machine),
        "devices": _plain(found),
        "jetpack": catalog.jetpack(machine),
        "stack": stack.model_dump(mode="json") if stack else None,
    }

    def human() -> list[RenderableType]:
        facts = render.table("", ("", "this machine"), list(_facts(catalog, machine, stack)))
        return [facts, *_tables(catalog, found)] if found else [facts, "This device is not in the catalogue."]

    render.result(document, as_json, human)


def _facts(catalog: Catalog, machine: Machine, stack: Stack | None) -> Iterator[tuple[str, str]]:
    from edgeseg.devices.clocks import told
    from edgeseg.devices.machine import told_memory
    from edgeseg.devices.probe import told_isa

    yield "system", f"{machine.os} ({machine.arch})"
    if machine.board:
        yield "board", machine.board
    yield "processor", f"{machine.cpu or 'unknown'}: {told_isa(machine.isa, machine.isa_unknown)}"
    if machine.isa_remark:
        yield "instruction set", machine.isa_remark
    if machine.memory_gb:
        yield "memory", told_memory(machine)
    for gpu in machine.gpus:
        units = f", {gpu.multiprocessors} multiprocessors" if gpu.multiprocessors else ""
        memory = f", {gpu.memory_gb:g} GB" if gpu.memory_gb else ""
        yield (
            "GPU",
            f"{gpu.name}, compute capability {catalog.compute_capability(gpu) or 'unknown'}{units}{memory}",
        )
    if machine.driver:
        yield "NVIDIA driver", machine.driver
    if machine.cuda:
        yield "CUDA toolkit", machine.cuda
    if machine.jetson:
        yield (
            "module",
            (
                f"{' '.join(machine.jetson.parts)}"
                f" ({machine.jetson.soc}){', Super' if machine.jetson.super_mode else ''}"
            ),
        )
        release = catalog.jetpack(machine)
        yield "Jetson Linux", f"{machine.jetson.l4t or 'unknown'}{f' (JetPack {release})' if release else ''}"
    yield from machine.packages.items()
    yield from ((told(name), value) for name, value in machine.clocks.items())
    yield "software", stack.name if stack else "no line of the catalogue fits"


def _tables(catalog: Catalog, found: list[Device]) -> Iterator[RenderableType]:
    """One table of each kind that is there: GPUs and modules, lines of software for them, processors."""
    tables: list[tuple[Sequence[str], list[list[object]]]] = [
        (
            (
                "name",
                "device",
                "cc",
                "INT8\nTOPS",
                "FP16\nTFLOPS",
                "GB/s",
                "GB",
                "DLA",
                "en-\ncoder",
                "software",
            ),
            [_gpu_row(catalog, device) for device in found if device.compute_capability],
        ),
        (
            ("software", "Jetson Linux", "Ubuntu", "Python", "CUDA", "TensorRT", "torch-\ntensorrt"),
            [_stack_row(stack) for stack in _stacks(catalog, found)],
        ),
        (
            ("name", "processors", "instructions", "INT8", "FP16", "BF16", "remarks"),
            [_processor_row(device) for device in found if device.requires],
        ),
    ]
    # 80 columns are usual where there is no desktop. The names of the full list tell what its titles would.
    redundant = ("device",) if len(found) == len(catalog.devices) else ()
    for columns, rows in tables:
        if rows:
            yield _narrow([name if name not in redundant else "" for name in columns], rows)
    yield from (
        f"{device.name} is unsupported: {device.unsupported}" for device in found if device.unsupported
    )
    yield from (f"{stack.name}: {told}" for stack in _stacks(catalog, found) if (told := _remarks(stack)))


def _narrow(columns: Sequence[str], rows: list[list[object]]) -> Table:
    """A table without columns that have no name or say nothing; names and figures stay whole, to be copied
    and read.
    """
    shown = [
        index
        for index, name in enumerate(columns)
        if name and any(row[index] not in (None, "") for row in rows)
    ]
    drawn = render.table(
        "", [columns[index] for index in shown], [[row[index] for index in shown] for row in rows]
    )
    drawn.collapse_padding, drawn.columns[0].no_wrap = True, True
    for index, column in zip(shown, drawn.columns, strict=True):
        if columns[index] not in ("device", "processors", "remarks"):
            cells = (
                cell if isinstance(cell, str) else f"{cell:g}"
                for row in rows
                if (cell := row[index]) is not None
            )
            column.min_width = max(len(word) for cell in (columns[index], *cells) for word in cell.split())
    return drawn


def _gpu_row(catalog: Catalog, device: Device) -> list[object]:
    faster = device.super_mode
    stacks = [stack for stack in catalog.stacks if device.soc in stack.socs and not stack.unsupported]
    lines = [stack.name.removeprefix("JetPack ").partition(" on ")[0] for stack in stacks]
    return [
        device.name,
        device.title.removeprefix("NVIDIA ").removeprefix("Jetson "),
        _value(device.compute_capability),
        _rate(_value(device.int8_tops), _value(faster and faster.int8_tops)),
        _value(device.fp16_tflops),
        _rate(_value(device.bandwidth_gb_s), _value(faster and faster.bandwidth_gb_s)),
        _value(device.memory_gb),
        _value(device.dla),
        {True: "yes", False: "no", None: None}[_value(device.encoder)],
        "none" if device.unsupported else f"JetPack {', '.join(lines)}" if lines else "PC",
    ]


def _stacks(catalog: Catalog, found: list[Device]) -> list[Stack]:
    """The lines of software for these devices: those of JetPack for modules, the PC's for cards."""
    socs, cards = {device.soc for device in found}, any(device.gpu_names for device in found)
    return [stack for stack in catalog.stacks if socs & set(stack.socs) or (stack.gpu and cards)]


def _stack_row(stack: Stack) -> list[object]:
    releases = [*dict.fromkeys([*stack.l4t][:1] + [*stack.l4t][-1:])]
    python = stack.python[0] if len(stack.python) == 1 else f"{stack.python[0]} to {stack.python[-1]}"
    return [
        stack.name,
        " to ".join(releases) or None,
        stack.ubuntu,
        python,
        stack.cuda,
        stack.tensorrt,
        stack.torch_tensorrt,
    ]


def _remarks(stack: Stack) -> str:
    """What it needs, and what to know of it."""
    if stack.unsupported:
        return f"unsupported: {stack.unsupported}"
    needs = [f"driver {stack.driver_min} or newer"] if stack.driver_min else []
    needs += (
        [f"compute capability {stack.compute_capability_min} or higher"]
        if stack.compute_capability_min
        else []
    )
    return "; ".join((*needs, *(note.value for note in stack.notes)))


def _installs(catalog: Catalog, found: list[Device]) -> Iterator[RenderableType]:
    """What to type for each runtime on each line: lines, not a table, which would fold commands."""
    for stack in _stacks(catalog, found):
        for name, line in stack.install.items():
            yield f"{stack.name}, {catalog.runtimes[name].title}:\n    {line}"


def _processor_row(device: Device) -> list[object]:
    rates = (
        figure and f"{figure.value:g}" for figure in (device.int8_macs, device.fp16_macs, device.bf16_macs)
    )
    return [
        device.name,
        device.title,
        " ".join(device.requires),
        *rates,
        "; ".join(note.value for note in device.notes),
    ]


def _sources(catalog: Catalog, found: list[Device]) -> Iterator[RenderableType]:
    rows = []
    for device in found:
        figures = [(name, getattr(device, name)) for name in type(device).model_fields]
        figures += [(f"{name} (Super)", figure) for name, figure in device.super_mode or ()]
        cited = [(name, figure.source) for name, figure in figures if hasattr(figure, "source")]
        for key in dict.fromkeys(source for _, source in cited):
            rows.append(
                (
                    device.name,
                    ", ".join(name for name, source in cited if source == key),
                    catalog.sources[key],
                )
            )
    yield render.table("", ("name", "figures", "source"), rows)


def _rate(value: float | None, faster: float | None) -> object:
    """A rate, with that of Super mode in brackets."""
    return value if faster is None else f"{'-' if value is None else format(value, 'g')} ({faster:g} Super)"


def _value(figure: Any) -> Any:
    return None if figure is None else figure.value


def _plain(entries: Any) -> list[Any]:
    return [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
