"""`edgeseg run`: frames of sources through a bundle's engine into sinks, once or as a service."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli import render, run_report
from edgeseg.cli.run_options import run_options
from edgeseg.cli.run_settings import read_settings
from edgeseg.cli.termination import interrupted
from edgeseg.errors import EdgesegError, StreamError

if TYPE_CHECKING:
    from edgeseg.pipeline.run import StreamsReport
    from edgeseg.stream.config import Streams


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
    from edgeseg.pipeline.run import run_streams
    from edgeseg.stream.run.options import Options
    from edgeseg.stream.watch.service import JsonLog

    settings = read_settings(context)
    on_stdout = _on_stdout(settings, sheet_path)
    if len(both := [*(["--json"] if as_json else []), *on_stdout]) > 1:
        raise click.UsageError(f"{' and '.join(both)} both write to stdout; use --report FILE for the report")
    log = JsonLog() if settings.log == "json" else None
    reports: list[StreamsReport] = []
    try:
        try:
            with nullcontext(log) if log else render.RichProgress() as progress:
                options = Options(progress=progress)
                options.monitor.events.subscribe(
                    log.event if log else run_report.teller(progress, options.monitor)
                )
                run_streams(settings, sheet=sheet_path, on_report=reports.append, options=options)
        finally:
            for report in reports:
                document = report.to_json()
                if log:
                    log.line("report", report=document)
                if not on_stdout and (as_json or not log):
                    render.result(document, as_json, partial(run_report.summary, report.run, report.sinks))
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
    for failure in reports[0].run.failures:
        told = StreamError(f"{failure['what']}: {failure['error']}", hint=failure["hint"])
        if log:
            log.line("error", "error", message=str(told), hint=told.hint)
        else:
            render.error(told, as_json=False)
    if reports[0].run.failures:
        context.exit(StreamError.exit_code)


def _on_stdout(settings: Streams, sheet_path: Path | None) -> list[str]:
    """The options that send something of their own to stdout, where the summary would stand."""
    from edgeseg.files import is_stdout

    given = [("--sink", uri.partition("#")[0]) for uri in settings.sinks if "://" not in uri]
    given += [("--report", settings.report or ""), ("--sheet", str(sheet_path or ""))]
    return [f"{option} {name}" for option, name in given if name and is_stdout(Path(name))]
