"""The levels of one run: a session each, which of them the next frame takes, and what was counted at each."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeseg.contracts import Session
from edgeseg.errors import BundleError
from edgeseg.stream.run.governor import Decision, Governor, Reason
from edgeseg.stream.watch.stats import Timings

if TYPE_CHECKING:
    pass

_SWITCHES_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Choice:
    """A level, and why it is in force: "fixed" without a governor, "start" until its first switch, then that
    switch's reason.
    """

    level: int
    reason: Literal["fixed", "start"] | Reason


class Levels:
    """What the engine's thread asks and the writer's thread tells.

    Args:
        sessions: by level; those that the governor may choose, or a single one without a governor.
    Attributes:
        choice: for the next frame. The writer's thread replaces it, the engine's thread reads it.
        program: of the most exact level.
    Raises:
        ValueError: sessions and governor are not about the same levels.
        BundleError: the levels differ in image or classes.
    """

    def __init__(self, sessions: Mapping[int, Session], governor: Governor | None = None) -> None:
        wanted = list(governor.levels) if governor else list(sessions)[:1]
        if not sessions or sorted(sessions) != wanted:
            raise ValueError(
                f"there are sessions for levels {sorted(sessions)}, and the run is about {wanted}"
            )
        check_alike(sessions)
        self.sessions = sessions
        self.choice = Choice(wanted[0], "start" if governor else "fixed")
        self.program = sessions[wanted[0]].program
        self.governor = governor
        self._timings = {level: Timings() for level in wanted}
        self._frames_over = self._switch_count = 0
        self._switches: deque[tuple[int, Decision]] = deque(maxlen=_SWITCHES_KEPT)

    def finished(self, frame_index: int, level: int, infer_ms: float, other_ms: float, now_s: float) -> None:
        """Count a frame's time and let the governor decide on it. `now_s` counts from the start of the
        run.
        """
        if self.governor is None:
            return
        governed_ms = self.governor.governed_ms(infer_ms, other_ms)
        self._timings[level].add(governed_ms)
        self._frames_over += governed_ms > self.governor.target.limit_ms
        decision = self.governor.observe(level, infer_ms, other_ms, now_s)
        if decision is not None:
            self.choice = Choice(decision.to_level, decision.reason)
            self._switch_count += 1
            self._switches.append((frame_index, decision))

    def report(self) -> dict[str, Any] | None:
        """The section `governor` of the run's report; None without one."""
        if self.governor is None:
            return None
        frames = sum(timings.count for timings in self._timings.values())
        return {
            "target": self.governor.target.kind,
            "limit_ms": self.governor.target.limit_ms,
            "over_limit": self._frames_over / max(1, frames),
            "levels": [
                {
                    "level": level,
                    "isr": str(self.sessions[level].program.isr),
                    "share": timings.count / max(1, frames),
                    **timings.to_json(),
                }
                for level, timings in self._timings.items()
            ],
            "switch_count": self._switch_count,
            "switches": [{"frame": frame, **asdict(decision)} for frame, decision in self._switches],
        }


def check_alike(sessions: Mapping[int, Session]) -> None:
    """A frame is resized before its level is known, and masks of all levels go into one recording."""
    (level, session), *others = sorted(sessions.items())
    program = session.program
    for other_level, other in others:
        for what, one, two in (
            ("images of", program.image.size_hw, other.program.image.size_hw),
            ("the classes", program.labels.names, other.program.labels.names),
        ):
            if one != two:
                raise BundleError(
                    f"level {level} has {what} {one}, level {other_level} {two}: a stream cannot move between"
                    " them",
                    hint="export the levels together: edgeseg export RECIPE --levels PLAN.json",
                )
