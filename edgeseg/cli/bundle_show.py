"""What `edgeseg bundle show` tells: where a bundle is from, its levels, programs and engines, and who timed
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgeseg.cli import render
from edgeseg.specs import Form, canonical_form
from edgeseg.text import quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.bundle import Bundle
    from edgeseg.bundle.manifest import EngineEntry

_FLOATS_SHOWN = 2
_IN_KIND = ("precision_hint", "provider", "dla_core")
_HASH = 12
"""Digits of a hash that are shown; --json has all."""


def document(bundle: Bundle) -> dict[str, Any]:
    """The manifest, with what the packed reports and this machine add to it."""
    data = {"path": bundle.path, **bundle.manifest.model_dump(mode="json")}
    data["levels"] = [{**level, **more} for level, more in zip(data["levels"], figures(bundle), strict=True)]
    data["made_from"] = bundle.report("export") if "export" in bundle.manifest.reports else None
    data["min_mask_agreement"] = bundle.recipe().gate.min_mask_agreement
    return data


def human(bundle: Bundle) -> list[RenderableType]:
    known = figures(bundle)
    return [
        _head(bundle),
        _levels(bundle, known),
        *_scales(known),
        *_programs(bundle),
        *_int8(bundle),
        *_engines(bundle),
    ]


def figures(bundle: Bundle) -> list[dict[str, Any]]:
    """What is known of each level, None where it is not: from the search that chose it, and from this
    device's engine.
    """
    from edgeseg.devices.machine import detect
    from edgeseg.devices.probe import place

    searched = bundle.report("isr")["levels"] if "isr" in bundle.manifest.reports else []
    by_plan, quantized = {row["plan"]: row for row in searched}, _quantization(bundle)
    found = []
    for number, level in enumerate(bundle.manifest.levels):
        row, engine, int8 = by_plan.get(level.isr, {}), _engine_here(bundle, number), quantized.get(number)
        timed = engine is not None and engine.measured_on in ("", place(detect()))
        found.append(
            {
                "miou": row.get("miou"),
                "miou_precision": row.get("precision"),
                "macs": row.get("macs"),
                "runtime": engine and engine.runtime,
                "precision": engine and engine.precision,
                "kind": engine and engine.kind,
                "median_ms": engine.measurements.get("median_ms") if engine and timed else None,
                "int8_scales": int8 and _found_at(int8),
                "int8": int8 and _summary(int8),
            }
        )
    return found


def _engine_here(bundle: Bundle, level: int) -> EngineEntry | None:
    from edgeseg.engines.open import find_engine
    from edgeseg.errors import BundleError, Unsupported

    try:
        return find_engine(bundle, level)
    except (BundleError, Unsupported):
        return None


def _quantization(bundle: Bundle) -> dict[int, dict[str, Any]]:
    """Level -> what its quantized checkpoint says of itself, where the bundle tells."""
    told = bundle.report("quantization")["levels"] if "quantization" in bundle.manifest.reports else []
    return dict(enumerate(told))


def _found_at(level: Mapping[str, Any]) -> str:
    """Where the activation scales of a level's INT8 program come from."""
    calibration = level.get("calibration", {})
    plans = calibration.get("isr", [level["calibrated_at"]])
    if level["isr"] not in plans:
        return f"those of {level['calibrated_at']}"
    if len(plans) > 1:
        return f"one set, calibrated at {len(plans)} plans"
    return f"its own: {calibration['why']}" if "why" in calibration else "calibrated at its plan"


def _summary(level: Mapping[str, Any]) -> dict[str, Any]:
    """A level's quantization without the ranges of every layer."""
    calibration, covered = level.get("calibration", {}), level["coverage"]
    layers = [layer for layer in covered.get("layers", []) if layer["precision"] == "float"]
    return {
        "checkpoint_sha256": level.get("sha256"),
        "mac_share": covered["share"],
        "macs": covered.get("macs"),
        "float_layers": sorted(layers, key=lambda layer: -layer["macs"]),
        "calibration": {
            name: calibration.get(name) for name in ("set", "set_sha256", "images", "method", "percentile")
        },
    }


def _head(bundle: Bundle) -> str:
    manifest = bundle.manifest
    total, images = (
        sum(file.bytes for file in manifest.files.values()),
        {frame.image for frame in manifest.golden},
    )
    lines = [
        f"{bundle.path}",
        (
            f"{manifest.name}, made {manifest.created} by edgeseg {manifest.tool_version},"
            f" {len(manifest.files)} files, {render.size(total)}"
        ),
        (
            f"recipe {manifest.recipe_digest[:_HASH]}; golden images: {len(images)}, on which engines agree"
            f" to {render.percent(bundle.recipe().gate.min_mask_agreement)} or more"
        ),
    ]
    spec = next(iter(manifest.levels[0].programs.values())).spec
    (height, width), classes, layout = (
        spec["image"]["size_hw"],
        len(spec["labels"]["names"]),
        spec["image"]["layout"],
    )
    mean, std = (" ".join(f"{value:g}" for value in spec["image"][name]) for name in ("mean_rgb", "std_rgb"))
    lines += [
        (
            f"{spec['arch']}: RGB bytes, {layout}, {width}x{height} -> {classes} classes at"
            f" 1/{spec['mask_stride']}"
        ),
        f"frames are resized (bilinear), and normalised inside (mean {mean}, std {std})",
    ]
    if "export" in manifest.reports:
        made = bundle.report("export")
        libraries = ", ".join(f"{name} {version}" for name, version in made.get("libraries", {}).items())
        told = (
            f"checkpoint {made['checkpoint_sha256'][:_HASH]}" if "checkpoint_sha256" in made else "",
            f"weights stored as {made['weights']}" if "weights" in made else "",
            f"exported with {libraries}" if libraries else "",
        )
        lines.append("; ".join(filter(None, told)))
    return "\n".join(filter(None, lines))


def _levels(bundle: Bundle, known: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            number,
            level.isr,
            render.percent(one["miou"], 2) + (" INT8" if one["miou_precision"] == "int8" else ""),
            f"{one['macs'] / 1e9:.2f}" if one["macs"] else None,
            f"{one['median_ms']:.1f}" if one["median_ms"] else None,
            f"{one['runtime']} {one['kind']}" if one["runtime"] else None,
        )
        for number, (level, one) in enumerate(zip(bundle.manifest.levels, known, strict=True))
    ]
    return render.table("levels", ("level", "isr", "mIoU", "GMACs", "ms here", "by"), rows)


def _scales(known: list[dict[str, Any]]) -> list[str]:
    told = [
        f"level {n}, INT8 activation scales: {one['int8_scales']}"
        for n, one in enumerate(known)
        if one["int8_scales"]
    ]
    return told if len(told) > 1 else []


def _programs(bundle: Bundle) -> list[RenderableType]:
    from edgeseg.bundle.graph_files import opset

    manifest, quantized = bundle.manifest, _quantization(bundle)
    rows: list[tuple[Any, ...]] = []
    blobs: dict[str, int] = {}
    for number, level in enumerate(manifest.levels):
        for precision, program in level.programs.items():
            covered = quantized[number]["coverage"] if precision == "int8" and number in quantized else None
            for form, (graph, *shared) in {canonical_form(precision): program.files, **program.forms}.items():
                blobs |= {name: manifest.files[name].bytes for name in shared}
                file, version = manifest.files[graph], program.opset or opset(bundle.file(graph).read_bytes())
                share = render.percent(covered and _share(covered, form))
                rows.append(
                    (number, precision, share, form, version, file.sha256[:_HASH], render.size(file.bytes))
                )
    columns = ("level", "precision", "MACs\nin INT8", "laid out for", "opset", "sha256", "size")
    told = [f"{name}: {render.size(size)} of weights, shared by the programs" for name, size in blobs.items()]
    return [render.table("programs", columns, rows), *told]


def _share(coverage: Mapping[str, Any], form: str) -> float | None:
    """Of a program's multiply-adds, those in INT8; None where a bundle does not say."""
    if form != Form.QDQ_HALF:
        return float(coverage["share"])
    return coverage["share"] - coverage["depthwise_share"] if "depthwise_share" in coverage else None


def _int8(bundle: Bundle) -> Iterator[RenderableType]:
    """How each level's INT8 program came about, and which layers of it are float, and why."""
    for number, level in _quantization(bundle).items():
        summary = _summary(level)
        calibration = {name: value for name, value in summary["calibration"].items() if value is not None}
        if "set" in calibration:
            digest = calibration.get("set_sha256", "")[:_HASH]
            method = " ".join(
                str(calibration[name]) for name in ("method", "percentile") if name in calibration
            )
            images = f"{calibration.get('images')} images of {calibration['set']} ({digest})"
            yield f"level {number} INT8: calibrated on {images}, by {method}"
        by_reason: dict[str, list[dict[str, Any]]] = {}
        for layer in summary["float_layers"]:
            by_reason.setdefault(layer["reason"], []).append(layer)
        for reason, layers in by_reason.items():
            share = render.percent(sum(layer["macs"] for layer in layers) / (summary["macs"] or 1), 2)
            names = ", ".join(layer["name"] for layer in layers[:_FLOATS_SHOWN]) + (
                ", ..." if len(layers) > _FLOATS_SHOWN else ""
            )
            count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
            yield f"  float: {count} with {share} of the multiply-adds: {reason} ({names})"


def _engines(bundle: Bundle) -> Iterator[RenderableType]:
    manifest = bundle.manifest
    if not manifest.engines:
        yield f"no engine yet: edgeseg build {quoted(bundle.path)}"
        return
    defaults = {choice.engine for choice in manifest.choices}
    machines = list(dict.fromkeys(_machine(engine) for engine in manifest.engines))
    rows = [
        (
            engine.level,
            f"{engine.runtime} {engine.kind}",
            "compiled only" if not engine.checked else "default" if engine.key in defaults else "",
            *(
                f"{engine.measurements[q]:.1f}" if q in engine.measurements else None
                for q in ("median_ms", "p90_ms", "p99_ms")
            ),
            render.percent(engine.measurements.get("miou"), 2),
            machines.index(_machine(engine)) + 1,
        )
        for engine in manifest.engines
    ]
    drawn = render.table(
        "engines", ("level", "engine", "", "median\nms", "p90\nms", "p99\nms", "mIoU", "on"), rows
    )
    drawn.collapse_padding = True  # 80 columns are usual where there is no desktop
    yield drawn
    yield from (
        f"level {engine.level} {engine.runtime} {engine.kind}: {_details(engine)}"
        for engine in manifest.engines
    )
    if any(not engine.checked for engine in manifest.engines):
        yield (
            "compiled only: nobody has run it, on golden frames or at all; on the machine that it is for,"
            " edgeseg build does"
        )
    yield from (f"machine {number}: {machine}" for number, machine in enumerate(machines, start=1))
    if any(engine.clocks for engine in manifest.engines):
        yield "times compare only where power mode and clocks are the same"


def _machine(engine: EngineEntry) -> str:
    """Where an engine was built and timed, and how that machine was set."""
    from edgeseg.devices.clocks import told

    place = engine.device.removesuffix(f" with {engine.runtime} {engine.runtime_version}")
    facts = ", ".join(_fact(name, value) for name, value in engine.built_with.items())
    settings = ", ".join(f"{told(name)} {value}" for name, value in engine.clocks.items())
    lines = (
        place,
        f"built with {facts}" if facts else "",
        f"timed on {engine.measured_on}" if engine.measured_on else "",
        f"set to {settings}" if settings else "",
    )
    return "\n  ".join(filter(None, lines))


def _details(engine: EngineEntry) -> str:
    """Release of the runtime, options, and what the table has no room for."""
    options = ", ".join(f"{name} {value}" for name, value in engine.options.items() if name not in _IN_KIND)
    figures = engine.measurements
    took = f" in {render.duration(figures['compile_ms'] / 1000)}" if "compile_ms" in figures else ""
    drawn = ", ".join(f"{rail} {watts:.1f} W" for rail, watts in figures.get("power_w", {}).items())
    return "; ".join(
        filter(
            None, (f"release {engine.runtime_version}", f"built {engine.created[:10]}{took}", options, drawn)
        )
    )


def _fact(name: str, value: str) -> str:
    what = name.removesuffix("_gb").replace("_", " ")
    return f"{what} {value}{' GB' if name.endswith('_gb') else ''}"
