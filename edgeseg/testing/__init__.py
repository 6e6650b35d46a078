"""Fakes of what an extension builds on, and checks that an extension keeps its contract.

A check raises AssertionError that says which promise is broken; call it from a test of any framework. What
needs torch is in `edgeseg.testing.models`.
"""

from edgeseg.testing.engines import check_backend
from edgeseg.testing.fakes import (
    FakeBackend,
    FakeLiveSource,
    FakeMeter,
    FakeProgress,
    FakeSession,
    FakeSink,
    FakeSource,
)
from edgeseg.testing.streams import check_sink, check_source
from edgeseg.testing.values import check_dataset, check_meter

__all__ = [
    "FakeBackend",
    "FakeLiveSource",
    "FakeMeter",
    "FakeProgress",
    "FakeSession",
    "FakeSink",
    "FakeSource",
    "check_backend",
    "check_dataset",
    "check_meter",
    "check_sink",
    "check_source",
]
