"""edgeseg bundle show | verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.bundle import Bundle
    from edgeseg.manifest import EngineEntry


@click.group()
def bundle() -> None:
    """Look into a bundle, and check it."""


@bundle.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE")
@render.json_option
def show(path: Path, as_json: bool) -> None:
    """Show what BUNDLE holds: ISR levels, programs, engines and their figures.

    A level's mIoU and multiply-adds are those of the search that chose it; its time is that of this device's engine.
    """
    from edgeseg.bundle import open_bundle

    opened = open_bundle(path)
    data = {"path": opened.path, **opened.manifest.model_dump(mode="json")}
    figures = _level_figures(opened)
    data["levels"] = [{**level, **more} for level, more in zip(data["levels"], figures, strict=True)]
    render.result(data, as_json, lambda: _shown(opened, figures))


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


def _level_figures(bundle: Bundle) -> list[dict[str, Any]]:
    """What is known of each level, None where it is not: from the search that chose it, and from this device's engine."""
    searched = bundle.report("isr")["levels"] if "isr" in bundle.manifest.reports else []
    by_plan = {row["plan"]: row for row in searched}
    figures, scales = [], _scales(bundle)
    for number, level in enumerate(bundle.manifest.levels):
        row, engine = by_plan.get(level.isr, {}), _engine_here(bundle, number)
        figures.append(
            {
                "miou": row.get("miou"),
                "miou_precision": row.get("precision"),
                "macs": row.get("macs"),
                "runtime": engine and engine.runtime,
                "precision": engine and engine.precision,
                "median_ms": engine and engine.measurements.get("median_ms"),
                "int8_scales": scales[number],
            }
        )
    return figures


def _engine_here(bundle: Bundle, level: int) -> EngineEntry | None:
    from edgeseg.errors import BundleError, Unsupported

    try:
        return bundle.find_engine(level)
    except (BundleError, Unsupported):
        return None


def _coverage(bundle: Bundle) -> dict[int, float]:
    """Level -> share of its INT8 program's multiply-adds that are in INT8, where the bundle says so."""
    if "quantization" not in bundle.manifest.reports:
        return {}
    return {number: level["coverage"]["share"] for number, level in enumerate(bundle.report("quantization")["levels"])}


def _scales(bundle: Bundle) -> list[str | None]:
    """Of each level, where the activation scales of its INT8 program come from; None where the bundle does not say."""
    told = bundle.report("quantization")["levels"] if "quantization" in bundle.manifest.reports else []
    return [_found_at(level) for level in told] or [None] * len(bundle.manifest.levels)


def _found_at(level: dict[str, Any]) -> str:
    calibration = level.get("calibration", {})
    plans = calibration.get("isr", [level["calibrated_at"]])
    if level["isr"] not in plans:
        return f"those of {level['calibrated_at']}"
    if len(plans) > 1:
        return f"one set, calibrated at {len(plans)} plans"
    return f"its own: {calibration['why']}" if "why" in calibration else "calibrated at its plan"


def _shown(bundle: Bundle, figures: list[dict[str, Any]]) -> list[RenderableType]:
    path, manifest = bundle.path, bundle.manifest
    total = sum(file.bytes for file in manifest.files.values())
    images = {frame.image for frame in manifest.golden}
    head = (
        f"{path}\n{manifest.name}, made {manifest.created} by edgeseg {manifest.tool_version}, "
        f"{len(manifest.files)} files, {render.size(total)}, {len(images)} golden images"
    )
    scales = [f"level {n}, INT8 activation scales: {one['int8_scales']}" for n, one in enumerate(figures) if one["int8_scales"]]
    return [head, _levels(bundle, figures), *(scales if len(scales) > 1 else []), *_programs(bundle), *_engines(bundle)]


def _levels(bundle: Bundle, figures: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            number,
            level.isr,
            render.percent(known["miou"], 2) + (" INT8" if known["miou_precision"] == "int8" else ""),
            f"{known['macs'] / 1e9:.2f}" if known["macs"] else None,
            f"{known['median_ms']:.1f}" if known["median_ms"] else None,
            f"{known['runtime']} {known['precision']}" if known["runtime"] else None,
        )
        for number, (level, known) in enumerate(zip(bundle.manifest.levels, figures, strict=True))
    ]
    return render.table("levels", ("level", "isr", "mIoU", "GMACs", "ms here", "by"), rows)


def _programs(bundle: Bundle) -> list[RenderableType]:
    from edgeseg.specs import canonical_form

    manifest, covered = bundle.manifest, _coverage(bundle)
    rows: list[tuple[Any, ...]] = []
    blobs: dict[str, int] = {}
    for number, level in enumerate(manifest.levels):
        for precision, program in level.programs.items():
            spec = program.spec
            (height, width), stride, classes = spec["image"]["size_hw"], spec["mask_stride"], len(spec["labels"]["names"])
            share = render.percent(covered.get(number) if precision == "int8" else None)
            for form, (graph, *shared) in {canonical_form(precision): program.files, **program.forms}.items():
                blobs |= {name: manifest.files[name].bytes for name in shared}
                size = render.size(manifest.files[graph].bytes)
                image, mask = f"{width}x{height}", f"1/{stride}"
                rows.append((number, precision, share, form, spec["arch"], image, mask, classes, size))
    columns = ("level", "precision", "MACs in INT8", "laid out for", "model", "image", "mask", "classes", "size")
    told = [f"{name}: {render.size(size)} of weights, shared by the programs" for name, size in blobs.items()]
    return [render.table("programs", columns, rows), *told]


def _engines(bundle: Bundle) -> list[RenderableType]:
    manifest = bundle.manifest
    if not manifest.engines:
        return [f"no engine yet: edgeseg build {bundle.path}"]
    defaults = {choice.engine for choice in manifest.choices}

    def time(engine: EngineEntry, name: str) -> str | None:
        return render.duration(engine.measurements[name] / 1000) if name in engine.measurements else None

    rows = [
        (
            engine.level,
            f"{engine.runtime} {engine.runtime_version}",
            engine.kind,
            "compiled only" if not engine.checked else "default" if engine.key in defaults else "",
            engine.options.get("threads"),
            time(engine, "median_ms"),
            time(engine, "p90_ms"),
            render.percent(engine.measurements.get("miou"), 2),
            engine.device,
        )
        for engine in manifest.engines
    ]
    columns = ("level", "runtime", "precision", "", "threads", "median", "p90", "mIoU", "device")
    told = "compiled only: for another machine; nobody has run it, on golden frames or at all"
    return [render.table("engines", columns, rows), *([told] if any(not engine.checked for engine in manifest.engines) else [])]
