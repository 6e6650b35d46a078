"""The overlapped runner against a plain loop, side by side on one clip: bench_runner.py [--clip C] [--bundle B].

The plain loop is what a user would write: read, resize, infer, blend, encode, one after the other. Without a bundle the engine
is a double that sleeps, so that the figure is the runner's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgeseg.bundle import open_bundle
from edgeseg.contracts import Session
from edgeseg.images import overlay
from edgeseg.stream.runner import run
from edgeseg.stream.sinks import open_sinks
from edgeseg.stream.sources import open_source
from edgeseg.synthetic import Scene
from streams import session, write_video

ROUNDS = 3


def plain_loop(engine: Session, clip: str, out: Path) -> int:
    """The loop without overlap; returns the number of frames."""
    capture, writer, frames = cv2.VideoCapture(clip), None, 0
    while True:
        good, image_bgr = capture.read()
        if not good:
            break
        image_rgb = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
        blended = overlay(image_rgb, engine.segment(image_rgb), engine.program.labels)
        if writer is None:
            size = (image_rgb.shape[1], image_rgb.shape[0])
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter_fourcc(*"mp4v"), capture.get(cv2.CAP_PROP_FPS), size)
        writer.write(cv2.cvtColor(blended, cv2.COLOR_RGB2BGR))
        frames += 1
    if writer is not None:
        writer.release()
    capture.release()
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", help="a video; a synthetic one of 960x540 where none is given")
    parser.add_argument("--bundle", help="a bundle with an engine for this machine")
    parser.add_argument("--infer-ms", type=float, default=15.0, help="how long the double takes")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clip = options.clip
        if clip is None:
            scene = Scene(0, (540, 960))
            clip = str(write_video(folder / "clip.mp4", [scene.frame(index, 25.0)[0] for index in range(60)], 25.0))
        if options.bundle:
            engine = stack.enter_context(open_bundle(options.bundle).session(threads=options.threads))
        else:
            engine = session(lambda number: time.sleep(options.infer_ms / 1e3))
        print(f"{'round':>5}  {'plain fps':>9}  {'runner fps':>10}  {'ratio':>5}  {'infer p50 ms':>12}  bottleneck")
        for number in range(ROUNDS):
            start_s = time.perf_counter()
            frames = plain_loop(engine, clip, folder / "plain.mp4")
            plain_fps = frames / (time.perf_counter() - start_s)
            start_s = time.perf_counter()
            report = run(engine, open_source(clip), open_sinks([str(folder / "runner.mp4")]))
            runner_fps = report.frames / (time.perf_counter() - start_s)
            infer_ms = report.stages["infer"]["p50_ms"]
            print(
                f"{number:>5}  {plain_fps:>9.1f}  {runner_fps:>10.1f}  {runner_fps / plain_fps:>5.2f}  {infer_ms:>12.1f}  "
                f"{report.bottleneck}"
            )


if __name__ == "__main__":
    main()
