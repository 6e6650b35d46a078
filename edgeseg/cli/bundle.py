"""edgeseg bundle show | verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.manifest import Manifest


@click.group()
def bundle() -> None:
    """Look into a bundle, and check it."""


@bundle.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@render.json_option
def show(path: Path, as_json: bool) -> None:
    """Show what BUNDLE holds: programs, engines and their figures."""
    from edgeseg.bundle import open_bundle

    opened = open_bundle(path)
    manifest = opened.manifest
    render.result({"path": opened.path, **manifest.model_dump(mode="json")}, as_json, lambda: _shown(opened.path, manifest))


@bundle.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@click.option("--run", is_flag=True, help="Also run this device's engine on the golden frames.")
@click.option("--threads", type=click.IntRange(1), help="With --run; default: as the engine was built.")
@render.json_option
def verify(path: Path, run: bool, threads: int | None, as_json: bool) -> None:
    """Check every file of BUNDLE against its hash; with --run also what its engine gives."""
    from edgeseg.bundle import open_bundle

    opened = open_bundle(path)
    found = opened.verify(run, threads)
    data = {"path": opened.path, "ok": True, "files": found.files, "bytes": found.bytes, "unlisted": found.unlisted}
    data |= {"mask_agreement": found.agreement, "min_mask_agreement": found.min_agreement}

    def human() -> list[RenderableType]:
        parts: list[RenderableType] = [f"{opened.path}: {found.files} files intact, {render.size(found.bytes)}"]
        parts += [f"not in the manifest, and never read: {name}" for name in found.unlisted]
        rows = [(engine, frame, share) for engine, frames in found.agreement.items() for frame, share in frames.items()]
        if rows:
            title = f"golden frames: mask agreement, at least {render.percent(found.min_agreement)} wanted"
            shown = [(engine, frame, render.percent(share, 2)) for engine, frame, share in rows]
            parts.append(render.table(title, ("engine", "frame", "agreement"), shown))
        return parts

    render.result(data, as_json, human)


def _shown(path: Path, manifest: Manifest) -> list[RenderableType]:
    total = sum(file.bytes for file in manifest.files.values())
    parts: list[RenderableType] = [
        f"{path}\n{manifest.name}, made {manifest.created} by edgeseg {manifest.tool_version}, "
        f"{len(manifest.files)} files, {render.size(total)}, {len(manifest.golden)} golden frames"
    ]
    programs: list[tuple[Any, ...]] = []
    for number, level in enumerate(manifest.levels):
        for precision, program in level.programs.items():
            spec, size = program.spec, sum(manifest.files[name].bytes for name in program.files)
            height, width = spec["image"]["size_hw"]
            stride = spec["mask_stride"]
            classes = len(spec["labels"]["names"])
            programs.append(
                (number, level.isr, precision, spec["arch"], f"{width}x{height}", f"1/{stride}", classes, render.size(size))
            )
    columns = ("level", "isr", "precision", "model", "image", "mask", "classes", "size")
    parts.append(render.table("programs", columns, programs))
    engines = [
        (
            engine.level,
            f"{engine.runtime} {engine.runtime_version}",
            engine.precision,
            engine.options.get("threads"),
            render.duration(engine.measurements["median_ms"] / 1000) if "median_ms" in engine.measurements else None,
            render.duration(engine.measurements["p90_ms"] / 1000) if "p90_ms" in engine.measurements else None,
            engine.device,
        )
        for engine in manifest.engines
    ]
    if engines:
        parts.append(render.table("engines", ("level", "runtime", "precision", "threads", "median", "p90", "device"), engines))
    else:
        parts.append(f"no engine yet: edgeseg build {path}")
    return parts
