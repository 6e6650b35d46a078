"""A long run at real-time rate, with a fault every 30 s: bench_soak.py [--minutes 60] [--out soak.json]

Three sources at once: a video file at its own pace, a camera that nothing happens to, and a camera whose
server is killed, frozen for a moment, frozen for long, and restarted with another picture size and rate, in
turn. The cameras are recorded in segments.

What must hold, and is checked: every frame of the file comes once, in order, its mask equal to that of a
plain loop; the age of frames stays below a bound; memory, threads and file descriptors do not grow. Exit 1
where one does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cameras import RtspServer, missing, wait_for
from common.stream_bench import (
    Held,
    RealTime,
    commit,
    held,
    held_at_rest,
    in_background,
    nano_session,
    slope_mb_per_h,
)
from edgeseg.bundle import open_bundle
from edgeseg.contracts import FrameSink, Session
from edgeseg.engines.open import open_session
from edgeseg.results import Result
from edgeseg.stream.run.mailbox import Policy
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.stream.run.supervisor import Patience
from edgeseg.stream.sinks.table import route_sinks
from edgeseg.stream.sources.table import open_source
from edgeseg.stream.watch.stats import Timings
from edgeseg.stream.watch.status import Monitor
from edgeseg.synthetic.scene import Scene
from streams import write_video

CLIP_FPS, CAMERA_FPS = 12.0, 8
MAX_AGE_MS = 1000.0
AGE_BOUND_MS = 2 * MAX_AGE_MS
WINDOW_S = 60.0
SETTLE_SHARE = 0.2
RSS_BOUND_MB_PER_H = 40.0


class Checks(FrameSink):
    """A sink that compares the file's masks with the plain loop's, and keeps the ages of each source by the
    minute.
    """

    name = "checks"
    takes_all_sources = True

    def __init__(self, expected: list[int]) -> None:
        self.expected = expected
        self.frames = self.wrong = self.gaps = 0
        self.ages: dict[str, list[Timings]] = {}
        self._start_s = time.monotonic()

    def write(self, result: Result) -> None:
        frame, mask = result.frame, result.mask
        windows = self.ages.setdefault(frame.source_id, [])
        while len(windows) <= (time.monotonic() - self._start_s) / WINDOW_S:
            windows.append(Timings())
        windows[-1].add(result.age_ms)
        if frame.source_id == "clip":
            self.gaps += frame.index != self.frames
            self.wrong += zlib.crc32(mask) != self.expected[frame.index % len(self.expected)]
            self.frames += 1

    def close(self) -> None: ...


def plain_loop(engine: Session, clip: Path) -> list[int]:
    """Checksum of each mask, by OpenCV's reader and the engine alone."""
    capture, found = cv2.VideoCapture(str(clip)), []
    while True:
        good, image_bgr = capture.read()
        if not good:
            return found
        found.append(zlib.crc32(engine.segment(np.ascontiguousarray(image_bgr[:, :, ::-1]))))


def cause_faults(server: RtspServer, stop: threading.Event, every_s: float, told: list[str]) -> None:
    """One fault after another until `stop`."""
    sizes, turn = [("320x240", 8), ("256x192", 12)], 0
    while not stop.wait(every_s):
        kind = (
            "killed for 2 s",
            "frozen for 2 s",
            "frozen for 10 s",
            "restarted with another size and rate",
        )[turn % 4]
        if turn % 4 in (0, 3):
            server.kill()
            stop.wait(2)
            size, fps = sizes[(turn + 1) // 4 % 2]
            server.start(size=size, fps=fps)
        else:
            server.freeze()
            stop.wait(2 if turn % 4 == 1 else 10)
            server.thaw()
        told.append(kind)
        turn += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--fault-s", type=float, default=30.0, help="seconds from one fault to the next")
    parser.add_argument(
        "--bundle", help="a bundle with an engine for this machine; EDAFormer-nano where none is given"
    )
    parser.add_argument("--out", type=Path, help="figures as JSON, renewed every minute")
    options = parser.parse_args()
    if missing():
        raise SystemExit(f"not run: {missing()}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = stack.enter_context(
            open_session(open_bundle(options.bundle)) if options.bundle else nano_session(folder)
        )
        scene = Scene(0, (240, 320))
        clip = write_video(
            folder / "clip.mp4", [scene.frame(index, CLIP_FPS)[0] for index in range(120)], CLIP_FPS
        )
        servers = [RtspServer(fps=CAMERA_FPS), RtspServer(fps=CAMERA_FPS)]
        for server in servers:
            stack.callback(server.kill)
            server.start()
        figures = soak(engine, clip, servers, folder, options)
    print(json.dumps(figures, indent=2))
    raise SystemExit(0 if all(figures["holds"].values()) else 1)


def soak(
    engine: Session, clip: Path, servers: list[RtspServer], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    stop, over, monitor, told = threading.Event(), threading.Event(), Monitor(), list[str]()
    checks = Checks(plain_loop(engine, clip))
    live = Policy("oldest", 1, MAX_AGE_MS)
    sources = [
        RealTime(clip, "clip", CLIP_FPS, stop),
        *(open_source(f"cam{i}={server.uri()}") for i, server in enumerate(servers)),
    ]
    names = {source.source_id: "" for source in sources}
    recorded = route_sinks(
        [f"{folder}/{{source}}.mp4#segment_s=120&keep=2"], {name: "" for name in names if name != "clip"}
    )
    before, samples, reports = held_at_rest(), list[Held](), list[Any]()

    def work() -> None:
        patience = Patience(retry_s=0.5, retry_cap_s=4, start_s=60)
        policy = {source.source_id: live for source in sources if source.is_live}
        sinks = {**recorded, "": [checks, *recorded.get("", [])]}
        reports.append(
            run(engine, sources, sinks, Options(policy=policy, patience=patience, monitor=monitor, stop=stop))
        )
        over.set()

    start_s = time.monotonic()
    runner = in_background(work)
    wait_for(lambda: checks.frames > 0, 60)
    faults = in_background(lambda: cause_faults(servers[0], stop, options.fault_s, told))
    while time.monotonic() - start_s < 60 * options.minutes:
        stop.wait(2)
        samples.append(held())
        if options.out and len(samples) % 30 == 0:
            figures = summary(checks, samples, before, before, told, monitor, time.monotonic() - start_s)
            options.out.write_text(json.dumps(figures, indent=2))
    stop.set()
    asked_s = time.monotonic()
    runner.join(30)
    stopped_s = time.monotonic() - asked_s
    faults.join(30)
    figures = summary(
        checks, samples, before, held_at_rest(before), told, monitor, time.monotonic() - start_s
    )
    figures |= {"stop_s": round(stopped_s, 2), "failures": reports[0].failures, "stages": reports[0].stages}
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2))
    return figures


def summary(
    checks: Checks,
    samples: list[Held],
    before: Held,
    after: Held,
    told: list[str],
    monitor: Monitor,
    lasted_s: float,
) -> dict[str, Any]:
    """The figures up to now, and what of them holds."""
    settled = samples[int(SETTLE_SHARE * len(samples)) :]
    snapshot = monitor.snapshot()
    ages = {
        name: [round(window.percentile_ms(0.99), 1) for window in list(windows) if window.count]
        for name, windows in checks.ages.items()
    }
    slope = slope_mb_per_h(settled)
    lasted_h = lasted_s / 3600
    return {
        "commit": commit(),
        "minutes": round(lasted_s / 60, 2),
        "faults": len(told),
        "file": {"frames": checks.frames, "gaps": checks.gaps, "wrong_masks": checks.wrong},
        "age_p99_ms_by_minute": ages,
        "sources": [] if snapshot is None else [source.to_json() for source in snapshot.sources],
        "sinks": [] if snapshot is None else [sink.to_json() for sink in snapshot.sinks],
        "events": dict(monitor.events.counts),
        "rss_mb": {"first": settled[0].rss_mb, "last": settled[-1].rss_mb, "slope_per_h": round(slope, 2)},
        "threads": {"before": before.threads, "running": settled[-1].threads, "after": after.threads},
        "fds": {"before": before.fds, "running": settled[-1].fds, "after": after.fds},
        "cpu_share": round((samples[-1].cpu_s - samples[0].cpu_s) / (samples[-1].at_s - samples[0].at_s), 3),
        "holds": {
            "no frame of the file is missing or doubled": checks.gaps == 0,
            "masks are those of a plain loop": checks.wrong == 0,
            f"age p99 stays below {AGE_BOUND_MS:g} ms": all(
                p99 < AGE_BOUND_MS for windows in ages.values() for p99 in windows
            ),
            f"memory grows less than {RSS_BOUND_MB_PER_H:g} MB an hour, where ten minutes tell": lasted_h
            < 1 / 6
            or slope < RSS_BOUND_MB_PER_H,
            "threads and descriptors are given back": after.threads <= before.threads + 1
            and after.fds <= before.fds,
        },
    }


if __name__ == "__main__":
    main()
