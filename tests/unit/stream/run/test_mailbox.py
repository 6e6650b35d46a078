"""Mailboxes drop what their policy says and count it; the taker goes round, and never waits for a source that
is silent.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.specs import Frame
from edgeseg.stream.run.channel import Closed
from edgeseg.stream.run.mailbox import LIVE, RECORDED, Mailbox, Mailroom, Policy
from streams import time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

PIXEL = np.zeros((1, 1, 3), np.uint8)


def frame(index: int, arrival_s: float = 0.0, source: str = "s") -> Frame:
    return Frame(PIXEL, index, float(index), arrival_s, source)


def room(*policies: Policy) -> tuple[Mailroom, list[Mailbox]]:
    """A mailroom whose clock stands still at 100 s."""
    post = Mailroom(clock=lambda: 100.0)
    return post, [post.add(policy) for policy in policies]


def taken(post: Mailroom) -> list[tuple[int, int]]:
    """Box and frame index of all that can be taken now."""
    found = []
    while True:
        try:
            number, got = post.take(0)
        except (TimeoutError, Closed):
            return found
        found.append((number, got.index))


@given(st.integers(1, 5), st.sampled_from(["oldest", "newest"]), st.integers(0, 30))
def test_what_is_dropped_and_counted(queue: int, drop: str, count: int) -> None:
    post, (box,) = room(Policy(drop, queue))  # type: ignore[arg-type]
    assert all(box.put(frame(index), 0) for index in range(count))
    kept = [index for _, index in taken(post)]
    assert kept == (list(range(count))[-queue:] if drop == "oldest" else list(range(count))[:queue])
    assert box.counts() == ({drop: count - queue} if count > queue else {})


def test_none_are_dropped_where_the_source_can_wait() -> None:
    post, (box,) = room(RECORDED)
    assert [box.put(frame(index), 0) for index in range(4)] == [True, True, False, False]
    assert taken(post) == [(0, 0), (0, 1)]
    assert box.counts() == {}


def test_a_waiting_source_goes_on_when_there_is_room() -> None:
    post = Mailroom()
    box = post.add(Policy("none", 1))
    box.put(frame(0), 0)
    threading.Timer(0.05, lambda: post.take(0)).start()
    assert box.put(frame(1), 5)


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=4))
def test_a_fast_source_does_not_starve_a_slow_one(rounds: list[list[int]]) -> None:
    """Between two frames of one source every other source that has one gets its turn."""
    post, boxes = room(*[Policy("oldest", 50)] * 4)
    for arrivals in rounds:
        for source in arrivals:
            boxes[source].put(frame(0), 0)
        waiting = Counter(dict(enumerate(len(box._frames) for box in boxes)))
        order = deque(number for number, _ in taken(post))
        assert Counter(order) == +waiting
        for source in set(order):
            places = [place for place, number in enumerate(order) if number == source]
            for first, second in pairwise(places):
                between = list(order)[first + 1 : second]
                assert len(set(between)) == len(between)


def test_stale_frames_are_dropped_at_the_door() -> None:
    post, (box,) = room(Policy("oldest", 5, max_age_ms=500))
    for index, age_s in enumerate((2.0, 0.6, 0.4, 0.0)):
        box.put(frame(index, 100.0 - age_s), 0)
    assert taken(post) == [(0, 2), (0, 3)]
    assert box.counts() == {"stale": 2}


def test_peek_leaves_the_frame() -> None:
    post, (_, second) = room(LIVE, LIVE)
    with pytest.raises(TimeoutError):
        post.peek(0)
    second.put(frame(7), 0)
    assert post.peek(0)[1].index == 7
    assert taken(post) == [(1, 7)]


def test_closing_lets_out_what_is_inside_and_cancelling_counts_it() -> None:
    post, (first, second) = room(Policy("none", 2), LIVE)
    first.put(frame(0), 0)
    first.close()
    with pytest.raises(Closed):
        first.put(frame(1), 0)
    assert taken(post) == [(0, 0)]
    second.put(frame(5), 0)
    second.cancel()
    assert second.counts() == {"stopped": 1}
    with pytest.raises(Closed):
        post.take(0)


def test_a_taker_wakes_when_the_last_source_closes() -> None:
    post = Mailroom()
    box = post.add(LIVE)
    threading.Timer(0.05, box.close).start()
    start_s = time.monotonic()
    with pytest.raises(Closed):
        post.take(20)
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize(
    "wrong", [("some", 1, None), ("oldest", 0, None), ("oldest", 1, 0.0), ("oldest", 1, float("nan"))]
)
def test_impossible_policies(wrong: tuple[str, int, float | None]) -> None:
    with pytest.raises(ValueError, match="not"):
        Policy(*wrong)  # type: ignore[arg-type]


def test_policies_have_names() -> None:
    assert str(LIVE) == "keeps the newest 1 and drops older frames"
    assert str(RECORDED) == "drops none, the source waits behind 2"
    assert (
        str(Policy("newest", 3, 250))
        == "keeps the first 3 and refuses newer frames; drops frames older than 250 ms"
    )
