"""What a run measured, as data: at its end, and at any moment of it."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgeseg.results import class_shares
from edgeseg.stream.watch.stats import merged
from edgeseg.stream.watch.status import RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeseg.stream.run.capture import Capture
    from edgeseg.stream.run.levels import Levels
    from edgeseg.stream.run.outputs import Outputs
    from edgeseg.stream.run.tally import Tally
    from edgeseg.stream.watch.events import EventBus


@dataclass(frozen=True, slots=True)
class RunReport:
    """The figures of one run. All stages count from the moment the first frame was there and the engine was
    warm.

    Attributes:
        source: where the frames came from; several are joined by ", ".
        source_fps: nominal rate of the first; 0 for pictures without one.
        size_hw: height and width of the first frame in pixels; (0, 0) where the run was stopped before there
            was one.
        program: arch, precision, ISR plan, input size and mask stride of what was run; with a governor, of
            the most exact level.
        level: the bundle's program level; with a governor, the most exact that was allowed.
        frames: frames read, segmented and written.
        frames_expected: what the source had announced, cut to the limit; None where it could not say.
        frames_dropped: frames read and not written; 0 for files unless the run was interrupted. `sources`
            says why.
        interrupted: True where Ctrl-C or the stop event ended the run.
        wall_s, fps: from the first frame to the last write, and frames over that time.
        stages: by name (read, resize, infer, postprocess, write): count, mean, p50, p90, p99 and max in ms,
            and `busy`, the share of the wall time that the stage worked (of `read`: the mean over the
            sources, a camera's pace included).
        latency: resize, infer and postprocess of a frame, without waiting: the same figures in ms.
        frame_age: from the hand-over by the source to the finished mask, waiting included: the same figures
            in ms.
        bottleneck: the stage that holds the others up, the busiest. A camera's pace counts only where nothing
            was dropped.
        class_share: mean share of a frame's pixels, 0..1, by class name.
        governor: None without one. `target` ("deadline" or "fps") and `limit_ms` (see
            `stream.governor.Target`); `over_limit`, the share of frames that took longer; `levels`: each
            one's ISR plan, `share` of the frames, and figures of the time that is limited; `switch_count`,
            and the last 1000 `switches`: `at_s` from the start of the run, `frame` (index of the one whose
            time decided), `from_level`, `to_level`, `reason`, `p90_ms` before and `expected_ms` after.
        host: machine, system, CPUs that this process may use.
        sources, sinks: one `stream.status.SourceStatus` or `SinkStatus` each, as data.
        events: `counts` by kind, and the last 200 as `recent` (see `stream.events.Event`).
        failures: sources and sinks that did not do all that they should: `what` failed, `error`, `hint`.
            Empty where all is well.
    """

    source: str
    source_fps: float
    size_hw: tuple[int, int]
    program: Mapping[str, Any]
    level: int
    frames: int
    frames_expected: int | None
    frames_dropped: int
    interrupted: bool
    wall_s: float
    fps: float
    stages: Mapping[str, Mapping[str, Any]]
    latency: Mapping[str, Any]
    frame_age: Mapping[str, Any]
    bottleneck: str
    class_share: Mapping[str, float]
    governor: Mapping[str, Any] | None
    host: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...] = ()
    sinks: tuple[Mapping[str, Any], ...] = ()
    events: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Mapping[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run in good order: the sinks are closed and `report` covers what they hold."""

    def __init__(self, report: RunReport) -> None:
        super().__init__("interrupted")
        self.report = report


class Abandoned(BrokenPipeError):
    """All sinks of a run were pipes, and their readers went away: it ended in good order; `report` covers
    what was written.
    """

    def __init__(self, report: RunReport) -> None:
        super().__init__(errno.EPIPE, os.strerror(errno.EPIPE))
        self.report = report


@dataclass(frozen=True, slots=True)
class Parts:
    """The moving parts of a run, as its status and report see them."""

    tally: Tally
    levels: Levels
    captures: Sequence[Capture]
    outputs: Outputs
    events: EventBus


def make_report(parts: Parts, *, expected: int | None, interrupted: bool) -> RunReport:
    """The figures of a run that ended."""
    tally, captures, program = parts.tally, parts.captures, parts.levels.program
    stages = _stages(parts, tally.wall_s)
    statuses = [capture.status() for capture in captures]
    failed = [
        *((capture.source_id, capture.error) for capture in captures if capture.error),
        *parts.outputs.failures(),
    ]
    return RunReport(
        source=", ".join(capture.source_id for capture in captures),
        source_fps=captures[0].fps,
        size_hw=tally.size_hw,
        program={
            "arch": program.arch,
            "precision": program.precision,
            "isr": str(program.isr),
            "size_hw": program.image.size_hw,
            "mask_stride": program.mask_stride,
        },
        level=min(parts.levels.sessions),
        frames=tally.frames,
        frames_expected=expected,
        frames_dropped=sum(capture.frames for capture in captures) - tally.frames,
        interrupted=interrupted,
        wall_s=tally.wall_s,
        fps=tally.frames / tally.wall_s,
        stages=stages,
        latency=tally.latency.to_json(),
        frame_age=tally.age.to_json(),
        governor=parts.levels.report(),
        bottleneck=_bottleneck(stages, paced=any(status.is_live and status.dropped for status in statuses)),
        class_share=_class_share(parts),
        host=describe_host(),
        sources=tuple(status.to_json() for status in statuses),
        sinks=tuple(status.to_json() for status in parts.outputs.status()),
        events={
            "counts": dict(parts.events.counts),
            "recent": [event.to_json() for event in parts.events.recent()],
        },
        failures=tuple({"what": what, "error": str(error), "hint": error.hint} for what, error in failed),
    )


def make_status(parts: Parts) -> RunStatus:
    """How a run is doing. From any thread."""
    now_s, tally, choice = time.monotonic(), parts.tally, parts.levels.choice
    return RunStatus(
        at_s=round(now_s - parts.events.start_s, 3),
        frames=tally.frames,
        fps=round(tally.recent_fps(now_s), 2),
        level=choice.level,
        level_reason=choice.reason,
        stages=_stages(parts, now_s - tally.start_s),
        latency=tally.latency.to_json(),
        frame_age=tally.age.to_json(),
        sources=tuple(capture.status() for capture in parts.captures),
        sinks=parts.outputs.status(),
        class_share=_class_share(parts),
    )


def _stages(parts: Parts, wall_s: float) -> dict[str, dict[str, Any]]:
    """Figures of every stage, in the order of the work."""
    timed = {"read": (merged(capture.read for capture in parts.captures), len(parts.captures))}
    timed |= {name: (timings, 1) for name, timings in parts.tally.stages.items()}
    return {
        name: {**timings.to_json(), "busy": min(1.0, timings.total_ms / (1e3 * wall_s * threads))}
        for name, (timings, threads) in timed.items()
    }


def _bottleneck(stages: Mapping[str, Mapping[str, Any]], paced: bool) -> str:
    """The busiest stage. `paced`: frames of a camera were dropped, so that it cannot be the camera."""
    return max(
        (stage for stage in stages if not (paced and stage == "read")),
        key=lambda stage: stages[stage]["busy"],
    )


def _class_share(parts: Parts) -> dict[str, float]:
    return class_shares(parts.tally.share_sum / max(1, parts.tally.frames), parts.levels.program.labels)


def describe_host() -> dict[str, Any]:
    """Machine, system, Python, and the CPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": cpus,
    }
