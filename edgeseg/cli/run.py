"""`edgeseg run`: frames of a source through a bundle's engine into sinks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.stream.report import RunReport


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--source", required=True, metavar="URI", help="clip.mp4, frames/, frames/*.png or synthetic://640x480@30?frames=300."
)
@click.option(
    "--sink", "sinks", multiple=True, metavar="URI", help="out.mp4, masks/, results.ndjson, - (stdout) or null:. Repeatable."
)
@click.option(
    "--level", type=click.IntRange(min=0), default=0, show_default=True, help="Program level of the bundle; 0 is the most exact."
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
    from edgeseg.stream.report import Interrupted
    from edgeseg.stream.runner import run as run_stream
    from edgeseg.stream.samples import FrameSampler
    from edgeseg.stream.sinks import open_sinks
    from edgeseg.stream.sources import open_source

    on_stdout = "-" in sinks
    if as_json and on_stdout:
        raise click.UsageError("--json and --sink - both write to stdout; use --report FILE for the report")
    frames, outputs = open_source(source), open_sinks(sinks, source_uri=source, opacity=opacity)
    for path in (report_path, sheet_path):
        if path is not None:
            prepare(path)
    sampler = FrameSampler() if sheet_path else None

    def finish(report: RunReport) -> None:
        data = {"bundle": bundle, "threads": threads, "sinks": sinks, **report.to_json()}
        if sheet_path and sampler:
            write_whole(sheet_path, encode_png(sampler.sheet(labels, opacity)))
        if report_path:
            write_whole(report_path, (json.dumps(render.plain(data), indent=2) + "\n").encode())
        if not on_stdout:
            render.result(data, as_json, lambda: _summary(report, sinks))

    with open_bundle(bundle).session(level=level, threads=threads) as session, render.RichProgress() as progress:
        labels = session.program.labels
        try:
            report = run_stream(session, frames, outputs, limit=limit, level=level, on_frame=sampler, progress=progress)
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
    if sinks:
        lines.append(f"written: {', '.join(sinks)}")
    stages: list[tuple[Any, ...]] = [
        (*_figures(name, stage), render.percent(stage["busy"], 0)) for name, stage in report.stages.items()
    ]
    classes = sorted(report.class_share.items(), key=lambda item: -item[1])
    return [
        "\n".join(lines),
        render.table(
            "Time per frame",
            ("stage", "mean ms", "p50 ms", "p90 ms", "p99 ms", "busy"),
            [*stages, (*_figures("frame age", report.frame_age), "")],
        ),
        render.table("Classes", ("class", "share"), [(name, render.percent(share)) for name, share in classes if share]),
    ]


def _figures(name: str, timings: Any) -> tuple[Any, ...]:
    return name, *(timings[key] for key in ("mean_ms", "p50_ms", "p90_ms", "p99_ms"))
