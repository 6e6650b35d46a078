"""What a run measured, as data: at its end, and at any moment of it."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.stream.watch.stats import merged
from edgeseg.stream.watch.status import RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeseg.stream.run.capture import Capture
    from edgeseg.stream.run.lanes import Lanes
    from edgeseg.stream.run.levels import Levels
    from edgeseg.stream.run.outputs import Outputs
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


def make_report(
    lanes: Lanes,
    levels: Levels,
    captures: Sequence[Capture],
    outputs: Outputs,
    events: EventBus,
    *,
    size_hw: tuple[int, int] | None,
    expected: int | None,
    interrupted: bool,
    wall_s: float,
) -> RunReport:
    """The figures of a run that ended."""
    program = levels.program
    stages = _stages(lanes, captures, wall_s)
    statuses = [capture.status() for capture in captures]
    failed = [
        (capture.source_id, capture.error) for capture in captures if capture.error
    ] + outputs.failures()
    return RunReport(
        source=", ".join(capture.source_id for capture in captures),
        source_fps=captures[0].fps,
        size_hw=size_hw or (0, 0),
        program={
            "arch": program.arch,
            "precision": program.precision,
            "isr": str(program.isr),
            "size_hw": program.image.size_hw,
            "mask_stride": program.mask_stride,
        },
        level=min(levels.sessions),
        frames=lanes.frames,
        frames_expected=expected,
        frames_dropped=sum(capture.frames for capture in captures) - lanes.frames,
        interrupted=interrupted,
        wall_s=wall_s,
        fps=lanes.frames / wall_s,
        stages=stages,
        latency=lanes.latency.to_json(),
        frame_age=lanes.age.to_json(),
        governor=levels.report(),
        bottleneck=_bottleneck(stages, paced=any(status.is_live and status.dropped for status in statuses)),
        class_share=_class_share(lanes, levels),
        host=describe_host(),
        sources=tuple(status.to_json() for status in statuses),
        sinks=tuple(status.to_json() for status in outputs.status()),
        events={"counts": dict(events.counts), "recent": [event.to_json() for event in events.recent()]},
        failures=tuple({"what": what, "error": str(error), "hint": error.hint} for what, error in failed),
    )


def make_status(
    lanes: Lanes, levels: Levels, captures: Sequence[Capture], outputs: Outputs, events: EventBus
) -> RunStatus:
    """How a run is doing. From any thread."""
    now_s = time.monotonic()
    recent_s = [at_s for at_s in tuple(lanes.finished_s) if now_s - at_s < 10]
    return RunStatus(
        at_s=round(now_s - events.start_s, 3),
        frames=lanes.frames,
        fps=round((len(recent_s) - 1) / (now_s - recent_s[0]), 2) if len(recent_s) > 1 else 0.0,
        level=levels.choice.level,
        level_reason=levels.choice.reason,
        stages=_stages(lanes, captures, now_s - lanes.start_s),
        latency=lanes.latency.to_json(),
        frame_age=lanes.age.to_json(),
        sources=tuple(capture.status() for capture in captures),
        sinks=outputs.status(),
        class_share=_class_share(lanes, levels),
    )


def _stages(lanes: Lanes, captures: Sequence[Capture], wall_s: float) -> dict[str, dict[str, Any]]:
    """Figures of every stage, in the order of the work."""
    parts = {"read": (merged(capture.read for capture in captures), len(captures))}
    parts |= {name: (timings, 1) for name, timings in lanes.stages.items()}
    return {
        name: {**timings.to_json(), "busy": min(1.0, timings.total_ms / (1e3 * wall_s * threads))}
        for name, (timings, threads) in parts.items()
    }


def _bottleneck(stages: Mapping[str, Mapping[str, Any]], paced: bool) -> str:
    """The busiest stage. `paced`: frames of a camera were dropped, so that it cannot be the camera."""
    return max(
        (stage for stage in stages if not (paced and stage == "read")),
        key=lambda stage: stages[stage]["busy"],
    )


def _class_share(lanes: Lanes, levels: Levels) -> dict[str, float]:
    share = np.array(lanes.share_sum) / max(1, lanes.frames)
    return {name: float(share[index]) for index, name in enumerate(levels.program.labels.names)}


def describe_host() -> dict[str, Any]:
    """Machine, system, Python, and the CPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": cpus,
    }
