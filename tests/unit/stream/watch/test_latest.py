"""The worker that never holds its owner up."""

from __future__ import annotations

import threading
import time

import pytest

from edgeseg.stream.watch.latest import LatestWorker
from streams import time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)


def test_it_takes_the_newest_and_leaves_out_what_it_is_too_slow_for() -> None:
    seen: list[int] = []
    busy, go_on = threading.Event(), threading.Event()

    def work(item: int) -> None:
        busy.set()
        assert go_on.wait(10)
        seen.append(item)

    worker = LatestWorker("test", work)
    worker.offer(0)
    assert busy.wait(10)
    start_s = time.perf_counter()
    for item in range(1, 100):
        worker.offer(item)
    assert time.perf_counter() - start_s < 1
    go_on.set()
    assert worker.close()
    assert seen == [0, 99] and worker.done == 2 and worker.skipped == 98


def test_its_owner_hears_of_an_error() -> None:
    def work(item: str) -> None:
        raise ValueError(item)

    worker = LatestWorker("test", work)
    worker.offer("first")
    worker.close()
    for _ in range(2):
        with pytest.raises(ValueError, match="first"):
            worker.offer("second")


def test_work_that_hangs_is_left_behind() -> None:
    go_on = threading.Event()
    worker = LatestWorker("test", lambda item: go_on.wait(10))
    worker.offer(1)
    start_s = time.perf_counter()
    assert not worker.close(0.2)
    assert time.perf_counter() - start_s < 1
    go_on.set()
    assert worker.close(5)
