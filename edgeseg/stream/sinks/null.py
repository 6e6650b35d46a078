"""The sink that keeps nothing."""

from __future__ import annotations

from edgeseg.contracts import FrameSink
from edgeseg.results import Result


class Nothing(FrameSink):
    """Takes results and keeps none, for timing."""

    takes_all_sources = True
    name = "null:"

    def write(self, result: Result) -> None:
        """Forget it."""


def from_uri(uri: str, opacity: float) -> Nothing:
    """Return the sink of `null:`."""
    return Nothing()
