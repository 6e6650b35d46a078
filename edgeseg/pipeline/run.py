"""`edgeseg run` as a call: streams from their settings to their report, on a bundle's engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle, open_bundle
from edgeseg.contracts import FrameSource, Progress, Session
from edgeseg.devices.local import clocks_here, timed_otherwise
from edgeseg.devices.power import PowerMeter
from edgeseg.engines.open import find_engine, open_engine, open_session
from edgeseg.errors import BundleError
from edgeseg.images import encode_png
from edgeseg.results import Result
from edgeseg.specs import LabelSpace, Precision
from edgeseg.stream.config import Source, Streams
from edgeseg.stream.run.channel import Channel, FirstError, received, send
from edgeseg.stream.run.governor import Governor, Target
from edgeseg.stream.run.levels import check_alike
from edgeseg.stream.run.options import OnResult, Options
from edgeseg.stream.run.outputs import AnySink
from edgeseg.stream.run.report import Abandoned, Interrupted, RunReport
from edgeseg.stream.run.runner import run
from edgeseg.stream.sinks.contact_sheet import FrameSampler
from edgeseg.stream.sinks.disk import prepare
from edgeseg.stream.sinks.table import route_sinks
from edgeseg.stream.sources.table import check_names, open_source
from edgeseg.stream.uris import redact
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.service import run_heartbeat
from edgeseg.stream.watch.status import Monitor
from edgeseg.text import json_document, plain, quoted


@dataclass(frozen=True, slots=True)
class StreamsReport:
    """What `run_streams` did.

    Attributes:
        sinks: where results went, without credentials.
        clocks: how this machine was set.
        run: the figures.
    """

    bundle: str
    precision: Precision
    threads: int | None
    sinks: tuple[str, ...]
    clocks: Mapping[str, Any] | None
    run: RunReport

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the figures lie beside the rest."""
        head = {"bundle": self.bundle, "precision": self.precision, "threads": self.threads}
        made: dict[str, Any] = plain(
            {**head, "sinks": self.sinks, "clocks": self.clocks, **self.run.to_json()}
        )
        return made


def run_streams(
    settings: Streams,
    sinks: Sequence[AnySink] = (),
    *,
    sheet: Path | None = None,
    on_report: Callable[[StreamsReport], object] = lambda report: None,
    options: Options | None = None,
) -> StreamsReport:
    """Segment streams as their settings say: open the engine, the sources, the sinks and the live page, run,
    and write the report.

    Args:
        sinks: further ones, of every source; a function is a sink.
        sheet: where to write a contact sheet of the frames, as PNG.
        on_report: called with the report also where Ctrl-C ended the run, or the readers of its pipes did.
        options: `progress`, `stop`, `on_result` and `monitor` of the run; the rest of it is in the settings.
    Raises:
        BundleError: there is no engine for this device, or no level to move to.
        EdgesegError: as `stream.run.runner.run`, and for sources and sinks of no known form.
        Interrupted, Abandoned: see there.
    """
    options = options or Options()
    with ExitStack() as stack:
        stack.callback(options.monitor.events.close)
        sources = [open_source(one.uri, one.name, one.connection()) for one in settings.sources]
        check_names(sources)
        by_id = dict(zip((source.source_id for source in sources), settings.sources, strict=True))
        beside = [Path(path) for path in (settings.report, sheet) if path]
        uris = {source: one.uri for source, one in by_id.items()}
        made = route_sinks(settings.sinks, uris, opacity=settings.opacity, beside=beside)
        routed: dict[str, list[AnySink]] = {source: [*group] for source, group in made.items()}
        routed[""] = [*routed.get("", []), *sinks]
        report_to, sheet_to = (prepare(Path(path)) if path else None for path in (settings.report, sheet))
        sampler = FrameSampler() if sheet_to else None
        bundle = open_bundle(Path(settings.bundle))
        sessions, governor = _sessions(settings, bundle, stack)
        program = sessions[min(sessions)].program

        def finish(run_report: RunReport) -> StreamsReport:
            names = tuple(redact(uri) for uri in settings.sinks)
            report = StreamsReport(
                settings.bundle, program.precision, settings.threads, names, clocks_here(), run_report
            )
            if sheet_to and sampler and run_report.frames:
                sheet_to.write(encode_png(sampler.sheet(program.labels, settings.opacity)))
            if report_to:
                report_to.write(json_document(report.to_json()))
            on_report(report)
            return report

        _tell_settings(bundle, settings, options.progress)
        monitor = options.monitor
        if settings.web:
            height, width = program.image.size_hw
            about = {"bundle": bundle.path.name, "model": program.arch, "size": f"{width}x{height}"}
            page, url = _serve(settings, program.labels, monitor, about, sources, stack)
            routed[""].append(page)
            options.progress.message(f"live page: {url}")
        stack.enter_context(run_heartbeat(monitor))
        wanted = replace(
            options,
            limit=settings.limit,
            governor=governor,
            level=settings.level,
            policy={source: one.mailbox for source, one in by_id.items()},
            patience=settings.patience.build(),
            regions=_regions(by_id, program.labels),
            on_result=_both(sampler, options.on_result),
        )
        try:
            return finish(run(sessions, sources, routed, wanted))
        except (Interrupted, Abandoned) as ended:
            finish(ended.report)
            raise


@contextmanager
def stream_results(settings: Streams, *, queue: int = 2) -> Iterator[Iterator[Result]]:
    """Run streams beside the caller, who takes the results one by one.

    A file waits for the caller; of a live source the newest frames are kept. Leaving the block ends the run.

    Args:
        queue: results that wait for the caller, at most.
    Raises:
        EdgesegError: as `run_streams`, where the results are taken.
    """
    options, results, failure = Options(), Channel[Result](queue), FirstError()

    def deliver(result: Result) -> None:
        if not send(results, result):
            options.stop.set()

    def work() -> None:
        try:
            failure.attempt(lambda: run_streams(settings, options=replace(options, on_result=deliver)))
        finally:
            results.close()

    def taken() -> Iterator[Result]:
        yield from received(results)
        failure.reraise()

    thread = threading.Thread(target=work, name="edgeseg-stream", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        options.stop.set()
        results.cancel()
        thread.join()


def _both(first: OnResult | None, second: OnResult | None) -> OnResult | None:
    """Two listeners as one."""
    if first is None or second is None:
        return first or second

    def both(result: Result) -> None:
        first(result)
        second(result)

    return both


def _sessions(
    settings: Streams, bundle: Bundle, stack: ExitStack
) -> tuple[dict[int, Session], Governor | None]:
    """The sessions that the run may use, by level, and who chooses among them."""
    level, threads, precision = settings.level, settings.threads, settings.precision
    if settings.deadline_ms:
        target = Target("deadline", settings.deadline_ms)
    elif settings.target_fps:
        target = Target.fps(settings.target_fps)
    else:
        session = open_session(bundle, level=level, threads=threads, precision=precision)
        return {level: stack.enter_context(session)}, None
    return stack.enter_context(
        open_governed(bundle, target, first=level, threads=threads, precision=precision)
    )


def _tell_settings(bundle: Bundle, settings: Streams, progress: Progress) -> None:
    """Say where the machine is set otherwise than when its engine was timed: a governor goes by those
    times.
    """
    engine = find_engine(bundle, settings.level, precision=settings.precision)
    if told := timed_otherwise(engine.clocks):
        progress.message(
            f"{engine.runtime} {engine.kind}: {told}; to time it anew: edgeseg build {quoted(bundle.path)}"
            " --force"
        )


def _regions(by_id: Mapping[str, Source], labels: LabelSpace) -> dict[str, RegionMonitor]:
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
) -> tuple[AnySink, str]:
    """Start the live page; returns its sink and its address."""
    from edgeseg.stream.web.page import LivePage
    from edgeseg.stream.web.server import LiveServer, parse_address

    if settings.web is None:
        raise ValueError("no live page is wanted")
    about["regions"] = {
        source.source_id: [
            {"name": region.name, "points": region.points, "pixels": region.in_pixels}
            for region in (section.build() for section in one.regions)
        ]
        for source, one in zip(sources, settings.sources, strict=True)
        if one.regions
    }
    page, web = LivePage(labels), settings.web
    server = LiveServer(
        parse_address(web.listen), page, monitor, token=web.token, about=about, power=PowerMeter().read
    )
    stack.enter_context(server)
    return page, server.url


@contextmanager
def open_governed(
    bundle: Bundle,
    target: Target,
    *,
    first: int = 0,
    threads: int | None = None,
    precision: Precision | None = None,
) -> Iterator[tuple[dict[int, Session], Governor]]:
    """Open this device's engines of all levels from `first` on, and a governor that knows their measured
    times.

    Args:
        first: the most exact level that may be used.
        threads: overrides the number that each engine was measured with.
        precision: engines of this precision only; None: whatever a build chose for each level.
    Raises:
        BundleError: there is no level but `first` from there on, one has no engine for this device, or they
            differ in image or classes.
    """
    count = len(bundle.manifest.levels)
    if first == count - 1:
        told = f"level {first} is the last of {count}" if first else "it has only one"
        raise BundleError(
            f"{bundle.path}: to hold a deadline or a rate there must be a faster level to move to, and"
            f" {told}",
            hint=(
                "edgeseg isr RECIPE --levels 3 keeps several plans; edgeseg export RECIPE --levels PLAN.json"
                " packs them"
            ),
        )
    # Where there is no level `first` either, `find_engine` says so.
    entries = [
        find_engine(bundle, level, precision=precision) for level in range(first, max(count, first + 1))
    ]
    unmeasured = [entry.level for entry in entries if not entry.measurements.get("median_ms")]
    if unmeasured:
        raise BundleError(
            f"{bundle.path}: the engine of level {unmeasured[0]} was never timed",
            hint=f"edgeseg build {quoted(bundle.path)} --force",
        )
    measured_ms = [float(entry.measurements["median_ms"]) for entry in entries]
    with ExitStack() as stack:
        sessions = {
            entry.level: stack.enter_context(open_engine(bundle, entry, threads)) for entry in entries
        }
        check_alike(sessions)
        # Levels that may not be used count as slow as the first that may.
        yield sessions, Governor([measured_ms[0]] * first + measured_ms, target, first=first)
