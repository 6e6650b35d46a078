"""Runtimes known by heart, and a clock that passes only while they run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeseg.engines import table
from edgeseg.registry import ENGINES_GROUP, Table
from edgeseg.specs import ImageU8, MaskU8
from edgeseg.testing.fakes import FakeBackend
from tiny import tiny_mask

Answer = Callable[[ImageU8], MaskU8]


class Clock:
    """Time passes only while an engine runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now_s)

    def taking(self, ms: float, answer: Answer = tiny_mask) -> Answer:
        def timed(image: ImageU8) -> MaskU8:
            self.now_s += ms / 1000
            return answer(image)

        return timed


def runtimes(monkeypatch: pytest.MonkeyPatch, *backends: FakeBackend) -> None:
    """These are all the runtimes that there are."""
    by_name = {backend.name: backend for backend in backends}
    monkeypatch.setattr(table, "ENGINES", Table(ENGINES_GROUP, "runtime", dict.fromkeys(by_name, "")))
    monkeypatch.setattr(table, "backend", lambda name, machine=None, progress=None: by_name[name])
