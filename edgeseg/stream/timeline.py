"""One line of time over all connections of a live source, and how late its frames are.

A camera counts from zero again after each connection, and what was held up on the way (in the camera, in the network, in a server
that was frozen) arrives in a burst. Taken by its arrival such a frame is fresh; in truth it is old. The source's own clock shows
it: what is held up arrives later than the clock says. The least delay seen of late is taken for none.
"""

from __future__ import annotations

from collections import deque

_BUCKET_S = 1.0
_BUCKETS = 10
_STEP_S = 1e-3


class Timeline:
    """Times of one source's frames. One thread at a time.

    The least delay is that of the last ten seconds: a clock that runs a little slow is then not taken for a source that falls
        behind.
    """

    def __init__(self) -> None:
        self._origin_s: float | None = None
        self._shift_s = 0.0
        self._last_s = -_STEP_S
        self._last_pts_s: float | None = None
        self._floors: deque[tuple[float, float]] = deque(maxlen=_BUCKETS)

    def connected(self) -> None:
        """The next frame is the first of a new connection."""
        self._last_pts_s = None

    def stamp(self, pts_s: float, arrival_s: float) -> tuple[float, float]:
        """Place a frame.

        Args:
            pts_s: presentation time by the source's clock.
            arrival_s: when it came, by the monotonic clock.
        Returns:
            Its presentation time from the source's first frame on, always later than the last one; and the time at which it
            would have come, had nothing held it up.
        """
        if self._origin_s is None:
            self._origin_s = arrival_s
        if self._last_pts_s is None or pts_s < self._last_pts_s:
            # A new connection, or a clock that was set back: it goes on where the monotonic clock is.
            self._shift_s = arrival_s - self._origin_s - pts_s
            self._floors.clear()
        self._last_pts_s = pts_s
        time_s = max(pts_s + self._shift_s, self._last_s + _STEP_S)
        self._last_s = time_s
        delay_s = arrival_s - self._origin_s - (pts_s + self._shift_s)
        if not self._floors or arrival_s - self._floors[-1][0] >= _BUCKET_S:
            self._floors.append((arrival_s, delay_s))
        elif delay_s < self._floors[-1][1]:
            self._floors[-1] = (self._floors[-1][0], delay_s)
        while len(self._floors) > 1 and arrival_s - self._floors[0][0] > _BUCKET_S * _BUCKETS:
            self._floors.popleft()
        return time_s, arrival_s - (delay_s - min(floor_s for _, floor_s in self._floors))
