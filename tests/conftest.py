"""Every test: few threads, no writing into the user's home, hypothesis without deadlines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# A shell starts background jobs with SIGINT ignored, and children inherit that; the tests of Ctrl-C need the
# usual handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before numpy, OpenCV and torch start their pools; inherited by the subprocesses that tests start.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(_name, "2")
# Threads that spin while they wait make a busy machine several times slower: tests run beside each other, and
# beside other work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Tables are tested at the width that they have in a pipe, whatever terminal or test runner is around.
os.environ.pop("COLUMNS", None)

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "edgeseg", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("edgeseg")

# Of Python's own: they serve the whole process, and end with it.
_IS_KEPT = re.compile(r"multiprocessing\.(resource_tracker|forkserver|spawn)")
_REPORTER: list[Any] = []


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _same_scheduling() -> Iterator[None]:
    """A library that puts this process into real time would starve every test after it, and the machine."""
    before = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    yield
    if before is not None and os.sched_getscheduler(0) != before:
        os.sched_setscheduler(0, before, os.sched_param(0))
        pytest.fail("the test left the process under another scheduling policy, which its children inherit")


def _children() -> dict[int, str]:
    """Processes that this one has started and that have not ended: their command lines, by id."""
    found = {}
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in map(int, task.read_text().split()):
                place = Path(f"/proc/{pid}")
                if place.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[pid] = place.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.fixture(autouse=True, scope="module")
def _no_children_left() -> Iterator[None]:
    """A process that a file of tests leaves behind takes time and ports away from all that follow."""
    before = _children()
    yield
    left = {pid: line for pid, line in _children().items() if pid not in before and not _IS_KEPT.search(line)}
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if left:
        pytest.fail(f"left running: {list(left.values())}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say what failed at once: a log that is cut off tells it too."""
    if report.failed and _REPORTER:
        lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
        why = lines[0][1:].strip() if lines else ""
        _REPORTER[0].write_line(f"\nFAILED {report.nodeid} ({report.when}): {why}")


def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        _REPORTER.append(reporter)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
