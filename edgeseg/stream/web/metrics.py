"""A run's figures for Prometheus, and its health in one word. Pure functions of a status.

Source: Prometheus text exposition format 0.0.4.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from edgeseg import __version__
from edgeseg.stream.watch.status import RunStatus, SinkState, SourceState

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]
_WELL = ("RUNNING", "ENDED")
_FIGURES = {"p50_ms": "0.5", "p90_ms": "0.9", "p99_ms": "0.99"}


def health(status: RunStatus | None) -> Literal["starting", "ok", "degraded", "failing"]:
    """ "ok": every source runs (or came to its end) and every sink writes. "failing": no source does. Else
    "degraded".
    """
    if status is None or not status.sources:
        return "starting"
    states = [source.state for source in status.sources]
    if all(state == "CONNECTING" for state in states):
        return "starting"
    if not any(state in _WELL for state in states):
        return "failing"
    whole = all(state in _WELL for state in states) and not any(
        sink.state == "FAILED" for sink in status.sinks
    )
    return "ok" if whole else "degraded"


def exposition(
    status: RunStatus | None, *, power_w: Mapping[str, float], viewers: int, about: Mapping[str, Any]
) -> str:
    """The answer to `GET /metrics`. Times are in seconds, as Prometheus wants them.

    Args:
        status: None before the run has begun: then only the process tells about itself.
        power_w: watts by rail.
        viewers: pages that are open.
        about: texts that name what runs.
    """
    lines: list[str] = []
    for name, kind, text, samples in _families(status, power_w, viewers, about):
        rows = [f"{sample}{_braces(labels)} {_number(value)}" for sample, labels, value in samples]
        if rows:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows]
    return "\n".join(lines) + "\n"


def _families(
    status: RunStatus | None, power_w: Mapping[str, float], viewers: int, about: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    def plain(
        name: str, kind: str, text: str, samples: Iterable[tuple[Labels, float]]
    ) -> tuple[str, str, str, Iterable[Sample]]:
        return name, kind, text, [(name, labels, value) for labels, value in samples]

    texts = {key: value for key, value in about.items() if isinstance(value, str)}
    yield plain("edgeseg_info", "gauge", "What runs.", [({"version": __version__, **texts}, 1)])
    yield plain("edgeseg_web_viewers", "gauge", "Live pages that are open.", [({}, viewers)])
    yield plain(
        "edgeseg_power_watts",
        "gauge",
        "Power by rail.",
        [({"rail": rail}, watts) for rail, watts in power_w.items()],
    )
    yield from (plain(*family) for family in _process())
    if status is None:
        return
    yield plain("edgeseg_uptime_seconds", "gauge", "Since the run began.", [({}, status.at_s)])
    yield plain("edgeseg_frames_total", "counter", "Frames segmented and written.", [({}, status.frames)])
    yield plain(
        "edgeseg_frames_per_second",
        "gauge",
        "The same per second, over the last seconds.",
        [({}, status.fps)],
    )
    yield plain(
        "edgeseg_level", "gauge", "Program level in force; 0 is the most exact.", [({}, status.level)]
    )
    yield _summary(
        "edgeseg_latency_seconds", "Resize, inference and postprocessing of a frame.", [({}, status.latency)]
    )
    stages = [({"stage": name}, stage) for name, stage in status.stages.items()]
    yield _summary("edgeseg_stage_seconds", "Time of a frame in each stage.", stages)
    busy = [({"stage": name}, stage["busy"]) for name, stage in status.stages.items()]
    yield plain("edgeseg_stage_busy_ratio", "gauge", "Share of the time that a stage was at work.", busy)
    yield from _of_sources(status, plain)
    sinks = status.sinks
    labels = [{"sink": one.sink, "source": one.source} for one in sinks]
    yield plain(
        "edgeseg_sink_frames_total",
        "counter",
        "Frames written.",
        _zip(labels, (one.written for one in sinks)),
    )
    yield plain(
        "edgeseg_sink_missed_total",
        "counter",
        "Frames not written.",
        _zip(labels, (one.missed for one in sinks)),
    )
    states = [
        ({**label, "state": state}, one.state == state)
        for label, one in zip(labels, sinks, strict=True)
        for state in _SINK
    ]
    yield plain("edgeseg_sink_state", "gauge", "1 for the state that a sink is in.", states)


_SOURCE: tuple[str, ...] = get_args(SourceState)
_SINK: tuple[str, ...] = get_args(SinkState)


def _of_sources(status: RunStatus, plain: Any) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    sources = status.sources
    labels = [{"source": one.source} for one in sources]
    states = [
        ({"source": one.source, "state": state}, one.state == state) for one in sources for state in _SOURCE
    ]
    dropped = [
        ({"source": one.source, "reason": why}, count)
        for one in sources
        for why, count in one.dropped.items()
    ]
    yield plain("edgeseg_source_state", "gauge", "1 for the state that a source is in.", states)
    yield plain(
        "edgeseg_source_frames_total",
        "counter",
        "Frames that came.",
        _zip(labels, (one.frames for one in sources)),
    )
    yield plain(
        "edgeseg_source_delivered_total",
        "counter",
        "Frames segmented.",
        _zip(labels, (one.delivered for one in sources)),
    )
    yield plain("edgeseg_source_dropped_total", "counter", "Frames dropped, by reason.", dropped)
    yield plain(
        "edgeseg_source_reconnects_total",
        "counter",
        "Connections anew.",
        _zip(labels, (one.reconnects for one in sources)),
    )
    ages = [({"source": one.source}, one.age_ms) for one in sources]
    yield _summary("edgeseg_frame_age_seconds", "From a frame's arrival to its mask.", ages)


def _process() -> Iterator[tuple[str, str, str, list[tuple[Labels, float]]]]:
    """The process's own figures, under the names that Prometheus's client libraries use; nothing where /proc
    is not there.
    """
    used = os.times()
    yield "process_cpu_seconds_total", "counter", "User and system CPU time.", [({}, used.user + used.system)]
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        handles = len(os.listdir("/proc/self/fd"))
    except OSError:
        return
    yield (
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
        [({}, pages * os.sysconf("SC_PAGE_SIZE"))],
    )
    yield "process_open_fds", "gauge", "Open file descriptors.", [({}, handles)]


def _summary(
    name: str, text: str, rows: Iterable[tuple[Labels, Mapping[str, Any]]]
) -> tuple[str, str, str, Iterable[Sample]]:
    samples: list[Sample] = []
    for labels, figures in rows:
        if not figures.get("count"):
            continue
        samples += [
            (name, {**labels, "quantile": share}, figures[key] / 1e3) for key, share in _FIGURES.items()
        ]
        samples.append((f"{name}_sum", labels, figures["mean_ms"] * figures["count"] / 1e3))
        samples.append((f"{name}_count", labels, figures["count"]))
    return name, "summary", text, samples


def _zip(labels: Iterable[Labels], values: Iterable[float]) -> list[tuple[Labels, float]]:
    return list(zip(labels, values, strict=True))


def _braces(labels: Labels) -> str:
    """`{source="gate"}`; backslash, quote and line end are escaped."""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    inner = ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
