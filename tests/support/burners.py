"""A load generator: processes that do nothing but take CPU time away."""

from __future__ import annotations

import os
import subprocess
import sys

# It ends with the process that started it, and after two minutes whatever happens: a test that is killed, or
# fails while it starts some of many, leaves no load behind.
_CODE = """
import os, time
parent, until_s = os.getppid(), time.monotonic() + 120
while os.getppid() == parent and time.monotonic() < until_s:
    for _ in range(100_000):
        pass
"""


class Burners:
    """Busy processes from `start` to `stop`, which may be called again and in any
    order. Ends them as a context manager.

    Args:
        count: of processes; by default one for each CPU that this process may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self._count = count or len(os.sched_getaffinity(0))
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        while len(self._processes) < self._count:
            self._processes.append(subprocess.Popen([sys.executable, "-Sc", _CODE]))

    def stop(self) -> None:
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.wait()

    def __enter__(self) -> Burners:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
