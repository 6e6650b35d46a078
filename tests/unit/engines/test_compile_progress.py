"""How far a compilation is: what is expected, and the seconds that are shown."""

from __future__ import annotations

import time
from typing import Any

import pytest

from edgeseg.engines.choose import compile_progress
from edgeseg.engines.choose.compile_progress import expected_s, paced
from tiny import tiny_engine

HERE, THERE = "a" * 64, "c" * 64


def engine(seconds: float, **changes: Any) -> Any:
    return tiny_engine(measurements={"compile_ms": 1000 * seconds}, **changes)


def test_the_nearest_build_of_the_same_runtime_tells() -> None:
    there = engine(9, device_key=THERE, created="2026-03-01T00:00:00+00:00")
    int8 = engine(3, precision="int8", created="2026-02-01T00:00:00+00:00")
    same = engine(2)
    engines = [same, int8, there, engine(50, runtime="openvino"), tiny_engine(measurements={})]
    assert expected_s(engines, "onnxruntime", "float", HERE) == 2
    assert expected_s([int8, there], "onnxruntime", "float", HERE) == 3
    assert expected_s([there], "onnxruntime", "float", HERE) == 9
    assert expected_s(engines, "tensorrt", "float", HERE) is None


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def start(self, task: str, total: int | None) -> None:
        self.seen.append(("start", task, total))

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self.seen.append(("advance", steps))

    def finish(self, task: str) -> None:
        self.seen.append(("finish", task))

    def message(self, text: str) -> None: ...


def test_seconds_go_by_up_to_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_progress, "TICK_S", 0.001)
    shown = Recorder()
    with paced(shown, "engine", 2.5):
        while len(shown.seen) < 6:
            time.sleep(0.001)
    assert shown.seen[0] == ("start", "engine", 3)
    assert shown.seen[-1] == ("finish", "engine")
    assert [steps for name, steps, *_ in shown.seen if name == "advance"][:4] == [1, 1, 0, 0]


def test_what_is_over_at_once_shows_nothing() -> None:
    shown = Recorder()
    with pytest.raises(KeyboardInterrupt), paced(shown, "engine", None):
        raise KeyboardInterrupt
    assert shown.seen == []
