"""Which pictures are behind a loss, as pure logic: told what was lost and what came, by the order of the
packets.

A picture refers to pictures before it, so after a loss all are suspect until a key frame, which refers to
none. Decoders give pictures out late and reordered: a picture that went in before the loss is whole, whenever
it comes out. Streams that refresh bit by bit have no key frames, but packets that begin a round: behind a
whole round they are whole again. And the waiting is bounded in any case.
"""

from __future__ import annotations

_LONGEST_WAIT_S = 10.0
_START = -1
_SHORTEST_ROUND = 5  # packets: where all are marked as keys, the marks mean nothing


class Losses:
    """Of one stream. Numbers are those of packets, in decoding order, from 0.

    Attributes:
        in_the_middle: the stream began without a key frame, and none has come yet.
        next_number: the packet after the last one of which a picture came: where a loss is that has no number
            of its own.
    """

    def __init__(self) -> None:
        self.in_the_middle = False
        self.next_number = 0
        self._lost: list[int] = []
        self._rounds: list[int] = []
        self._unseen_key: tuple[int, int] | None = None
        self._since_s: float | None = None
        self._last_key_s: float | None = None
        self._interval_s = 0.0

    def begin_in_the_middle(self) -> None:
        """The first packet is no key frame."""
        self.in_the_middle = True
        self._lost = [_START]

    def add(self, number: int) -> None:
        """What this packet holds is lost."""
        if number not in self._lost[-1:]:
            self._lost.append(number)

    def begin_round(self, number: int) -> None:
        """A packet that is marked as one to begin with, whether or not its picture is a key frame."""
        if not self._rounds or number - self._rounds[-1] >= _SHORTEST_ROUND:
            self._rounds = [*self._rounds[-2:], number]
        else:
            self._rounds = [number]

    def unseen_key(self, number: int, pts: int) -> None:
        """A key frame that is decoded and never shown: an edit list begins behind it."""
        self._unseen_key = (number, pts)

    def is_behind(self, number: int, pts: int | None, is_whole_key: bool, at_s: float) -> bool:
        """Whether a picture is suspect. To be asked of every picture that comes, in the order in which they
        come.

        Args:
            number: of its packet.
            pts: its presentation time, in the ticks of `unseen_key`.
            is_whole_key: it is a key frame, and undamaged.
            at_s: its time, or that of its arrival.
        """
        self.next_number = max(self.next_number, number + 1)
        key = number if is_whole_key else None
        if key is None and self._unseen_key is not None and pts is not None and pts >= self._unseen_key[1]:
            key = self._unseen_key[0]
        if key is not None:
            self._found(key)
        elif len(self._rounds) > 1:
            begun = [one for one in self._rounds if one > max(self._lost, default=number)]
            if len(begun) > 1 and number >= begun[1]:
                self._found(begun[1])
        if is_whole_key:
            self._interval_s = max(
                self._interval_s, at_s - self._last_key_s if self._last_key_s is not None else 0.0
            )
            self._last_key_s = at_s
        if all(lost > number for lost in self._lost):
            self._since_s = None
            return False
        if self._since_s is None or at_s < self._since_s:
            self._since_s = at_s
        if number in self._lost or at_s - self._since_s <= max(_LONGEST_WAIT_S, 2 * self._interval_s):
            return True
        self._found(number)
        return False

    def _found(self, number: int) -> None:
        """What was lost before this packet matters no more."""
        self._lost = [lost for lost in self._lost if lost >= number]
        self._since_s = None
        self.in_the_middle = False
