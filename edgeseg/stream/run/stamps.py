"""Frames of one source on its one line of time, and what of its stamps is to be told."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from edgeseg.contracts import FrameSource
from edgeseg.specs import Frame
from edgeseg.stream.run.timeline import RecordedTimeline, Timeline

_TOLD, _PER_S = 5, 60.0


class Stamps:
    """Gives the frames of a source their times, over all its connections. One thread at a time."""

    def __init__(self) -> None:
        self._live = Timeline()
        self._recorded: RecordedTimeline | None = None
        self._is_live = False
        self._jumps = 0
        self._told_s: deque[float] = deque(maxlen=_TOLD)

    def connected(self, source: FrameSource) -> None:
        """The source was opened: the next frame is its first."""
        self._is_live = source.is_live
        self._live.connected()
        jumping = source.stamps_may_jump
        self._recorded = (
            RecordedTimeline(1 / source.fps, jumping) if source.fps > 0 and not source.is_live else None
        )

    def place(self, frame: Frame, now_s: float) -> tuple[Frame, tuple[str, dict[str, Any]] | None]:
        """The frame with its times; and where its stamp jumped, reason and details of the event.

        Five jumps a minute are told: a source whose every stamp is wrong would push all other events out.
        `count` in the details counts those that were not.

        Args:
            now_s: any clock that does not go back.
        """
        if self._is_live:
            pts_s, due_s, jump_s = self._live.stamp(frame.pts_s, frame.arrival_s)
            frame, how = replace(frame, pts_s=pts_s, arrival_s=due_s), "time goes on as frames arrive"
        elif self._recorded is not None:
            pts_s, jump_s = self._recorded.stamp(frame.pts_s)
            frame, how = replace(frame, pts_s=pts_s), "what follows is joined on"
        else:
            return frame, None
        self._jumps += jump_s != 0
        if not jump_s or (len(self._told_s) == _TOLD and now_s - self._told_s[0] < _PER_S):
            return frame, None
        details = {"jump_s": round(jump_s, 3), "pts_s": round(frame.pts_s, 3), "count": self._jumps}
        self._told_s.append(now_s)
        self._jumps = 0
        return frame, (f"time stamps jumped by {jump_s:+.1f} s at {frame.pts_s:.1f} s: {how}", details)
