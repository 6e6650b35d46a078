"""How a check says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def expect(holds: object, promise: str) -> None:
    """Raise AssertionError with the promise that was broken, unless it holds."""
    if not holds:
        raise AssertionError(promise)


@contextmanager
def refused(kind: type[Exception] | tuple[type[Exception], ...], promise: str) -> Iterator[None]:
    """Expect what is done inside to raise this kind of error."""
    try:
        yield
    except kind:
        return
    raise AssertionError(promise)
