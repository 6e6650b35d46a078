"""What a run measured, as data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RunReport:
    """The figures of one run. All stages count from the moment the first frame was there and the engine was warm.

    Attributes:
        source: where the frames came from.
        source_fps: its nominal rate; 0 for pictures without one.
        size_hw: height and width of the first frame in pixels.
        program: arch, precision, ISR plan, input size and mask stride of what was run; with a governor, of the most exact level.
        level: the bundle's program level; with a governor, the most exact that was allowed.
        frames: frames read, segmented and written.
        frames_expected: what the source had announced, cut to the limit; None where it could not say.
        frames_dropped: frames read and not written; 0 for files unless the run was interrupted.
        interrupted: True where Ctrl-C or the stop event ended the run.
        wall_s, fps: from the first frame to the last write, and frames over that time.
        stages: by name (read, resize, infer, postprocess, write): count, mean, p50, p90, p99 and max in ms, and `busy`,
            the share of the wall time that the stage worked.
        latency: resize, infer and postprocess of a frame, without waiting: the same figures in ms.
        frame_age: from the hand-over by the source to the finished mask, waiting included: the same figures in ms.
        bottleneck: the stage that holds the others up: the greatest of the busiest thread.
        class_share: mean share of a frame's pixels, 0..1, by class name.
        governor: None without one. `target` ("deadline" or "fps") and `limit_ms` (see `stream.governor.Target`); `over_limit`,
            the share of frames that took longer; `levels`: each one's ISR plan, `share` of the frames, and figures of the time
            that is limited; `switch_count`, and the last 1000 `switches`: `at_s` from the start of the run, `frame` (index of the
            one whose time decided), `from_level`, `to_level`, `reason`, `p90_ms` before and `expected_ms` after.
        host: machine, system, CPUs that this process may use.
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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run in good order: the sinks are closed and `report` covers what they hold."""

    def __init__(self, report: RunReport) -> None:
        super().__init__("interrupted")
        self.report = report


def describe_host() -> dict[str, Any]:
    """Machine, system, Python, and the CPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": cpus,
    }
