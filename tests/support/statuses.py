"""What a run may look like at a moment, for those who show it."""

from __future__ import annotations

from collections.abc import Mapping

from edgeseg.stream.watch.stats import Timings
from edgeseg.stream.watch.status import RunStatus, SinkState, SinkStatus, SourceState, SourceStatus


def timings(*durations_ms: float) -> dict[str, float | None]:
    """The figures of some durations."""
    counted = Timings()
    for duration_ms in durations_ms:
        counted.add(duration_ms)
    return counted.to_json()


def source_status(
    source: str = "gate",
    state: SourceState = "RUNNING",
    *,
    frames: int = 0,
    delivered: int = 0,
    dropped: Mapping[str, int] | None = None,
    reconnects: int = 0,
    last_error: str | None = None,
) -> SourceStatus:
    return SourceStatus(
        source=source,
        is_live=True,
        state=state,
        since_s=1.0,
        reason="",
        frames=frames,
        delivered=delivered,
        dropped=dropped or {},
        connects=1 + reconnects,
        reconnects=reconnects,
        reconnect_ms=timings(),
        age_ms=timings(20.0, 30.0),
        size_hw=(48, 64),
        fps=30.0,
        measured_fps=29.5,
        last_error=last_error,
        policy="keeps the newest 1 and drops older frames",
    )


def sink_status(
    sink: str = "out.mp4", state: SinkState = "OPEN", written: int = 5, missed: int = 0
) -> SinkStatus:
    return SinkStatus(sink, "", state, written, missed, "no space left" if state == "FAILED" else None)


def run_status(*sources: SourceStatus, frames: int = 0, sinks: tuple[SinkStatus, ...] = ()) -> RunStatus:
    return RunStatus(
        at_s=12.5,
        frames=frames,
        fps=29.5,
        level=1,
        level_reason="level 0 takes 40 ms",
        stages={"infer": {**timings(10.0, 30.0), "busy": 0.6}, "write": {**timings(), "busy": 0.0}},
        latency=timings(15.0),
        frame_age=timings(20.0),
        sources=sources,
        sinks=sinks,
    )
