"""What one camera costs that keeps failing, and what the others notice: bench_faults.py [--kills 20] [--out
faults.json]

Real RTSP servers on loopback, in turn: one is killed and restarted 20 times; frozen (SIGSTOP) and thawed, for
a moment and for longer than the watchdog waits; restarted with another picture size and rate; asked with a
wrong password; slow, a frame a second; and one of four dies. For each: frames delivered, time from the last
frame before to the first after, frame age, and memory, threads and descriptors before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cameras import RtspServer, missing, wait_for
from common.stream_bench import commit, held_at_rest, in_background, nano_session
from edgeseg.contracts import Session
from edgeseg.errors import AccessDenied
from edgeseg.stream.run.mailbox import Policy
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.sources.table import open_source
from edgeseg.stream.watch.status import Monitor

PATIENCE = Patience(stall_s=0.5, watchdog_s=3.0, connect_s=6.0, retry_s=0.25, retry_cap_s=1.0)
MAX_AGE_MS = 1000.0
FPS = 15


class Watched:
    """A run on a thread of its own, and what the faults need to know of it."""

    def __init__(self, engine: Session, servers: Sequence[RtspServer]) -> None:
        self.monitor, self.stop, self.reports = Monitor(), threading.Event(), list[Any]()
        sources = [
            open_source(f"{server.uri()}#timeout=3", f"cam{number}") for number, server in enumerate(servers)
        ]
        policy = Policy("oldest", 1, MAX_AGE_MS)
        self._thread = in_background(
            lambda: self.reports.append(
                run(
                    engine,
                    sources,
                    [],
                    Options(policy=policy, patience=PATIENCE, monitor=self.monitor, stop=self.stop),
                )
            )
        )
        for number in range(len(servers)):
            self.wait_for(15, number)

    def delivered(self, number: int = 0) -> int:
        snapshot = self.monitor.snapshot()
        return snapshot.sources[number].delivered if snapshot else 0

    def wait_for(self, frames: int, number: int = 0) -> None:
        """Until that many more frames of a source were delivered."""
        wanted = self.delivered(number) + frames
        wait_for(lambda: self.delivered(number) >= wanted, 60)

    def finish(self) -> Any:
        self.stop.set()
        self._thread.join(10)
        return self.reports[0]


def kills(watched: Watched, servers: Sequence[RtspServer], count: int) -> None:
    for _ in range(count):
        servers[0].kill()
        time.sleep(0.3)
        servers[0].start()
        watched.wait_for(10)


def freezes(watched: Watched, servers: Sequence[RtspServer], count: int) -> None:
    for turn in range(count):
        servers[0].freeze()
        time.sleep(1.5 if turn % 2 == 0 else 6)
        servers[0].thaw()
        watched.wait_for(20)


def changes(watched: Watched, servers: Sequence[RtspServer], count: int) -> None:
    for turn in range(count):
        servers[0].kill()
        servers[0].start(size=("400x300", "640x480", "320x240")[turn % 3], fps=(10, 25, FPS)[turn % 3])
        watched.wait_for(15)


def slow(watched: Watched, servers: Sequence[RtspServer], count: int) -> None:
    servers[0].kill()
    servers[0].start(fps=1)
    watched.wait_for(count)


def one_dies(watched: Watched, servers: Sequence[RtspServer], count: int) -> None:
    servers[0].kill()
    for _ in range(count):
        watched.wait_for(FPS, 1)


CASES: dict[str, tuple[int, Callable[[Watched, Sequence[RtspServer], int], None], int]] = {
    "killed and restarted": (1, kills, 20),
    "frozen and thawed": (1, freezes, 6),
    "another size and rate": (1, changes, 6),
    "a frame a second": (1, slow, 10),
    "one of four dies": (4, one_dies, 10),
}
"""Number of servers, what happens to the first, and how often."""


def measure(engine: Session, name: str, kills_wanted: int) -> dict[str, Any]:
    count, fault, times = CASES[name]
    times = kills_wanted if fault is kills else times
    servers = [RtspServer(fps=FPS) for _ in range(count)]
    before = held_at_rest()
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        watched = Watched(engine, servers)
        fault(watched, servers, times)
        report = watched.finish()
    after = held_at_rest(before)
    first, others = report.sources[0], report.sources[1:]
    return {
        "faults": times,
        "frames": report.frames,
        "reconnects": first["reconnects"],
        "reconnect_ms": {key: first["reconnect_ms"][key] for key in ("p50_ms", "max_ms")},
        "age_ms": {key: report.frame_age[key] for key in ("p50_ms", "p99_ms", "max_ms")},
        "dropped": first["dropped"],
        "others": [
            {
                "delivered": other["delivered"],
                "reconnects": other["reconnects"],
                "age_p99_ms": other["age_ms"]["p99_ms"],
            }
            for other in others
        ],
        "rss_mb": [round(before.rss_mb, 1), round(after.rss_mb, 1)],
        "threads": [before.threads, after.threads],
        "fds": [before.fds, after.fds],
    }


def wrong_password(engine: Session) -> dict[str, Any]:
    server = RtspServer(user="viewer", password="right")
    server.start()
    try:
        before, start_s = held_at_rest(), time.monotonic()
        try:
            run(engine, open_source(server.uri(login="viewer:wr0ng@")), [], Options(patience=PATIENCE))
            told = "nothing"
        except AccessDenied as error:
            told = str(error)
        lasted_ms, after = 1e3 * (time.monotonic() - start_s), held_at_rest(before)
    finally:
        server.kill()
    return {
        "told": told,
        "password_shown": "wr0ng" in told,
        "after_ms": round(lasted_ms),
        "fds": [before.fds, after.fds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=sorted(CASES), help="one case instead of all")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    if missing():
        raise SystemExit(f"not run: {missing()}")
    figures: dict[str, Any] = {"commit": commit()}
    with ExitStack() as stack:
        engine = stack.enter_context(nano_session(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        # Once for nothing: what libraries load and keep is not growth.
        measure(engine, "killed and restarted", 2)
        for name in [options.only] if options.only else CASES:
            figures[name] = measure(engine, name, options.kills)
            print(name, json.dumps(figures[name], indent=2), flush=True)
        figures["wrong password"] = wrong_password(engine)
        print("wrong password", json.dumps(figures["wrong password"], indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
