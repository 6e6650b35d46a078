"""edgeseg build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from edgeseg.bundle import Bundle
    from edgeseg.engines.choose import LevelBuild
    from edgeseg.manifest import CandidateEntry


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="This machine, or an RTX card to compile for: rtx4090."
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Consider this runtime only; repeatable.")
@click.option("--threads", type=click.IntRange(1), help="Default: all physical cores that this process may use.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Also measure each engine's mIoU on the validation split.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="With --data-root: use N images, evenly spread.")
@click.option("--memory", is_flag=True, help="Also measure each engine's peak memory, in a process of its own.")
@click.option("--force", is_flag=True, help="Build and time anew what is there.")
@render.json_option
def build(
    bundle: Path,
    device: str,
    runtimes: tuple[str, ...],
    threads: int | None,
    data_root: Path | None,
    limit: int | None,
    memory: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build the engines of BUNDLE for this device, and make the fastest that is right the default.

    Every installed runtime is tried in every precision that this processor has. Each engine is checked on the golden frames, and
    all take turns at the clock; those that pass are packed. ONNX Runtime in float is always among them. What is there is kept.

    With --device rtx4090, or another RTX card, compile with TensorRT-RTX for that card instead; no GPU is needed. Such an engine
    is not checked, and this machine never uses it.
    """
    from edgeseg.bundle import open_bundle
    from edgeseg.pipeline.build import build_bundle

    if limit is not None and data_root is None:
        raise click.UsageError("--limit is about the images of --data-root")
    opened = open_bundle(bundle)
    if device != "auto":
        if runtimes or threads or data_root or memory:
            raise click.UsageError(
                "--runtime, --threads, --data-root and --memory are about this machine; --device names another"
            )
        _build_for_card(opened, device, force, as_json)
        return
    with render.RichProgress() as progress:
        made = build_bundle(
            opened,
            runtimes=runtimes,
            threads=threads,
            data_root=data_root,
            limit=limit,
            memory=memory,
            force=force,
            progress=progress,
        )
    data = {"bundle": opened.path, "engines": [_document(one) for one in made]}

    def human() -> list[RenderableType]:
        isr = [level.isr for level in opened.manifest.levels]
        tables = [part for one in made for part in _shown(one, isr[one.engine.level])]
        return [*tables, f"next: edgeseg run {opened.path} --source VIDEO"]

    render.result(data, as_json, human)


def _build_for_card(bundle: Bundle, card: str, force: bool, as_json: bool) -> None:
    from edgeseg.engines.cross import build_for_card

    with render.RichProgress() as progress:
        made = build_for_card(bundle, card, force=force, progress=progress)
    engines = [{"built": one.built, "reason": one.reason, **one.engine.model_dump(mode="json")} for one in made]
    warning = f"NOT CHECKED: no golden frame ran on these engines, and nothing was timed: that needs the {card} itself"

    def human() -> str:
        lines = [
            f"level {one.engine.level} {one.engine.runtime} {one.engine.kind} for {card}: "
            f"{'compiled' if one.built else 'kept'} ({one.reason}), {render.size(one.engine.measurements['bytes'])}, "
            f"{render.duration(one.engine.measurements['compile_ms'] / 1000)}\n  {bundle.path / one.engine.files[0]}"
            for one in made
        ]
        version = made[0].engine.runtime_version
        return "\n".join([*lines, warning, f"next: on the {card}, open them with NVIDIA's TensorRT-RTX runtime {version}"])

    render.result({"bundle": bundle.path, "checked": False, "engines": engines}, as_json, human)


def _document(one: LevelBuild) -> dict[str, Any]:
    """The default engine of a level, and all that it was chosen from."""
    candidates = [candidate.model_dump(mode="json") for candidate in one.choice.candidates]
    return {"built": one.built, "reason": one.reason, **one.engine.model_dump(mode="json"), "candidates": candidates}


def _shown(one: LevelBuild, isr: str) -> list[RenderableType]:
    engine, candidates = one.engine, one.choice.candidates
    head = (
        f"level {engine.level} ({isr}): {engine.runtime} {engine.kind}, "
        f"{'built' if one.built else 'kept'} ({one.reason})\n{engine.device}, {engine.options['threads']} threads"
    )
    known = {name for candidate in candidates for name in candidate.measurements}
    extra = [name for name in _ON_REQUEST if name in known]
    columns = [
        "engine",
        "median ms",
        "p90 ms",
        "speed-up",
        "agreement",
        *(_ON_REQUEST[name] for name in extra),
        "size",
        "build",
        "",
    ]
    hints = dict.fromkeys(candidate.hint for candidate in candidates if candidate.hint)
    return [head, render.table("", columns, [_row(candidate, extra) for candidate in candidates]), *hints]


_ON_REQUEST = {"miou": "mIoU", "peak_memory_bytes": "memory"}
"""Figures that are there only where they were asked for, and their columns."""


def _row(candidate: CandidateEntry, extra: Sequence[str]) -> list[object]:
    figures = candidate.measurements
    agreement = figures.get("mask_agreement")

    def number(name: str, digits: int) -> str | None:
        return f"{figures[name]:.{digits}f}" if name in figures else None

    requested = {
        "miou": render.percent(figures.get("miou"), 2),
        "peak_memory_bytes": render.size(figures["peak_memory_bytes"]) if "peak_memory_bytes" in figures else None,
    }
    verdict = candidate.verdict
    return [
        f"{candidate.runtime} {candidate.kind}",
        number("median_ms", 1),
        number("p90_ms", 1),
        number("speedup", 2),
        render.percent(min(agreement.values()), 2) if agreement else None,
        *(requested[name] for name in extra),
        render.size(figures["bytes"]) if "bytes" in figures else None,
        render.duration(figures["compile_ms"] / 1000) if "compile_ms" in figures else None,
        candidate.reason if verdict == "passed" else f"{verdict}: {candidate.reason}" if candidate.reason else verdict,
    ]
