"""The figures of a run: the lanes write them, status and report read them."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import numpy.typing as npt

from edgeseg.stream.watch.stats import Timings

STAGES = ("read", "resize", "infer", "postprocess", "write")
_RATE_FRAMES = 64


class Tally:
    """What a run has done so far. One thread writes each figure; any may read.

    Attributes:
        start_s, finished_s: `time.monotonic()` when the clock started, and of the last frames written.
        wall_s: length of the run in seconds, once it is over.
        size_hw: height and width of the first frame; (0, 0) before it.
        stages: times of each stage but "read", which the captures keep.
        latency, age: of each frame, without and with waiting.
        frames: frames written.
        share_sum: sum over them of the share of pixels of each mask value, shape (256,).
    """

    def __init__(self) -> None:
        self.start_s, self.wall_s = time.monotonic(), 0.0
        self.size_hw = (0, 0)
        self.stages = {stage: Timings() for stage in STAGES if stage != "read"}
        self.latency, self.age = Timings(), Timings()
        self.frames = 0
        self.share_sum: npt.NDArray[np.float64] = np.zeros(256)
        self.finished_s: deque[float] = deque(maxlen=_RATE_FRAMES)

    def written(self, share: npt.NDArray[np.float64]) -> None:
        """Count a frame that the sinks have."""
        self.share_sum += share
        self.frames += 1
        self.finished_s.append(time.monotonic())

    def recent_fps(self, now_s: float) -> float:
        """Frames a second over the last ten seconds, 64 frames at most; 0 before the second."""
        recent_s = [at_s for at_s in tuple(self.finished_s) if now_s - at_s < 10]
        return (len(recent_s) - 1) / (now_s - recent_s[0]) if len(recent_s) > 1 else 0.0
