"""How a run is told to people: what happens meanwhile, and the tables at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeseg.cli import render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.contracts import Progress
    from edgeseg.stream.run.report import RunReport
    from edgeseg.stream.watch.events import Event
    from edgeseg.stream.watch.status import Monitor

_SWITCHES_SHOWN = 12


def teller(progress: Progress, monitor: Monitor) -> Callable[[Event], None]:
    """Writes events of a run beside its bar. The states of files are not told: they are read, and end."""

    def any_live() -> bool:
        status = monitor.snapshot()
        return status is not None and any(source.is_live for source in status.sources)

    def tell(event: Event) -> None:
        if event.kind != "state" or any_live():
            state = f" {str(event.details['state']).lower()}" if "state" in event.details else ""
            who = f"{event.source}{state}: " if event.source else ""
            progress.message(who + event.reason.removeprefix(f"{event.source}: "))

    return tell


def summary(report: RunReport, sinks: Sequence[str]) -> list[RenderableType]:
    """The end report for people."""
    height, width = report.size_hw
    frames = f"{report.frames} frames" + (
        f" of {report.frames_expected}" if report.interrupted and report.frames_expected else ""
    )
    lines = [
        (
            f"{report.source}: {frames} of {width}x{height} in {render.duration(report.wall_s)},"
            f" {report.fps:.1f} fps"
        ),
        f"bottleneck: {report.bottleneck}",
    ]
    if report.governor:
        limit = f"{report.governor['limit_ms']:.4g} ms"
        time = {"deadline": "latency", "fps": "inference"}[report.governor["target"]]
        missed = render.percent(report.governor["over_limit"])
        lines.append(
            f"{time} over {limit}: {missed} of the frames; {report.governor['switch_count']} switches of"
            " level"
        )
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
            [
                *stages,
                ("latency", *_figures(report.latency), ""),
                ("frame age", *_figures(report.frame_age), ""),
            ],
        ),
        *_streams(report),
        *(_governed(report.governor) if report.governor else ()),
        render.table(
            "Classes", ("class", "share"), [(name, render.percent(share)) for name, share in classes if share]
        ),
    ]


def _streams(report: RunReport) -> Sequence[RenderableType]:
    """How each source did, where one is live or there are several; what failed among the sinks."""
    parts: list[RenderableType] = []
    if len(report.sources) > 1 or any(source["is_live"] for source in report.sources):
        rows = [
            (
                source["source"],
                source["state"].lower(),
                source["frames"],
                source["delivered"],
                ", ".join(f"{reason} {count}" for reason, count in source["dropped"].items()) or "0",
                source["reconnects"],
                source["age_ms"]["p50_ms"],
                source["age_ms"]["p99_ms"],
            )
            for source in report.sources
        ]
        columns = (
            "source",
            "ended as",
            "frames",
            "segmented",
            "dropped",
            "reconnects",
            "age p50 ms",
            "age p99 ms",
        )
        parts.append(render.table("Sources", columns, rows))
        parts.append("\n".join(f"{source['source']}: {source['policy']}" for source in report.sources))
    troubled = [sink for sink in report.sinks if sink["last_error"]]
    if troubled:
        failed = [
            (sink["sink"], sink["state"].lower(), sink["written"], sink["missed"], sink["last_error"])
            for sink in troubled
        ]
        parts.append(
            render.table("Sinks that failed", ("sink", "ended as", "written", "missed", "last error"), failed)
        )
    return parts


def _governed(governor: Mapping[str, Any]) -> Sequence[RenderableType]:
    """How the frames went over the levels, and the last switches."""
    levels = [
        (level["level"], level["isr"], render.percent(level["share"]), *_figures(level))
        for level in governor["levels"]
    ]
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
    parts = [
        render.table("Levels", ("level", "isr", "frames", "mean ms", "p50 ms", "p90 ms", "p99 ms"), levels)
    ]
    if switches:
        shown = f", the last {len(switches)}" if len(switches) < governor["switch_count"] else ""
        parts.append(
            render.table(
                f"Switches{shown}", ("at", "frame", "levels", "reason", "p90 ms", "expected ms"), switches
            )
        )
    return parts


def _figures(timings: Any) -> tuple[Any, ...]:
    return tuple(timings[key] for key in ("mean_ms", "p50_ms", "p90_ms", "p99_ms"))
