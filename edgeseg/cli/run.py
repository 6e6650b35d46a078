"""`edgeseg run`: frames of a source through a bundle's engine into sinks."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from edgeseg.contracts import Session
    from edgeseg.specs import Precision
    from edgeseg.stream.report import RunReport


_SWITCHES_SHOWN = 12
_POSITIVE = click.FloatRange(min=0, min_open=True)


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """click's range lets nan pass."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", context, parameter)
    return value


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--source", required=True, metavar="URI", help="clip.mp4, frames/, frames/*.png or synthetic://640x480@30?frames=300."
)
@click.option(
    "--sink", "sinks", multiple=True, metavar="URI", help="out.mp4, masks/, results.ndjson, - (stdout) or null:. Repeatable."
)
@click.option(
    "--level",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Program level of the bundle; 0 is the most exact. With a deadline or a rate: the most exact that may be used.",
)
@click.option("--precision", type=click.Choice(["float", "fp16", "int8"]), help="Default: whatever a build found fastest.")
@click.option(
    "--deadline-ms",
    type=_POSITIVE,
    callback=_finite,
    metavar="MS",
    help="Move between the bundle's levels so that a frame's latency, from the frame in hand to its mask "
    "(resize + infer + postprocess, waiting in queues left out), stays within MS.",
)
@click.option(
    "--target-fps",
    type=_POSITIVE,
    callback=_finite,
    metavar="FPS",
    help="Move between the bundle's levels so that the engine keeps up with FPS frames/s: its time per frame stays within "
    "1000/FPS ms. Stages overlap; where reading or writing is slower, no level can help.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of the engine; those that it was measured with unless given."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N frames.")
@click.option(
    "--opacity", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Share of the class colour in overlays."
)
@click.option(
    "--report", "report_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the end report here as JSON."
)
@click.option(
    "--contact-sheet",
    "sheet_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write overlays of 12 frames here as PNG.",
)
@render.json_option
def run(
    bundle: Path,
    source: str,
    sinks: tuple[str, ...],
    level: int,
    precision: Precision | None,
    deadline_ms: float | None,
    target_fps: float | None,
    threads: int | None,
    limit: int | None,
    opacity: float,
    report_path: Path | None,
    sheet_path: Path | None,
    as_json: bool,
) -> None:
    """Segment every frame of a source, and say where the time went.

    Ctrl-C ends a run in good order: recordings are finished and the report is written.
    """
    from edgeseg.bundle import open_bundle
    from edgeseg.images import encode_png
    from edgeseg.stream.files import prepare, write_whole
    from edgeseg.stream.governor import Governor, Target
    from edgeseg.stream.levels import open_governed
    from edgeseg.stream.report import Interrupted
    from edgeseg.stream.runner import run as run_stream
    from edgeseg.stream.samples import FrameSampler
    from edgeseg.stream.sinks import open_sinks
    from edgeseg.stream.sources import open_source

    on_stdout = "-" in sinks
    if as_json and on_stdout:
        raise click.UsageError("--json and --sink - both write to stdout; use --report FILE for the report")
    if deadline_ms and target_fps:
        raise click.UsageError("--deadline-ms and --target-fps are two targets; give one of them")
    target = Target("deadline", deadline_ms) if deadline_ms else Target.fps(target_fps) if target_fps else None
    frames, outputs = open_source(source), open_sinks(sinks, source_uri=source, opacity=opacity)
    for path in (report_path, sheet_path):
        if path is not None:
            prepare(path)
    sampler = FrameSampler() if sheet_path else None

    def finish(report: RunReport) -> None:
        data = {"bundle": bundle, "precision": program.precision, "threads": threads, "sinks": sinks, **report.to_json()}
        if sheet_path and sampler:
            write_whole(sheet_path, encode_png(sampler.sheet(program.labels, opacity)))
        if report_path:
            write_whole(report_path, (json.dumps(render.plain(data), indent=2) + "\n").encode())
        if not on_stdout:
            render.result(data, as_json, lambda: _summary(report, sinks))

    opened = open_bundle(bundle)
    with ExitStack() as stack:
        sessions: dict[int, Session]
        governor: Governor | None = None
        if target:
            governed = open_governed(opened, target, first=level, threads=threads, precision=precision)
            sessions, governor = stack.enter_context(governed)
        else:
            sessions = {level: stack.enter_context(opened.session(level=level, threads=threads, precision=precision))}
        program = sessions[level].program
        progress = stack.enter_context(render.RichProgress())
        try:
            report = run_stream(sessions, frames, outputs, limit=limit, governor=governor, on_frame=sampler, progress=progress)
        except Interrupted as interruption:
            finish(interruption.report)
            raise
    finish(report)


def _summary(report: RunReport, sinks: tuple[str, ...]) -> list[RenderableType]:
    """The end report for people."""
    height, width = report.size_hw
    frames = f"{report.frames} frames" + (
        f" of {report.frames_expected}" if report.interrupted and report.frames_expected else ""
    )
    lines = [
        f"{report.source}: {frames} of {width}x{height} in {render.duration(report.wall_s)}, {report.fps:.1f} fps",
        f"bottleneck: {report.bottleneck}",
    ]
    if report.governor:
        limit = f"{report.governor['limit_ms']:.4g} ms"
        time = {"deadline": "latency", "fps": "inference"}[report.governor["target"]]
        missed = render.percent(report.governor["over_limit"])
        lines.append(f"{time} over {limit}: {missed} of the frames; {report.governor['switch_count']} switches of level")
    if sinks:
        lines.append(f"written: {', '.join(sinks)}")
    stages: list[tuple[Any, ...]] = [
        (name, *_figures(stage), render.percent(stage["busy"], 0)) for name, stage in report.stages.items()
    ]
    classes = sorted(report.class_share.items(), key=lambda item: -item[1])
    return [
        "\n".join(lines),
        render.table(
            "Time per frame",
            ("stage", "mean ms", "p50 ms", "p90 ms", "p99 ms", "busy"),
            [*stages, ("latency", *_figures(report.latency), ""), ("frame age", *_figures(report.frame_age), "")],
        ),
        *(_governed(report.governor) if report.governor else ()),
        render.table("Classes", ("class", "share"), [(name, render.percent(share)) for name, share in classes if share]),
    ]


def _governed(governor: Mapping[str, Any]) -> Sequence[RenderableType]:
    """How the frames went over the levels, and the last switches."""
    levels = [(level["level"], level["isr"], render.percent(level["share"]), *_figures(level)) for level in governor["levels"]]
    switches = [
        (
            render.duration(switch["at_s"]),
            switch["frame"],
            f"{switch['from_level']} -> {switch['to_level']}",
            switch["reason"],
            switch["p90_ms"],
            switch["expected_ms"],
        )
        for switch in governor["switches"][-_SWITCHES_SHOWN:]
    ]
    parts = [render.table("Levels", ("level", "isr", "frames", "mean ms", "p50 ms", "p90 ms", "p99 ms"), levels)]
    if switches:
        shown = f", the last {len(switches)}" if len(switches) < governor["switch_count"] else ""
        parts.append(render.table(f"Switches{shown}", ("at", "frame", "levels", "reason", "p90 ms", "expected ms"), switches))
    return parts


def _figures(timings: Any) -> tuple[Any, ...]:
    return tuple(timings[key] for key in ("mean_ms", "p50_ms", "p90_ms", "p99_ms"))
