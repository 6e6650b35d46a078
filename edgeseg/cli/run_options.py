"""The options of `edgeseg run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeseg.stream.sinks import table as sinks
from edgeseg.stream.sources import table as sources

_Function = TypeVar("_Function", bound=Callable[..., Any])
_POSITIVE = click.FloatRange(min=0, min_open=True)


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """click's range lets nan pass."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", context, parameter)
    return value


def _number(*names: str, metavar: str, help: str) -> Any:
    """An option that is a finite number above 0."""
    return click.option(*names, type=_POSITIVE, callback=_finite, metavar=metavar, help=help)


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("bundle", type=click.Path(path_type=Path), required=False),
    click.option(
        "--source",
        "sources",
        multiple=True,
        metavar="[NAME=]URI",
        help=f"One of: {', '.join(sources.examples())}. Repeatable; NAME is what results call it.",
    ),
    click.option(
        "--sink",
        "sinks",
        multiple=True,
        metavar="URI",
        help=(
            f"One of: {', '.join(sinks.examples())}. Repeatable; {{source}} stands for each source's name,"
            " and options follow a #: 'rec/{source}.mp4#segment_s=600&keep=10'."
        ),
    ),
    click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Take all of this from a streams.yaml.",
    ),
    click.option(
        "--level",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help=(
            "Program level of the bundle; 0 is the most exact. With a deadline or a rate: the most exact that"
            " may be used."
        ),
    ),
    click.option(
        "--precision",
        type=click.Choice(["float", "fp16", "int8"]),
        help="Default: whatever a build found fastest.",
    ),
    _number(
        "--deadline-ms",
        metavar="MS",
        help=(
            "Move between the bundle's levels so that a frame's latency, from the frame in hand to its mask "
            "(resize + infer + postprocess, waiting in queues left out), stays within MS."
        ),
    ),
    _number(
        "--target-fps",
        metavar="FPS",
        help=(
            "Move between the bundle's levels so that the engine keeps up with FPS frames/s: its time per"
            " frame stays within 1000/FPS ms. Stages overlap; where reading or writing is slower, no level"
            " can help."
        ),
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Threads of the engine; those that it was measured with unless given.",
    ),
    click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N frames of each source."
    ),
    click.option(
        "--drop",
        type=click.Choice(["newest", "oldest", "none"]),
        help=(
            "Frame to drop when a source's queue is full. Live sources drop the oldest, files none, unless"
            " given."
        ),
    ),
    click.option(
        "--queue",
        type=click.IntRange(min=1),
        metavar="N",
        help="Frames of a source that wait for the engine, at most.",
    ),
    _number(
        "--max-age-ms",
        metavar="MS",
        help="Drop frames that are older than MS when the engine could take them.",
    ),
    click.option("--tcp/--udp", "tcp", default=None, help="Transport of rtsp:// sources; TCP unless given."),
    _number(
        "--open-timeout",
        "open_timeout_s",
        metavar="S",
        help="Seconds from connecting to the first frame; 10 unless given.",
    ),
    _number(
        "--read-timeout",
        "read_timeout_s",
        metavar="S",
        help="Seconds of silence after which a live source is connected again; 5 unless given.",
    ),
    click.option(
        "--region",
        "regions",
        multiple=True,
        metavar="[SOURCE:]NAME[@WxH]=X,Y;X,Y;...",
        help=(
            "A polygon whose class shares are measured, of one source or of all. Numbers are shares of width"
            " and height (0.5, 50%) or pixels (640px, or whole numbers), of a picture of WxH or of the first"
            " one. Repeatable."
        ),
    ),
    click.option(
        "--threshold",
        "thresholds",
        multiple=True,
        metavar="[SOURCE:]NAME=REGION:CLASS>SHARE",
        help=(
            "An event when a share is passed: 'road blocked=lane:!road>35%/30%@2s' is raised over 35 % for"
            " 2 s."
        ),
    ),
    click.option(
        "--web",
        metavar="HOST:PORT",
        help="Serve the live page, /metrics and /healthz. Other than loopback addresses need a token.",
    ),
    click.option(
        "--web-token",
        envvar="EDGESEG_WEB_TOKEN",
        metavar="TOKEN",
        help="Token that visitors must know (or EDGESEG_WEB_TOKEN).",
    ),
    click.option(
        "--opacity",
        type=click.FloatRange(0, 1),
        default=0.5,
        show_default=True,
        help="Share of the class colour in overlays.",
    ),
    click.option(
        "--report",
        "report_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the end report here as JSON.",
    ),
    click.option(
        "--contact-sheet",
        "sheet_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write overlays of 12 frames here as PNG.",
    ),
    click.option("--log-json", is_flag=True, help="On stderr one JSON object a line, instead of text."),
)


def run_options(function: _Function) -> _Function:
    """Decorator: adds the argument BUNDLE and every option but --json, in the order of the help."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
