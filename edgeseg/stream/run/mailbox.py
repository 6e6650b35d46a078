"""Which frames are dropped when they come faster than they can be segmented, and the mailboxes where they
wait.

Every source has a mailbox of its own, and one taker goes round them, so that a fast source cannot starve a
slow one, and a dead one holds up nobody.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from edgeseg.specs import Frame
from edgeseg.stream.run.channel import Closed

Drop = Literal["oldest", "newest", "none"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a mailbox does.

    Attributes:
        drop: when it is full: "oldest" makes room for the new frame, "newest" refuses the new one, "none"
            lets the source wait.
        queue: frames that it holds, from 1 up.
        max_age_ms: frames that are older when the engine could take them are dropped; None: none are.
    Raises:
        ValueError: no such policy.
    """

    drop: Drop
    queue: int
    max_age_ms: float | None = None

    def __post_init__(self) -> None:
        if self.drop not in get_args(Drop):
            raise ValueError(f"drop is one of {', '.join(get_args(Drop))}, not {self.drop!r}")
        if self.queue < 1:
            raise ValueError(f"a queue holds at least one frame, not {self.queue}")
        if self.max_age_ms is not None and not self.max_age_ms > 0:
            raise ValueError(f"the greatest age is above 0 ms, not {self.max_age_ms}")

    def __str__(self) -> str:
        text = {
            "oldest": f"keeps the newest {self.queue} and drops older frames",
            "newest": f"keeps the first {self.queue} and refuses newer frames",
            "none": f"drops none, the source waits behind {self.queue}",
        }[self.drop]
        return text + (f"; drops frames older than {self.max_age_ms:g} ms" if self.max_age_ms else "")


LIVE = Policy("oldest", 1)
"""Live sources: the newest frame, always."""
RECORDED = Policy("none", 2)
"""Files: every frame."""


def by_kind(is_live: bool) -> Policy:
    """LIVE or RECORDED."""
    return LIVE if is_live else RECORDED


PolicyOf = Callable[[bool], Policy]
"""Whether a source is live, which may be known only when it is open -> what its mailbox does. `by_kind` is
one.
"""


class Mailbox:
    """Frames of one source, waiting for the engine. Made by `Mailroom.add`.

    Attributes:
        policy: what it does when it is full; `govern` changes it.
        dropped: number of frames dropped, by reason: "oldest", "newest", "stale", "stopped".
    """

    def __init__(self, policy: Policy, changed: threading.Condition, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.dropped: Counter[str] = Counter()
        self._frames: deque[Frame] = deque()
        self._changed = changed
        self._clock = clock
        self._closed = False

    def govern(self, policy: Policy) -> None:
        """Do this from now on."""
        with self._changed:
            self.policy = policy
            self._changed.notify_all()

    def put(self, frame: Frame, timeout_s: float) -> bool:
        """Leave a frame. False where the source has to wait and nothing was taken within `timeout_s`.

        Raises:
            Closed: nobody will take it.
        """
        deadline_s = self._clock() + timeout_s
        with self._changed:
            while True:
                if self._closed:
                    raise Closed
                if len(self._frames) < self.policy.queue:
                    break
                if self.policy.drop == "newest":
                    self.dropped["newest"] += 1
                    return True
                if self.policy.drop == "oldest":
                    self._frames.popleft()
                    self.dropped["oldest"] += 1
                    break
                left_s = deadline_s - self._clock()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
            self._frames.append(frame)
            self._changed.notify_all()
        return True

    def close(self) -> None:
        """No more frames will come; those inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """No more frames will be taken: those inside count as "stopped"."""
        with self._changed:
            self._closed = True
            self.dropped["stopped"] += len(self._frames)
            self._frames.clear()
            self._changed.notify_all()

    def count_dropped(self, reason: str) -> None:
        """Count a frame that was dropped after it had been taken."""
        with self._changed:
            self.dropped[reason] += 1

    def is_stale(self, frame: Frame) -> bool:
        """Whether a frame is older than the policy allows."""
        limit_ms = self.policy.max_age_ms
        return limit_ms is not None and 1e3 * (self._clock() - frame.arrival_s) > limit_ms

    def counts(self) -> dict[str, int]:
        """A copy of `dropped`, without reasons that did not occur."""
        with self._changed:
            return {reason: count for reason, count in self.dropped.items() if count}


class Mailroom:
    """All mailboxes of a run, and the one who empties them in turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._boxes: list[Mailbox] = []
        self._clock = clock
        self._next = 0

    def add(self, policy: Policy) -> Mailbox:
        """A mailbox for one more source."""
        box = Mailbox(policy, self._changed, self._clock)
        with self._changed:
            self._boxes.append(box)
        return box

    def take(self, timeout_s: float) -> tuple[int, Frame]:
        """The oldest frame of the next mailbox that holds one, in turn, with the mailbox's number.

        Raises:
            TimeoutError: none came within `timeout_s`.
            Closed: none will come any more.
        """
        deadline_s = self._clock() + timeout_s
        with self._changed:
            while True:
                for step in range(len(self._boxes)):
                    number = (self._next + step) % len(self._boxes)
                    frame = self._take_from(self._boxes[number])
                    if frame is not None:
                        self._next = number + 1
                        return number, frame
                if all(box._closed for box in self._boxes):
                    raise Closed
                left_s = deadline_s - self._clock()
                if left_s <= 0:
                    raise TimeoutError
                self._changed.wait(left_s)

    def peek(self, timeout_s: float) -> tuple[int, Frame]:
        """The frame that `take` would give, left where it is. Raises as `take`."""
        deadline_s = self._clock() + timeout_s
        with self._changed:
            while True:
                for number, box in enumerate(self._boxes):
                    if box._frames:
                        return number, box._frames[0]
                if all(box._closed for box in self._boxes):
                    raise Closed
                left_s = deadline_s - self._clock()
                if left_s <= 0:
                    raise TimeoutError
                self._changed.wait(left_s)

    def cancel(self) -> None:
        """Nothing is taken any more."""
        for box in self._boxes:
            box.cancel()

    def _take_from(self, box: Mailbox) -> Frame | None:
        while box._frames:
            frame = box._frames.popleft()
            self._changed.notify_all()
            if not box.is_stale(frame):
                return frame
            box.dropped["stale"] += 1
        return None
