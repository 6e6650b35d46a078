"""Channels end like pipes, keep order, and never wait for ever."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.stream.run.channel import Channel, Closed, FirstError


def test_order_and_end() -> None:
    channel: Channel[int] = Channel(3)
    assert all(channel.put(item, 0) for item in range(3))
    channel.close()
    assert [channel.get(0) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Closed):
        channel.get(0)


def test_full_and_empty_channels_give_up_in_time() -> None:
    channel: Channel[int] = Channel(1)
    start_s = time.monotonic()
    with pytest.raises(TimeoutError):
        channel.get(0.05)
    assert channel.put(1, 0.05)
    assert not channel.put(2, 0.05)
    assert 0.1 <= time.monotonic() - start_s < 2.0
    assert len(channel) == 1


def test_nothing_is_put_after_close_or_cancel() -> None:
    for end in ("close", "cancel"):
        channel: Channel[int] = Channel(2)
        getattr(channel, end)()
        with pytest.raises(Closed):
            channel.put(1, 0)


def test_cancel_drops_what_is_inside() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1, 0)
    channel.cancel()
    with pytest.raises(Closed):
        channel.get(0)
    assert len(channel) == 0


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_an_end_wakes_a_waiting_receiver_at_once(end: str) -> None:
    channel: Channel[int] = Channel(1)
    threading.Timer(0.05, getattr(channel, end)).start()
    start_s = time.monotonic()
    with pytest.raises(Closed):
        channel.get(30.0)
    assert time.monotonic() - start_s < 5.0


def test_cancel_wakes_a_waiting_sender_at_once() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1, 0)
    threading.Timer(0.05, channel.cancel).start()
    start_s = time.monotonic()
    with pytest.raises(Closed):
        channel.put(2, 30.0)
    assert time.monotonic() - start_s < 5.0


@given(st.lists(st.integers(), max_size=40), st.integers(1, 5))
def test_two_threads_pass_every_item_once_and_in_order(items: list[int], capacity: int) -> None:
    channel: Channel[int] = Channel(capacity)

    def send() -> None:
        for item in items:
            assert channel.put(item, 5.0)
        channel.close()

    sender = threading.Thread(target=send)
    sender.start()
    received = []
    while True:
        try:
            received.append(channel.get(5.0))
        except Closed:
            break
        assert len(channel) <= capacity
    sender.join(5.0)
    assert received == items


def test_a_channel_must_hold_something() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Channel(0)


def test_the_first_error_wins() -> None:
    errors = FirstError()
    errors.reraise()

    def fail(error: BaseException) -> None:
        raise error

    errors.attempt(lambda: fail(OSError("disk")))
    errors.attempt(lambda: fail(ValueError("consequence")))
    with pytest.raises(OSError, match="disk"):
        errors.reraise()
