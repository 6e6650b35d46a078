"""One line of time over all connections of a source, whatever its stamps say, and how late its frames are.

A camera counts from zero again after each connection, is set by a time server, wraps its counter, or stamps a
frame hours ahead; and what was held up on the way (in the camera, in the network, in a server that was
frozen) arrives in a burst. Taken by its arrival such a frame is fresh; in truth it is old. What is certain is
the arrival, and it decides what a stamp can mean. A recording has no arrival: there its container decides.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import TypeGuard

TOLD_S = 1.0
"""A stamp that is further off than this is a discontinuity, and told."""
MOST_LATE_S = 10.0
"""The greatest lateness that a stamp is believed: the presented time of a live source is never further behind
its arrival.
"""
LONGEST_STILL_S = 10.0
"""The longest that a picture can stand in a container whose stamps may jump (MPEG-TS); the same as FFmpeg's
limit there.
"""

_AHEAD_S = 0.2
_BUCKET_S = 1.0
_BUCKETS = 10
_CATCH_UP = 0.1
_SHORTEST_S = 1e-3
_STEP_S = 1e-4
_FARTHEST_S = 1e12  # beyond, a float holds no frame interval any more


class Placed(NamedTuple):
    """Where a frame lies.

    Attributes:
        time_s: its presentation time from the source's first frame on, always later than the last one.
        due_s: when it would have come, had nothing held it up, by the clock of its arrival.
        jump_s: how far its stamp is off what its arrival says, where that is a discontinuity; else 0.
    """

    time_s: float
    due_s: float
    jump_s: float


class Timeline:
    """Times of a live source's frames. One thread at a time.

    A frame is presented when it was due: at its arrival, less what it was held up. Held up is what came
    later, by its stamp, than the least delayed frames of the last ten seconds did; so a clock that runs slow
    is not taken for a source that falls behind.

    A stamp is believed where it puts its frame after the one before, by a millisecond or more, and not after
    its arrival (0.2 s are granted, and taken back). Any other says nothing: the frame follows the one before
    as it arrived, and the stamps count on from there. Where they return to the line that they left, as after
    one frame that was stamped hours ahead, that line goes on.

    So presented time never stands, is never ahead of arrival (but for 0.1 ms a frame where many come at once)
    and never more than MOST_LATE_S behind it; any stretch of it is as long as it took, give or take how late
    its ends came.
    """

    def __init__(self) -> None:
        self._origin_s: float | None = None
        self._now_s = self._late_s = 0.0
        self._time_s = -_STEP_S
        self._pts_s: float | None = None
        # A frame's time is its stamp plus the line in force plus the floor, which is the least delay.
        self._line_s: float | None = None
        self._left_s: float | None = None
        self._floor_s = 0.0
        self._delays: deque[tuple[float, float]] = deque()

    def connected(self) -> None:
        """The next frame is the first of a new connection, and on time."""
        self._line_s = self._left_s = None
        self._late_s = self._floor_s = 0.0
        self._delays.clear()

    def stamp(self, pts_s: float | None, arrival_s: float) -> Placed:
        """Place a frame.

        Args:
            pts_s: presentation time by the source's clock; None, or no number, where it has none.
            arrival_s: when it came, by the monotonic clock.
        """
        if self._origin_s is None:
            self._origin_s = arrival_s
        now_s = arrival_s - self._origin_s
        delay_s, jump_s = self._late_s + self._floor_s, 0.0
        if _is_time(pts_s):
            line_s, jump_s = self._line_of(pts_s, now_s)
            self._pts_s, self._line_s, delay_s = pts_s, line_s, now_s - pts_s - line_s
        self._learn(delay_s, now_s)
        self._now_s, self._late_s = now_s, delay_s - self._floor_s
        self._time_s = max(now_s - self._late_s, self._time_s + _STEP_S)
        return Placed(self._time_s, min(arrival_s, self._origin_s + self._time_s), jump_s)

    def _line_of(self, pts_s: float, now_s: float) -> tuple[float, float]:
        """The line that a stamp lies on, a new one where it can be on none; and how far it jumped, where that
        is to be told.
        """
        expected_s = now_s - self._late_s
        if self._line_s is None:
            return expected_s - self._floor_s - pts_s, 0.0
        time_s = pts_s + self._line_s + self._floor_s
        before_s = self._now_s - self._late_s
        if before_s + _SHORTEST_S <= time_s <= now_s + _AHEAD_S:
            return self._line_s, 0.0
        off_s = time_s - expected_s
        new_s, repeated = self._line_s - off_s, pts_s == self._pts_s
        if abs(off_s) <= _AHEAD_S or repeated:
            return new_s, 0.0
        left_s, self._left_s = self._left_s, self._line_s
        if left_s is not None and before_s - _AHEAD_S <= pts_s + left_s + self._floor_s <= now_s + _AHEAD_S:
            return left_s, 0.0
        return new_s, off_s if abs(off_s) > TOLD_S else 0.0

    def _learn(self, delay_s: float, now_s: float) -> None:
        """Keep the least delay: down at once, up by a tenth of the time that goes by at most, so that no hole
        comes of it.
        """
        if not self._delays or now_s - self._delays[-1][0] >= _BUCKET_S:
            self._delays.append((now_s, delay_s))
        elif delay_s < self._delays[-1][1]:
            self._delays[-1] = (self._delays[-1][0], delay_s)
        while len(self._delays) > 1 and now_s - self._delays[0][0] > _BUCKET_S * _BUCKETS:
            self._delays.popleft()
        least_s = min(least_s for _, least_s in self._delays)
        risen_s = min(least_s, self._floor_s + _CATCH_UP * (now_s - self._now_s))
        self._floor_s = min(delay_s, max(risen_s, delay_s - MOST_LATE_S))


class RecordedTimeline:
    """Times of a recording's frames: its stamps, made to increase. One thread at a time.

    A stamp that is missing or repeated, or lies before the one before, is a nominal step after it. More than
    TOLD_S back it is a discontinuity, as where two files were joined: what follows is joined on. So is a gap
    of more than LONGEST_STILL_S where the container's stamps may jump; in all others (MP4, Matroska) a gap is
    a picture that stands, however long.

    Args:
        step_s: nominal seconds a frame, above 0.
        may_jump: whether the container is one whose stamps may jump, as MPEG-TS.
    """

    def __init__(self, step_s: float, may_jump: bool) -> None:
        self._step_s, self._may_jump = step_s, may_jump
        self._time_s: float | None = None
        self._pts_s: float | None = None
        self._line_s = 0.0

    def stamp(self, pts_s: float | None) -> tuple[float, float]:
        """A frame's presentation time, always later than the last one, and how far its stamp jumped, where
        that is to be told.
        """
        if not _is_time(pts_s):
            pts_s = self._pts_s
        jump_s = 0.0
        if self._time_s is None:
            self._time_s = pts_s or 0.0
        else:
            next_s = self._time_s + self._step_s
            time_s = next_s if pts_s is None or pts_s == self._pts_s else pts_s + self._line_s
            back, ahead = time_s < self._time_s - TOLD_S, time_s > self._time_s + LONGEST_STILL_S
            if pts_s is not None and (back or (ahead and self._may_jump)):
                jump_s, self._line_s, time_s = time_s - next_s, next_s - pts_s, next_s
            self._time_s = time_s if time_s > self._time_s else next_s
        self._pts_s = pts_s
        return self._time_s, jump_s


def _is_time(pts_s: float | None) -> TypeGuard[float]:
    return pts_s is not None and abs(pts_s) < _FARTHEST_S  # NaN is not
