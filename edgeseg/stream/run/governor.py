"""Which ISR level a stream runs at, so that it holds its target: pure logic, without threads and without a
clock.

The levels of a bundle are one model at several costs, from most exact to fastest. The governor moves

- down (to a faster level) as soon as the 90th percentile of the last frames misses the limit, at once to the
  most exact level that is expected to hold it;
- up (a return) when a more exact level is expected to hold the limit with head-room to spare, and a stay has
  passed.

What a level is expected to take comes from the frames just seen: their inference time scaled by the ratio of
the levels' inference times, plus the rest of their time, which no level changes. The ratios start as the
engines were measured; each return that holds corrects them, though never beyond the measured ones, so that no
chance can make it too shy to return.

That it does not flap has three causes: the gap between "misses the limit" and "fits with head-room"; a
minimum stay at every level; and a stay that doubles with every return that failed. A load that has clearly
eased since then is tried again at once.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

TargetKind = Literal["deadline", "fps"]
Reason = Literal["late", "headroom"]

_PERCENTILE = 0.9
_LEAST_WINDOW = 10  # fewer frames have no 90th percentile
_TRIAL = 4.0
_EASED = 0.8


@dataclass(frozen=True, slots=True)
class Target:
    """What a stream has to hold: `limit_ms` for one of two times of a frame.

    - "deadline": the latency, from the frame in hand to its mask at the frame's size (resize, infer,
      postprocess), waiting in queues left out. It is the frame's age where the stream keeps up with a camera.
      A file is read as fast as its frames are taken, so the queues are always full, and age would measure
      them instead of the work.
    - "fps": the time of the inference alone. Stages overlap, so the slowest thread sets the rate, and a level
      changes only the engine's. Where reading or writing is slower than the rate, no level can hold it, and
      none is wasted on it.

    Raises:
        ValueError: the limit is not a positive, finite number.
    """

    kind: TargetKind
    limit_ms: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit_ms) and self.limit_ms > 0):
            raise ValueError(f"the limit of a frame's time is a positive number of ms, not {self.limit_ms}")

    @classmethod
    def fps(cls, frames_per_s: float) -> Target:
        """Keep up with a rate, from above 0 up."""
        return cls("fps", 1e3 / frames_per_s if frames_per_s else math.inf)


@dataclass(frozen=True, slots=True)
class Decision:
    """A switch of levels.

    Attributes:
        at_s: on the clock of `observe`.
        from_level, to_level: before and after.
        reason: "late": the limit was missed; "headroom": a more exact level is expected to fit.
        p90_ms: 90th percentile of the frames' time at `from_level`.
        expected_ms: the same, as expected at `to_level`.
    """

    at_s: float
    from_level: int
    to_level: int
    reason: Reason
    p90_ms: float
    expected_ms: float


class Governor:
    """Chooses the level of the next frames from the times of the last ones. Not thread-safe: one thread calls
    `observe`.

    Args:
        measured_ms: median inference time of each level of the bundle, from most exact to fastest; only their
            ratios count. A level that was measured slower than one before it counts as equally fast.
        target: what to hold.
        first: the most exact level that may be used; the stream starts there. At least one other must follow.
        window_frames: frames at the current level that the percentile is taken over, from 10 up. While the
            window fills, the frames that are still to come count as in time; head-room shows in a full window
            only.
        min_stay_s: no switch earlier than this after the last one (or the first frame).
        return_stay_s: no return to a more exact level earlier than this after the last switch. It doubles for
            a level with every return to it that failed: that had to be taken back within four times the stay
            waited for. It counts undoubled where the level is now expected to take less than 0.8 of what it
            was when the return failed.
        headroom: share of the limit that a more exact level must be expected to fit in, above 0 and below 1.

    Attributes:
        level: the level of the next frame.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        measured_ms: Sequence[float],
        target: Target,
        *,
        first: int = 0,
        window_frames: int = 30,
        min_stay_s: float = 0.5,
        return_stay_s: float = 2.0,
        headroom: float = 0.85,
    ) -> None:
        if not all(math.isfinite(ms) and ms > 0 for ms in measured_ms):
            raise ValueError(f"measured times are positive numbers of ms, not {list(measured_ms)}")
        if not 0 <= first < len(measured_ms) - 1:
            raise ValueError(f"from level {first} of {len(measured_ms)} there is no faster one to move to")
        if window_frames < _LEAST_WINDOW:
            raise ValueError(f"a window holds at least {_LEAST_WINDOW} frames, not {window_frames}")
        if not 0 <= min_stay_s <= return_stay_s or not 0 < headroom < 1:
            raise ValueError("0 <= min_stay_s <= return_stay_s and 0 < headroom < 1 must hold")
        self.target = target
        self.levels = range(first, len(measured_ms))
        self.level = first
        self._min_stay_s, self._return_stay_s, self._headroom = min_stay_s, return_stay_s, headroom
        self._measured_ms = list(accumulate(measured_ms, min))
        self._learned_ms = list(self._measured_ms)
        self._frames: deque[tuple[float, float]] = deque(maxlen=window_frames)
        self._window_frames = window_frames
        self._since_s: float | None = None
        self._arrival: Decision | None = None
        self._infer_before_ms: float | None = None
        self._failures = [0] * len(measured_ms)
        self._failed_ms = [math.inf] * len(measured_ms)

    def governed_ms(self, infer_ms: float, other_ms: float) -> float:
        """The time of a frame that the target limits, of its inference and the rest of its latency."""
        return infer_ms + (other_ms if self.target.kind == "deadline" else 0.0)

    def observe(self, level: int, infer_ms: float, other_ms: float, now_s: float) -> Decision | None:
        """Take in a finished frame; returns the switch that follows from it.

        Args:
            level: that the frame ran at. Frames that were under way at a switch say nothing of the new level,
                and are left out.
            infer_ms: its inference.
            other_ms: the rest of its latency: what no level changes.
            now_s: any clock that does not go back.
        """
        if self._since_s is None:
            self._since_s = now_s
        if level != self.level:
            return None
        self._frames.append((infer_ms, other_ms))
        stay_s = now_s - self._since_s
        if stay_s < self._min_stay_s:
            return None
        limit_ms, p90_ms = self.target.limit_ms, self._expected_ms(level)
        if p90_ms > limit_ms:
            return self._fall(p90_ms, stay_s, now_s)
        if len(self._frames) < self._window_frames:
            return None
        self._learn()
        for exacter in range(self.levels[0], level):
            expected_ms = self._expected_ms(exacter)
            if expected_ms <= self._headroom * limit_ms and stay_s >= self._patience_s(exacter, expected_ms):
                return self._move(Decision(now_s, level, exacter, "headroom", p90_ms, expected_ms))
        return None

    def _fall(self, p90_ms: float, stay_s: float, now_s: float) -> Decision | None:
        """To the most exact level that is expected to hold the limit; None where there is no faster one."""
        faster = range(self.level + 1, self.levels[-1] + 1)
        if not faster:
            return None
        if self._arrival and self._arrival.reason == "headroom":
            if stay_s < _TRIAL * self._return_stay_s * 2 ** self._failures[self.level]:
                self._failures[self.level] += 1
                self._failed_ms[self.level] = min(self._failed_ms[self.level], self._arrival.expected_ms)
            else:
                self._failures[self.level], self._failed_ms[self.level] = 0, math.inf
        to_level = next(
            (level for level in faster if self._expected_ms(level) <= self.target.limit_ms), faster[-1]
        )
        return self._move(Decision(now_s, self.level, to_level, "late", p90_ms, self._expected_ms(to_level)))

    def _move(self, decision: Decision) -> Decision:
        returned = decision.reason == "headroom"
        self._infer_before_ms = (
            statistics.median(infer_ms for infer_ms, _ in self._frames) if returned else None
        )
        self.level, self._since_s, self._arrival = decision.to_level, decision.at_s, decision
        self._frames.clear()
        return decision

    def _patience_s(self, level: int, expected_ms: float) -> float:
        """How long to stay before a return to a level."""
        eased = expected_ms < _EASED * self._failed_ms[level]
        return self._return_stay_s * (1 if eased else 2 ** self._failures[level])

    def _expected_ms(self, level: int) -> float:
        """90th percentile (nearest rank) of what the window's frames would have taken at a level; 0 while
        they are too few.
        """
        ratio = self._ratio(level)
        times_ms = sorted(
            (self.governed_ms(infer_ms * ratio, other_ms) for infer_ms, other_ms in self._frames),
            reverse=True,
        )
        longer = self._window_frames - math.ceil(_PERCENTILE * self._window_frames)
        return times_ms[longer] if longer < len(times_ms) else 0.0

    def _ratio(self, level: int) -> float:
        """Inference time at a level over that at the current one."""
        exacter, faster = min(level, self.level), max(level, self.level)
        highest = self._measured_ms[exacter] / self._measured_ms[faster]
        ratio = min(max(1.0, self._learned_ms[exacter] / self._learned_ms[faster]), highest)
        return ratio if level < self.level else 1 / ratio

    def _learn(self) -> None:
        """After a return that has filled a window: half of what its ratio was taken for, half of what it
        turned out to be.

        Only then were both sides of a switch measured close in time at a steady load. A fall happens because
        the load changes.
        """
        if self._arrival is None or self._infer_before_ms is None:
            return
        before = self._arrival.from_level
        seen = statistics.median(infer_ms for infer_ms, _ in self._frames) / self._infer_before_ms
        self._learned_ms[self.level] = self._learned_ms[before] * (seen + 1 / self._ratio(before)) / 2
        self._infer_before_ms = None
