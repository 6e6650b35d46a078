"""Events come to every listener in order, and no listener can hold up or break those who publish."""

from __future__ import annotations

import json
import threading
import time

import pytest

from cameras import wait_for
from edgeseg.stream.watch.events import Event, EventBus
from streams import time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


def test_listeners_get_all_in_order() -> None:
    bus, first, second = EventBus(), list[Event](), list[Event]()
    bus.subscribe(first.append)
    bus.subscribe(second.append)
    for number in range(300):
        bus.emit("state", str(number), "cam", number=number)
    bus.close(5)
    assert [event.details["number"] for event in first] == list(range(300))
    assert second == first
    assert [event.reason for event in bus.recent()] == [str(number) for number in range(100, 300)]
    assert bus.counts == {"state": 300}
    assert json.loads(json.dumps(first[7].to_json()))["details"] == {"number": 7}


def test_details_may_have_any_name() -> None:
    bus = EventBus()
    bus.emit("region", "blocked", "cam", source="x", kind="y", reason="z")
    (event,) = bus.recent()
    assert (event.kind, event.source, event.details) == (
        "region",
        "cam",
        {"source": "x", "kind": "y", "reason": "z"},
    )


def test_a_listener_that_hangs_holds_up_nobody_and_memory_is_bounded() -> None:
    bus, release = EventBus(), threading.Event()
    bus.subscribe(lambda event: release.wait(30))
    start_s = time.monotonic()
    for number in range(3000):
        bus.emit("state", str(number))
    bus.close(0.1)
    assert time.monotonic() - start_s < 5
    assert 1900 <= bus.lost <= 2000
    release.set()


def test_a_listener_that_raises_is_not_asked_again() -> None:
    bus, told = EventBus(), list[Event]()

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    bus.subscribe(broken)
    bus.subscribe(told.append)
    for _ in range(3):
        bus.emit("state", "x")
    wait_for(lambda: len(told) == 3, 5)
    bus.close()
    assert [type(error) for error in bus.errors] == [ZeroDivisionError]


def test_publishing_after_the_end_is_kept_and_told_to_nobody() -> None:
    bus, told = EventBus(), list[Event]()
    bus.subscribe(told.append)
    bus.close()
    bus.emit("state", "late")
    assert told == []
    assert [event.reason for event in bus.recent()] == ["late"]
