"""What our logger does inside of NVIDIA's runtimes."""

from __future__ import annotations

import gc

import pytest

from edgeseg.engines.tensorrt.log import no_collection


class Runtime:
    """As NVIDIA's: its destructor takes the lock that is held while a logger is called."""

    locked = False

    def __init__(self) -> None:
        self.itself = self  # a cycle, which only a collection ends

    def __del__(self) -> None:
        DESTROYED.append(Runtime.locked)


DESTROYED: list[bool] = []
"""Whether the lock was held, of each runtime that was destroyed."""


def test_no_runtime_is_destroyed_while_another_is_made() -> None:
    thresholds = gc.get_threshold()
    try:
        gc.set_threshold(1, 1, 1)
        with no_collection():
            Runtime()
            Runtime.locked = True
            kept = [[] for _ in range(1000)]  # what a logger allocates
            Runtime.locked = False
        assert gc.isenabled() and len(kept) == 1000
        gc.collect()
        assert DESTROYED == [False]
    finally:
        Runtime.locked = False
        gc.set_threshold(*thresholds)


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError), no_collection():
            raise ZeroDivisionError
        assert not gc.isenabled()
    finally:
        gc.enable()
