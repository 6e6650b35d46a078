"""The overlapped runner against two loops that users write, side by side on one clip: bench_runner.py [--clip
C] [--bundle B]

    engine alone    `infer` on prepared images, one after the other: nothing can be faster
    plain loop      OpenCV: read, resize, infer, blend, encode
    stage loop      the usual single-threaded predictor: a loader, then preprocess, inference, postprocess and
                    plot, each timed, with a result object a frame
    edgeseg         `stream.run.runner.run`

All write the same overlay as an MPEG-4 video, take turns, and are given as medians over the rounds. Without a
bundle the engine is a double that sleeps, so that the figures are the loops' own. CPU is that of this
process: 1.00 is one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from edgeseg.bundle import open_bundle
from edgeseg.contracts import Session
from edgeseg.engines.open import open_session
from edgeseg.images import overlay, resize_image, resize_mask
from edgeseg.specs import ImageU8, MaskU8
from edgeseg.stream.run.runner import run
from edgeseg.stream.sinks.table import open_sinks
from edgeseg.stream.sources.table import open_source
from edgeseg.synthetic.scene import Scene
from streams import session, write_video

Stages = dict[str, float]


class Stopwatch:
    """Total ms of each stage of a loop."""

    def __init__(self) -> None:
        self.total_ms: Stages = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self.total_ms[stage] += 1e3 * (time.perf_counter() - start_s)


def frames_of(clip: str, watch: Stopwatch) -> Iterator[ImageU8]:
    capture = cv2.VideoCapture(clip)
    while True:
        with watch("read"):
            good, image_bgr = capture.read()
        if not good:
            capture.release()
            return
        yield image_bgr


def writer_for(clip: str, out: Path, image_bgr: ImageU8) -> Any:
    capture = cv2.VideoCapture(clip)
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return cv2.VideoWriter(
        str(out), cv2.VideoWriter_fourcc(*"mp4v"), fps, (image_bgr.shape[1], image_bgr.shape[0])
    )


def engine_alone(engine: Session, clip: str, out: Path) -> tuple[int, Stages]:
    """Every frame's inference and nothing else; the images are read and resized before the clock starts."""
    images = [
        resize_image(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), engine.program.image.size_hw)
        for image in prepared(clip)
    ]
    start_s = time.perf_counter()
    for image_rgb in images:
        engine.infer(image_rgb)
    return len(images), {"infer": 1e3 * (time.perf_counter() - start_s)}


def prepared(clip: str) -> list[ImageU8]:
    return list(frames_of(clip, Stopwatch()))


def plain_loop(engine: Session, clip: str, out: Path) -> tuple[int, Stages]:
    watch, writer, frames = Stopwatch(), None, 0
    for image_bgr in frames_of(clip, watch):
        with watch("resize"):
            image_rgb = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
            small_rgb = resize_image(image_rgb, engine.program.image.size_hw)
        with watch("infer"):
            mask = engine.infer(small_rgb)
        with watch("postprocess"):
            mask = resize_mask(mask, (image_rgb.shape[0], image_rgb.shape[1]))
        with watch("write"):
            writer = writer or writer_for(clip, out, image_bgr)
            writer.write(cv2.cvtColor(overlay(image_rgb, mask, engine.program.labels), cv2.COLOR_RGB2BGR))
        frames += 1
    writer.release()
    return frames, watch.total_ms


@dataclass
class Result:
    """What such a predictor hands out for each frame."""

    image_bgr: ImageU8
    mask: MaskU8
    speed_ms: Stages
    names: dict[int, str]

    def plot(self, palette_bgr: np.ndarray) -> ImageU8:
        """The frame with its mask over it, by numpy, as is usual."""
        coloured = palette_bgr[self.mask]
        return (self.image_bgr * 0.5 + coloured * 0.5).astype(np.uint8)


class Predictor:
    """A single-threaded predictor in the usual shape: call it, and it yields results."""

    def __init__(self, engine: Session) -> None:
        self.engine, self.watch = engine, Stopwatch()
        self.palette_bgr = engine.program.labels.palette()[:, ::-1]

    def __call__(self, clip: str) -> Iterator[Result]:
        names = dict(enumerate(self.engine.program.labels.names))
        for image_bgr in frames_of(clip, self.watch):
            with self.watch("resize"):
                batch = self.preprocess([image_bgr])
            with self.watch("infer"):
                masks = [self.engine.infer(image) for image in batch]
            with self.watch("postprocess"):
                mask = resize_mask(masks[0], image_bgr.shape[:2])
                present = np.unique(mask)
            yield Result(
                image_bgr,
                mask,
                dict(self.watch.total_ms),
                {int(index): names[int(index)] for index in present},
            )

    def preprocess(self, images_bgr: list[ImageU8]) -> np.ndarray:
        """A batch (N, H, W, 3) uint8 RGB, contiguous."""
        size_hw = self.engine.program.image.size_hw
        batch = np.stack([resize_image(image, size_hw) for image in images_bgr])
        return np.ascontiguousarray(batch[..., ::-1])


def stage_loop(engine: Session, clip: str, out: Path) -> tuple[int, Stages]:
    predictor, writer, frames = Predictor(engine), None, 0
    for result in predictor(clip):
        with predictor.watch("write"):
            writer = writer or writer_for(clip, out, result.image_bgr)
            writer.write(result.plot(predictor.palette_bgr))
        frames += 1
    writer.release()
    return frames, predictor.watch.total_ms


def edgeseg_run(engine: Session, clip: str, out: Path) -> tuple[int, Stages]:
    report = run(engine, open_source(clip), open_sinks([f"{out}#codec=mpeg4"]))
    return report.frames, {
        name: figures["mean_ms"] * figures["count"] for name, figures in report.stages.items()
    }


LOOPS: dict[str, Callable[[Session, str, Path], tuple[int, Stages]]] = {
    "engine alone": engine_alone,
    "plain loop": plain_loop,
    "stage loop": stage_loop,
    "edgeseg": edgeseg_run,
}
STAGES = ("read", "resize", "infer", "postprocess", "write")


def measure(engine: Session, clip: str, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, of fps, CPU use and ms a frame in each stage; `share` is of the engine alone
    in the same round.
    """
    seen: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in LOOPS}
    for number in range(rounds):
        alone_fps = 0.0
        for name, loop in LOOPS.items():
            cpu_s, start_s = time.process_time(), time.perf_counter()
            frames, stages = loop(engine, clip, folder / f"{number}.mp4")
            wall_s = stages["infer"] / 1e3 if name == "engine alone" else time.perf_counter() - start_s
            figures = seen[name]
            fps = frames / wall_s
            alone_fps = alone_fps or fps
            figures["fps"].append(fps)
            figures["share"].append(fps / alone_fps)
            if name != "engine alone":
                figures["cpu"].append((time.process_time() - cpu_s) / wall_s)
            for stage, total_ms in stages.items():
                figures[stage].append(total_ms / frames)
        (folder / f"{number}.mp4").unlink()
    return {
        name: {key: statistics.median(values) for key, values in figures.items()}
        for name, figures in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", help="a video; a synthetic one of 960x540 where none is given")
    parser.add_argument("--bundle", help="a bundle with an engine for this machine")
    parser.add_argument("--infer-ms", type=float, default=15.0, help="how long the double takes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="figures as JSON")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clip = options.clip
        if clip is None:
            scene = Scene(0, (540, 960))
            clip = str(
                write_video(
                    folder / "clip.mp4", [scene.frame(index, 25.0)[0] for index in range(60)] * 3, 25.0
                )
            )
        if options.bundle:
            engine = stack.enter_context(open_session(open_bundle(options.bundle), threads=options.threads))
        else:
            engine = session(lambda number: time.sleep(options.infer_ms / 1e3))
        figures = measure(engine, clip, folder, options.rounds)
    print(
        f"{'':<13}{'fps':>7}{'of engine':>11}{'cpu':>6}" + "".join(f"{stage + ' ms':>16}" for stage in STAGES)
    )
    for name, row in figures.items():
        cpu = f"{row['cpu']:.2f}" if "cpu" in row else ""
        stages = "".join(f"{row[stage]:>16.2f}" if stage in row else f"{'':>16}" for stage in STAGES)
        print(f"{name:<13}{row['fps']:>7.1f}{row['share']:>11.2f}{cpu:>6}{stages}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
