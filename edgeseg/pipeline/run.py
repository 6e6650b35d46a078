"""Streams on a bundle's engines: the sessions of a run, and who chooses among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from edgeseg.bundle import Bundle
from edgeseg.contracts import Session
from edgeseg.engines.open import find_engine, open_engine
from edgeseg.errors import BundleError
from edgeseg.specs import Precision
from edgeseg.stream.run.governor import Governor, Target
from edgeseg.stream.run.levels import check_alike
from edgeseg.text import quoted


@contextmanager
def open_governed(
    bundle: Bundle,
    target: Target,
    *,
    first: int = 0,
    threads: int | None = None,
    precision: Precision | None = None,
) -> Iterator[tuple[dict[int, Session], Governor]]:
    """Open this device's engines of all levels from `first` on, and a governor that knows their measured
    times.

    Args:
        first: the most exact level that may be used.
        threads: overrides the number that each engine was measured with.
        precision: engines of this precision only; None: whatever a build chose for each level.
    Raises:
        BundleError: there is no level but `first` from there on, one has no engine for this device, or they
            differ in image or classes.
    """
    count = len(bundle.manifest.levels)
    if first == count - 1:
        told = f"level {first} is the last of {count}" if first else "it has only one"
        raise BundleError(
            f"{bundle.path}: to hold a deadline or a rate there must be a faster level to move to, and"
            f" {told}",
            hint=(
                "edgeseg isr RECIPE --levels 3 keeps several plans; edgeseg export RECIPE --levels PLAN.json"
                " packs them"
            ),
        )
    # Where there is no level `first` either, `find_engine` says so.
    entries = [
        find_engine(bundle, level, precision=precision) for level in range(first, max(count, first + 1))
    ]
    unmeasured = [entry.level for entry in entries if not entry.measurements.get("median_ms")]
    if unmeasured:
        raise BundleError(
            f"{bundle.path}: the engine of level {unmeasured[0]} was never timed",
            hint=f"edgeseg build {quoted(bundle.path)} --force",
        )
    measured_ms = [float(entry.measurements["median_ms"]) for entry in entries]
    with ExitStack() as stack:
        sessions = {
            entry.level: stack.enter_context(open_engine(bundle, entry, threads)) for entry in entries
        }
        check_alike(sessions)
        # Levels that may not be used count as slow as the first that may.
        yield sessions, Governor([measured_ms[0]] * first + measured_ms, target, first=first)
