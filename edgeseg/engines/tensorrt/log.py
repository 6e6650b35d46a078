"""Messages of TensorRT and TensorRT-RTX while they work."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector away while the runtime may call our logger.

    It calls it with a lock of its own held. A collection that begins there, and finds an earlier runtime in a
    cycle, as every exception makes one, destroys it, which waits for that lock for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Log:
    """Keeps errors, and counts the kernels that a builder left out for want of memory; the rest is dropped.

    Attributes:
        logger: what the runtime wants to be handed.
        errors: in the order they came.
        skipped: tactics that were skipped.
    """

    def __init__(self, trt: ModuleType) -> None:
        self.errors: list[str] = []
        self.skipped = 0
        self.logger: Any = _logger(trt, self)


def _logger(trt: ModuleType, log: Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                log.errors.append(message.strip())
            elif severity == trt.ILogger.WARNING and "skipping tactic" in message.lower():
                log.skipped += 1

    return Logger()
