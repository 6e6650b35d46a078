"""`edgeseg run`: frames of sources through a bundle's engine into sinks, once or as a service."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseg.cli import render, run_report
from edgeseg.cli.run_options import run_options
from edgeseg.cli.run_settings import read_settings
from edgeseg.cli.termination import interrupted
from edgeseg.errors import EdgesegError, StreamError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeseg.contracts import FrameSource, Progress, Session
    from edgeseg.specs import LabelSpace
    from edgeseg.stream.config import Streams
    from edgeseg.stream.run.report import RunReport
    from edgeseg.stream.watch.alarms import RegionMonitor
    from edgeseg.stream.watch.service import JsonLog
    from edgeseg.stream.watch.status import Monitor, RunStatus


@click.command("run")
@run_options
@render.json_option
@click.pass_context
def run(context: click.Context, /, sheet_path: Path | None, as_json: bool, **_: object) -> None:
    """Segment the frames of sources, and say where the time went.

    Ctrl-C ends a run in good order: recordings are finished and the report is written. So do SIGTERM,
    with exit code 143, and SIGHUP, with 129. A sink whose reader goes away (--sink - into head) ends, and the
    others go on; where none is left, so does the run, with 141.
    """
    from edgeseg.stream.watch.service import JsonLog

    settings = read_settings(context)
    printing = [*(["--json"] if as_json else []), *_printing(settings, sheet_path)]
    if len(printing) > 1:
        raise click.UsageError(
            f"{' and '.join(printing)} both write to stdout; use --report FILE for the report"
        )
    log = JsonLog() if settings.log == "json" else None
    try:
        failures = _run(settings, sheet_path, as_json, log)
    except KeyboardInterrupt:
        if log is None:
            raise
        log.line("interrupted")  # and nothing else: who reads this log reads JSON
        context.exit(interrupted(context.obj))
    except EdgesegError as error:
        if log is None or as_json:
            raise
        log.line("error", "error", kind=type(error).__name__, message=str(error), hint=error.hint)
        context.exit(error.exit_code)
    for failure in failures:
        told = StreamError(f"{failure['what']}: {failure['error']}", hint=failure["hint"])
        if log:
            log.line("error", "error", message=str(told), hint=told.hint)
        else:
            render.error(told, as_json=False)
    if failures:
        context.exit(StreamError.exit_code)


def _run(
    settings: Streams, sheet_path: Path | None, as_json: bool, log: JsonLog | None
) -> Sequence[Mapping[str, str]]:
    """Everything between the settings and the report; returns what of the run failed, for the exit code."""
    from edgeseg.bundle import open_bundle
    from edgeseg.devices.local import clocks_here
    from edgeseg.images import encode_png
    from edgeseg.stream.run.options import Options
    from edgeseg.stream.run.report import Abandoned, Interrupted
    from edgeseg.stream.run.runner import run as run_stream
    from edgeseg.stream.sinks.contact_sheet import FrameSampler
    from edgeseg.stream.sinks.disk import prepare
    from edgeseg.stream.sinks.table import route_sinks
    from edgeseg.stream.sources.table import open_sources
    from edgeseg.stream.uris import redact
    from edgeseg.stream.watch.status import Monitor
    from edgeseg.text import json_document

    sources = open_sources([f"{one.name}={one.uri}" if one.name else one.uri for one in settings.sources])
    by_id = dict(zip((source.source_id for source in sources), settings.sources, strict=True))
    beside = [Path(path) for path in (settings.report, sheet_path) if path]
    uris = {source: one.uri for source, one in by_id.items()}
    outputs = route_sinks(settings.sinks, uris, opacity=settings.opacity, beside=beside)
    report_to, sheet_to = (prepare(Path(path)) if path else None for path in (settings.report, sheet_path))
    sampler = FrameSampler() if sheet_path else None
    sinks = [redact(uri) for uri in settings.sinks]

    def finish(report: RunReport) -> None:
        data: dict[str, Any] = {
            "bundle": settings.bundle,
            "precision": program.precision,
            "threads": settings.threads,
            "sinks": sinks,
        }
        data |= {"clocks": clocks_here(), **report.to_json()}
        if sheet_to and sampler and report.frames:
            sheet_to.write(encode_png(sampler.sheet(labels, settings.opacity)))
        if report_to:
            report_to.write(json_document(render.plain(data)))
        if log:
            log.line("report", report=render.plain(data))
        if not _printing(settings, sheet_path) and (as_json or not log):
            render.result(data, as_json, lambda: run_report.summary(report, sinks))

    opened = open_bundle(Path(settings.bundle))
    with ExitStack() as stack:
        sessions, governor = _sessions(settings, opened, stack)
        program = sessions[min(sessions)].program
        labels = program.labels
        regions = _regions(by_id, labels)
        progress = log or stack.enter_context(render.RichProgress())
        _tell_settings(opened, settings, progress)
        monitor = Monitor()
        stack.callback(monitor.events.close)
        monitor.events.subscribe(
            log.event if log else run_report.teller(progress, lambda: any(one.is_live for one in sources))
        )
        if settings.web:
            height, width = program.image.size_hw
            about = {"bundle": Path(settings.bundle).name, "model": program.arch, "size": f"{width}x{height}"}
            page, url = _serve(settings, labels, monitor, about, sources, stack)
            outputs = {**outputs, "": [*outputs.get("", []), page]}
            progress.message(f"live page: {url}")
        stack.enter_context(_heartbeat(monitor))
        try:
            report = run_stream(
                sessions,
                sources,
                outputs,
                Options(
                    limit=settings.limit,
                    governor=governor,
                    level=settings.level,
                    policy={source: one.mailbox for source, one in by_id.items()},
                    patience=settings.patience.build(),
                    regions=regions,
                    on_result=sampler,
                    progress=progress,
                    monitor=monitor,
                ),
            )
        except (Interrupted, Abandoned) as ended:
            finish(ended.report)
            raise
    finish(report)
    return report.failures


def _printing(settings: Streams, sheet_path: Path | None) -> list[str]:
    """The options that send something of their own to stdout, where the summary would stand."""
    from edgeseg.files import is_stdout

    given = [("--sink", uri.partition("#")[0]) for uri in settings.sinks if "://" not in uri]
    given += [("--report", settings.report or ""), ("--sheet", str(sheet_path or ""))]
    return [f"{option} {name}" for option, name in given if name and is_stdout(Path(name))]


def _sessions(settings: Streams, opened: Any, stack: ExitStack) -> tuple[dict[int, Session], Any]:
    """The sessions that the run may use, by level, and who chooses among them."""
    from edgeseg.engines.open import open_session
    from edgeseg.pipeline.run import open_governed
    from edgeseg.stream.run.governor import Target

    level, threads, precision = settings.level, settings.threads, settings.precision
    if not (settings.deadline_ms or settings.target_fps):
        return {
            level: stack.enter_context(
                open_session(opened, level=level, threads=threads, precision=precision)
            )
        }, None
    target = (
        Target("deadline", settings.deadline_ms)
        if settings.deadline_ms
        else Target.fps(settings.target_fps or 0.0)
    )
    sessions, governor = stack.enter_context(
        open_governed(opened, target, first=level, threads=threads, precision=precision)
    )
    return dict(sessions), governor


def _tell_settings(opened: Any, settings: Streams, progress: Progress) -> None:
    """Say where the machine is set otherwise than when its engine was timed: a governor goes by those
    times.
    """
    from edgeseg.devices.local import timed_otherwise
    from edgeseg.engines.open import find_engine
    from edgeseg.text import quoted

    engine = find_engine(opened, settings.level, precision=settings.precision)
    if told := timed_otherwise(engine.clocks):
        progress.message(
            f"{engine.runtime} {engine.kind}: {told}; to time it anew: edgeseg build {quoted(opened.path)}"
            " --force"
        )


def _regions(by_id: Mapping[str, Any], labels: LabelSpace) -> dict[str, RegionMonitor]:
    from edgeseg.stream.watch.alarms import RegionMonitor

    return {
        source: RegionMonitor(
            [region.build() for region in one.regions],
            [threshold.build(region.name) for region in one.regions for threshold in region.thresholds],
            labels,
        )
        for source, one in by_id.items()
        if one.regions
    }


def _serve(
    settings: Streams,
    labels: LabelSpace,
    monitor: Monitor,
    about: dict[str, Any],
    sources: Sequence[FrameSource],
    stack: ExitStack,
) -> tuple[Any, str]:
    """Start the live page; returns its sink and its address."""
    from edgeseg.devices.power import PowerMeter
    from edgeseg.stream.web.page import LivePage
    from edgeseg.stream.web.server import LiveServer, parse_address

    web = settings.web
    if web is None:
        raise ValueError("no live page is wanted")
    about["regions"] = {
        source.source_id: [
            {"name": region.name, "points": region.points, "pixels": region.in_pixels}
            for region in (section.build() for section in one.regions)
        ]
        for source, one in zip(sources, settings.sources, strict=True)
        if one.regions
    }
    page = LivePage(labels)
    server = LiveServer(
        parse_address(web.listen), page, monitor, token=web.token, about=about, power=PowerMeter().read
    )
    stack.enter_context(server)
    return page, server.url


def _heartbeat(monitor: Monitor) -> Any:
    """Ready, status and watchdog messages for systemd; nothing happens where it did not start us."""
    from edgeseg.stream.watch.service import Heartbeat, is_progressing

    seen: list[RunStatus | None] = [None]

    def alive() -> bool:
        before, seen[0] = seen[0], monitor.snapshot()
        return is_progressing(before, seen[0])

    def line() -> str:
        status = seen[0]
        if status is None:
            return "waiting for the first frame"
        running = sum(source.state == "RUNNING" for source in status.sources)
        return (
            f"{status.fps:.1f} frames/s, {running} of {len(status.sources)} sources run, level {status.level}"
        )

    return Heartbeat(alive, line)
