"""Progress of a compilation: runtimes do not say, so the seconds of the last one of its kind are the
measure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgeseg.bundle.manifest import EngineEntry
from edgeseg.contracts import Progress

TICK_S = 1.0


def expected_s(engines: Sequence[EngineEntry], runtime: str, kind: str, device_key: str) -> float | None:
    """Return how long the last compilation of a runtime took, in seconds: on this device and of this kind if
    there was one.

    Args:
        engines: those of a bundle, which are of one model, oldest first.
    """
    timed = [
        engine for engine in engines if engine.runtime == runtime and "compile_ms" in engine.measurements
    ]
    last = max(timed, key=lambda e: (e.device_key == device_key, e.kind == kind, e.created), default=None)
    return last.measurements["compile_ms"] / 1000 if last else None


@contextmanager
def paced(progress: Progress, task: str, expected_s: float | None) -> Iterator[None]:
    """Show seconds as the steps of a task, out of those expected; nothing is shown of what is over in less
    than `TICK_S`.
    """
    total = math.ceil(expected_s) if expected_s else None
    over = threading.Event()

    def tick() -> None:
        seconds = 0
        while not over.wait(TICK_S):
            if not seconds:
                progress.start(task, total)
            seconds += 1
            progress.advance(task, 1 if total is None or seconds < total else 0)
        if seconds:
            progress.finish(task)

    ticking = threading.Thread(target=tick, name="edgeseg-pace", daemon=True)
    ticking.start()
    try:
        yield
    finally:
        over.set()
        ticking.join()
