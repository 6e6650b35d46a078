"""edgeseg build."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import options, render
from edgeseg.text import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from edgeseg.bundle import Bundle
    from edgeseg.bundle.manifest import CandidateEntry
    from edgeseg.engines.choose.choice import LevelBuild
    from edgeseg.engines.choose.exported_parity import Climbed
    from edgeseg.specs import Precision


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="This machine, or an RTX card to compile for: rtx4090.",
)
@click.option(
    "--runtime", "runtimes", multiple=True, metavar="NAME", help="Consider this runtime only; repeatable."
)
@click.option(
    "--option",
    "given",
    multiple=True,
    metavar="RUNTIME.NAME=VALUE",
    help="Tell a runtime something: tensorrt.optimization_level=5; repeatable.",
)
@click.option(
    "--dla-core",
    type=click.IntRange(0),
    metavar="N",
    help="Also try this DLA core of a Jetson module; short for --option tensorrt.dla_core=N.",
)
@click.option("--options", "listed", is_flag=True, help="List what each runtime can be told, and exit.")
@options.threads("Default: all physical cores that this process may use.")
@options.data_root("Also measure each engine's mIoU on the validation split.", required=False)
@options.limit("With --data-root: use N images, evenly spread.")
@click.option(
    "--memory", is_flag=True, help="Also measure each engine's peak memory, in a process of its own."
)
@click.option("--force", is_flag=True, help="Build and time anew what is there.")
@render.json_option
def build(
    bundle: Path | None,
    device: str,
    runtimes: tuple[str, ...],
    given: tuple[str, ...],
    dla_core: int | None,
    listed: bool,
    threads: int | None,
    data_root: Path | None,
    limit: int | None,
    memory: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build the engines of BUNDLE for this device, and make the fastest that is right the default.

    Every installed runtime is tried in every precision that this processor has. Each engine is checked on the
    golden frames, and all take turns at the clock; those that pass are packed. ONNX Runtime in float is
    always among them. What is there is kept. --option tells a runtime something; where it names a place to
    compute, that is tried beside the others.

    With --device rtx4090, or another RTX card, compile with TensorRT-RTX for that card instead; no GPU is
    needed. Nothing uses such an engine until `edgeseg build BUNDLE` has checked and timed it on a machine
    with that card, without compiling again.
    """
    if listed:
        _list_options(as_json)
        return
    from edgeseg.bundle import open_bundle
    from edgeseg.engines.options import read
    from edgeseg.pipeline.build import build_bundle

    if bundle is None:
        raise click.UsageError("BUNDLE is missing")
    options = read([*given, *([f"tensorrt.dla_core={dla_core}"] if dla_core is not None else [])])
    if limit is not None and data_root is None:
        raise click.UsageError("--limit is about the images of --data-root")
    opened = open_bundle(bundle)
    if device != "auto":
        if runtimes or threads or data_root or memory:
            raise click.UsageError(
                "--runtime, --threads, --data-root and --memory are about this machine; --device names"
                " another"
            )
        if others := set(options) - {"tensorrt_rtx"}:
            raise click.UsageError(
                f"--device compiles with tensorrt_rtx; options of {', '.join(sorted(others))} would do"
                " nothing"
            )
        _build_for_card(opened, device, options.get("tensorrt_rtx", {}), force, as_json)
        return
    with render.RichProgress() as progress:
        made = build_bundle(
            opened,
            runtimes=runtimes,
            options=options,
            threads=threads,
            data_root=data_root,
            limit=limit,
            memory=memory,
            force=force,
            progress=progress,
        )
    data = {"bundle": opened.path, "engines": [_document(one, opened) for one in made]}

    def human() -> list[RenderableType]:
        tables = [part for one in made for part in _shown(one, opened)]
        return [*tables, f"next: edgeseg run {quoted(opened.path)} --source VIDEO"]

    render.result(data, as_json, human)


def _list_options(as_json: bool) -> None:
    from edgeseg.engines.options import declared

    found = [
        (runtime, name, option) for runtime, options in declared().items() for name, option in options.items()
    ]
    data = [
        {
            "runtime": runtime,
            "name": name,
            "type": option.kind.__name__,
            "values": option.values,
            "choices": list(option.choices),
            "text": option.text,
        }
        for runtime, name, option in found
    ]

    def human() -> list[RenderableType]:
        rows = [(f"{runtime}.{name}", option.values, option.text) for runtime, name, option in found]
        drawn = render.table("", ("option", "values", ""), rows)
        drawn.columns[0].no_wrap = True
        return [drawn, "edgeseg build BUNDLE --option tensorrt.optimization_level=5"]

    render.result({"options": data}, as_json, human)


def _build_for_card(
    bundle: Bundle, card: str, options: Mapping[str, Any], force: bool, as_json: bool
) -> None:
    from edgeseg.engines.choose.for_card import build_for_card

    with render.RichProgress() as progress:
        made = build_for_card(bundle, card, options=options, force=force, progress=progress)
    engines = [
        {"built": one.built, "reason": one.reason, **one.engine.model_dump(mode="json")} for one in made
    ]
    checked = all(one.engine.checked for one in made)

    def human() -> str:
        lines = [
            f"level {one.engine.level} {one.engine.runtime} {one.engine.kind} for {card}:"
            f" {'compiled' if one.built else 'kept'} ({one.reason}),"
            f" {render.size(one.engine.measurements['bytes'])},"
            f" {render.duration(one.engine.measurements['compile_ms'] / 1000)}\n "
            f" {bundle.path / one.engine.files[0]}"
            + (f"\n  checked on {one.engine.measured_on}" if one.engine.checked else "")
            for one in made
        ]
        version = made[0].engine.runtime_version
        if not checked:
            lines.append(
                "NOT CHECKED: no golden frame ran on what was only compiled, and nothing was timed: that"
                f" needs the {card} itself"
            )
        lines += [
            (
                f"next: copy the bundle to a machine with the {card}, and there: pip install 'edgeseg[rtx]';"
                " edgeseg build BUNDLE"
            ),
            (
                f"      it checks and times these engines; with another TensorRT-RTX than {version} it"
                " compiles them anew"
            ),
        ]
        return "\n".join(lines)

    render.result({"bundle": bundle.path, "checked": checked, "engines": engines}, as_json, human)


def _document(one: LevelBuild, bundle: Bundle) -> dict[str, Any]:
    """The default engine of a level, all that it was chosen from, and what their programs stood when they
    were exported.
    """
    candidates = [candidate.model_dump(mode="json") for candidate in one.choice.candidates]
    parity = {
        precision: [asdict(rung) for rung in rungs] for precision, rungs in _ladder(one, bundle).items()
    }
    return {
        "built": one.built,
        "reason": one.reason,
        **one.engine.model_dump(mode="json"),
        "candidates": candidates,
        "parity": parity,
    }


def _ladder(one: LevelBuild, bundle: Bundle) -> dict[Precision, list[Climbed]]:
    from edgeseg.engines.choose.exported_parity import climbed

    level = one.engine.level
    return {precision: climbed(bundle, level, precision) for precision in bundle.level(level).programs}


def _proof(one: LevelBuild, bundle: Bundle) -> str:
    """What stands behind the agreement of the table, which is the last rung."""
    told = [
        f"{precision} {', '.join(map(str, rungs)) or 'not checked'}"
        for precision, rungs in _ladder(one, bundle).items()
    ]
    return f"parity with torch, at export: {'; '.join(told)}"


def _shown(one: LevelBuild, bundle: Bundle) -> list[RenderableType]:
    engine, candidates, isr = one.engine, one.choice.candidates, bundle.level(one.engine.level).isr
    threads = f", {engine.options['threads']} threads" if "threads" in engine.options else ""
    head = (
        f"level {engine.level} ({isr}): {engine.runtime} {engine.kind}, "
        f"{'built' if one.built else 'kept'} ({one.reason})\n{engine.device}{threads}"
    )
    known = {name for candidate in candidates for name in candidate.measurements}
    extra = [name for name in _ON_REQUEST if name in known]
    columns = [
        "engine",
        "median\nms",
        "p90\nms",
        "speed-\nup",
        "agree-\nment",
        *(_ON_REQUEST[name] for name in extra),
        "size",
        "build",
        "",
    ]
    drawn = render.table("", columns, [_row(candidate, extra) for candidate in candidates])
    drawn.collapse_padding = True  # 80 columns are usual where there is no desktop
    for column in (drawn.columns[0], drawn.columns[4], drawn.columns[-1]):
        column.no_wrap = True
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        reasons.setdefault(candidate.reason, []).append(f"{candidate.runtime} {candidate.kind}")
    told = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items() if reason]
    hints = dict.fromkeys(candidate.hint for candidate in candidates if candidate.hint)
    return [head, drawn, *told, *hints, _proof(one, bundle), *_busy(candidates)]


def _busy(candidates: Sequence[CandidateEntry]) -> list[str]:
    """What to say where something else used the machine while the fastest two were timed."""
    timed = sorted(
        (c.measurements for c in candidates if "median_ms" in c.measurements),
        key=lambda figures: figures["median_ms"],
    )
    spread = max((figures["spread"] for figures in timed[:2]), default=0.0)
    if spread <= _BUSY_SPREAD:
        return []
    return [
        f"times spread by {100 * spread:.0f} %: the machine was busy; build again with --force when it is not"
    ]


_BUSY_SPREAD = 0.25
"""From which on times are told to be doubtful; a fraction."""
_ON_REQUEST = {"miou": "mIoU", "peak_memory_bytes": "memory"}
"""Figures that are there only where they were asked for, and their columns."""


def _row(candidate: CandidateEntry, extra: Sequence[str]) -> list[object]:
    figures = candidate.measurements
    agreement = figures.get("mask_agreement")

    def number(name: str, digits: int) -> str | None:
        return f"{figures[name]:.{digits}f}" if name in figures else None

    requested = {
        "miou": render.percent(figures.get("miou"), 2),
        "peak_memory_bytes": (
            render.size(figures["peak_memory_bytes"]) if "peak_memory_bytes" in figures else None
        ),
    }
    return [
        f"{candidate.runtime} {candidate.kind}",
        number("median_ms", 1),
        number("p90_ms", 1),
        number("speedup", 2),
        render.percent(min(agreement.values()), 2) if agreement else None,
        *(requested[name] for name in extra),
        render.size(figures["bytes"]) if "bytes" in figures else None,
        render.duration(figures["compile_ms"] / 1000) if "compile_ms" in figures else None,
        candidate.verdict,
    ]
