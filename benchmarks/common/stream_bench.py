"""What the benchmarks of the stream share: a small engine, what a process holds, a file that plays in real
time.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from edgeseg.contracts import FrameSource, Session
from edgeseg.engines import table
from edgeseg.specs import Frame, ImageSpec, IsrPlan, LabelSpace, Program
from edgeseg.stream.sources.table import open_source

SIZE_HW = (128, 128)
CLASSES = 10
_LABELS = LabelSpace(
    tuple(f"class{index}" for index in range(CLASSES)),
    tuple((25 * index, 128, 255 - 25 * index) for index in range(CLASSES)),
)


def nano_session(folder: Path, threads: int = 1) -> Session:
    """EDAFormer-nano with random weights from a fixed seed, 128x128, in ONNX Runtime. torch stays in a
    process of its own.
    """
    path = folder / "nano.onnx"
    maker = multiprocessing.get_context("spawn").Process(target=_export, args=(path,))
    maker.start()
    maker.join()
    program = Program(path, ImageSpec(SIZE_HW), _LABELS, 1, IsrPlan(), "float", "edaformer_nano")
    backend = table.backend("onnxruntime")
    options = {"threads": threads}
    return backend.load(program, backend.compile(program, folder, options), options)


def _export(path: Path) -> None:
    import torch

    from edgeseg.export.program import export_program
    from edgeseg.models import build_model

    torch.manual_seed(0)
    model = build_model("edaformer_nano", CLASSES).eval()
    export_program(
        model, image=ImageSpec(SIZE_HW), labels=_LABELS, mask_stride=1, arch="edaformer_nano", out=path
    )


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds: memory in MB, threads, file descriptors, and processor time that it used, in
    s.
    """

    at_s: float
    rss_mb: float
    threads: int
    fds: int
    cpu_s: float

    def to_json(self) -> dict[str, float]:
        return {key: round(value, 3) for key, value in asdict(self).items()}


def held() -> Held:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    times = os.times()
    return Held(
        time.monotonic(),
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
        times.user + times.system,
    )


def held_at_rest(before: Held | None = None) -> Held:
    """After what can be freed was freed, and threads that were left behind have had ten seconds to end."""
    deadline_s = time.monotonic() + 10
    while True:
        gc.collect()
        time.sleep(0.5)
        now = held()
        if before is None or now.threads <= before.threads or time.monotonic() > deadline_s:
            return now


def slope_mb_per_h(samples: list[Held]) -> float:
    """How fast the memory grows: least squares over the samples."""
    if len(samples) < 3:
        return float("nan")
    hours = np.array([sample.at_s for sample in samples]) / 3600
    return float(np.polyfit(hours - hours[0], [sample.rss_mb for sample in samples], 1)[0])


class RealTime(FrameSource):
    """A video file at its own pace, over and over until `stop`; every frame counts on, none is left out."""

    is_live = False

    def __init__(self, clip: Path, name: str, fps: float, stop: threading.Event) -> None:
        self.source_id, self.fps = name, fps
        self.frame_count: int | None = None
        self._clip, self._stop = clip, stop

    def open(self) -> None: ...

    def frames(self) -> Iterator[Frame]:
        index, start_s = 0, time.monotonic()
        while not self._stop.is_set():
            source = open_source(str(self._clip))
            source.open()
            for frame in source.frames():
                self._stop.wait(max(0.0, start_s + index / self.fps - time.monotonic()))
                if self._stop.is_set():
                    break
                yield replace(
                    frame,
                    index=index,
                    pts_s=index / self.fps,
                    arrival_s=time.monotonic(),
                    source_id=self.source_id,
                )
                index += 1
            source.close()

    def close(self) -> None: ...


_conforms: type[FrameSource] = RealTime


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Run something on a thread, and end the process where it raises: a benchmark must not go on without
    it.
    """

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  told, then the process ends
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


def commit() -> str:
    """The commit that was measured."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return told.stdout.strip()
