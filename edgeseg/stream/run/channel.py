"""A bounded queue between two threads, in which a thread can never wait for another that is gone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1


class Closed(Exception):
    """The other end of a channel is gone: for a receiver the end of the data, for a sender nobody to send
    to.
    """


class Channel(Generic[T]):
    """Items pass in order from one sending to one receiving thread; every wait has a time-out.

    The ends work as those of a pipe: after the sender's `close` the receiver still gets what was put before;
    after the receiver's `cancel` nothing is taken any more.

    Args:
        capacity: items held at most, from 1 up; a full channel makes the sender wait.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a channel holds at least one item, not {capacity}")
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._cancelled = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, timeout_s: float) -> bool:
        """Add an item. False where the channel is still full after `timeout_s`; raises Closed where nobody
        will take it.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._closed or self._cancelled:
                    raise Closed
                if len(self._items) < self._capacity:
                    self._items.append(item)
                    self._changed.notify_all()
                    return True
                if not self._wait_until(deadline_s):
                    return False

    def get(self, timeout_s: float) -> T:
        """Take the oldest item.

        Raises:
            TimeoutError: none came within `timeout_s`.
            Closed: none will come any more.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._cancelled:
                    raise Closed
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify_all()
                    return item
                if self._closed:
                    raise Closed
                if not self._wait_until(deadline_s):
                    raise TimeoutError

    def close(self) -> None:
        """The sender is done: what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """The receiver is done: what is inside is dropped."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def _wait_until(self, deadline_s: float) -> bool:
        """Sleep until something changed; False where the time is up."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return False
        self._changed.wait(left_s)
        return True


def send(channel: Channel[T], item: T) -> bool:
    """Put an item, however long that takes. False where nobody will take it."""
    try:
        while not channel.put(item, _POLL_S):
            continue
    except Closed:
        return False
    return True


def received(channel: Channel[T], stop: threading.Event | None = None) -> Iterator[T]:
    """What comes through a channel, until it is closed or `stop` is set."""
    while stop is None or not stop.is_set():
        try:
            item = channel.get(_POLL_S)
        except TimeoutError:
            continue
        except Closed:
            return
        yield item


class FirstError:
    """Where threads leave what went wrong. The first error is kept: those that follow are its
    consequences.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def attempt(self, work: Callable[[], object]) -> None:
        """Do something, and keep the error that it raises."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001  `reraise` brings it to the thread that answers for it
            with self._lock:
                self._error = self._error or error

    @property
    def error(self) -> BaseException | None:
        """The first error; None where there was none."""
        return self._error

    def reraise(self) -> None:
        """Raise the first error, where there was one."""
        if self._error is not None:
            raise self._error
