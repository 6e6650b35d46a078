"""What a run may be asked beside its session, sources and sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgeseg.contracts import NoProgress, Progress
from edgeseg.results import Result
from edgeseg.stream.run.governor import Governor
from edgeseg.stream.run.mailbox import Policy, PolicyOf
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.watch.alarms import RegionMonitor
from edgeseg.stream.watch.status import Monitor

OnResult = Callable[[Result], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of one run.

    Attributes:
        limit: frames at most, of each source.
        warmup: inferences on a black picture, with every session, when the first frame is there and before
            the clock starts.
        level: the bundle's program level that the session runs, for the results; not used with a governor.
        governor: chooses the level of each frame.
        policy: which frames are dropped, for all sources or by source id, also by whether it is live; else
            `mailbox.by_kind`.
        patience: time-outs and waits of live sources.
        regions: what is watched in the masks, by source id; what crosses a threshold is an event.
        on_result: called with what the sinks got, after them, on the writer's thread.
        stop: ends the run in good order within two seconds when set: what was inferred is written.
        monitor: shows the run while it goes on.
    """

    limit: int | None = None
    warmup: int = 1
    level: int = 0
    governor: Governor | None = None
    policy: Policy | Mapping[str, Policy | PolicyOf] | None = None
    patience: Patience = field(default_factory=Patience)
    regions: Mapping[str, RegionMonitor] = field(default_factory=dict)
    on_result: OnResult | None = None
    progress: Progress = field(default_factory=NoProgress)
    stop: threading.Event = field(default_factory=threading.Event)
    monitor: Monitor = field(default_factory=Monitor)
