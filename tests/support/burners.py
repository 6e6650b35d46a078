"""A load generator: processes that do nothing but take CPU time away."""

from __future__ import annotations

import os
import subprocess
import sys


class Burners:
    """Busy processes from `start` to `stop`, which may be called again and in any order. Ends them as a
    context manager.

    Args:
        count: of processes; by default one for each CPU that this process may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self._count = count or len(os.sched_getaffinity(0))
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        if not self._processes:
            self._processes = [
                subprocess.Popen([sys.executable, "-Sc", "while True: pass"]) for _ in range(self._count)
            ]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []

    def __enter__(self) -> Burners:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
