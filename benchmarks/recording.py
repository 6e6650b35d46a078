"""Recordings against OpenCV's writer, in turns on one clip: bench_recording.py [--clip C] [--rounds N].

Each writes the overlay of every frame. OpenCV's is the loop that users write: mp4v, rate rounded, no picture
if it is killed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from edgeseg.images import overlay
from edgeseg.specs import ImageU8
from edgeseg.synthetic.scene import Scene
from sinking import mask_of, read_video, sink, write_all
from streams import LABELS


def by_opencv(path: Path, images: list[ImageU8]) -> None:
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 30000 / 1001, (width, height)
    )
    for image_rgb in images:
        writer.write(cv2.cvtColor(overlay(image_rgb, mask_of(image_rgb), LABELS), cv2.COLOR_RGB2BGR))
    writer.release()


def by_sink(options: str) -> Callable[[Path, list[ImageU8]], None]:
    return lambda path, images: write_all(sink(f"{path}#{options}"), images, 30000 / 1001)


WRITERS = {"OpenCV mp4v": by_opencv, "sink h264": by_sink("codec=h264"), "sink mpeg4": by_sink("codec=mpeg4")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", help="a video; a synthetic one of 960x540 where none is given")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.clip:
        images = read_video(Path(options.clip))[1][: options.frames]
    else:
        scene = Scene(0, (540, 960))
        images = [scene.frame(index, 30.0)[0] for index in range(options.frames)]
    shown = [overlay(image_rgb, mask_of(image_rgb), LABELS) for image_rgb in images[:20]]
    times_ms: dict[str, list[float]] = {name: [] for name in WRITERS}
    cpu_ms: dict[str, list[float]] = {name: [] for name in WRITERS}
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name, write in WRITERS.items():
                path = Path(folder) / "out.mp4"
                start_s, cpu_s = time.perf_counter(), time.process_time()
                write(path, images)
                times_ms[name].append(1e3 * (time.perf_counter() - start_s) / len(images))
                cpu_ms[name].append(1e3 * (time.process_time() - cpu_s) / len(images))
                back = read_video(path)[1]
                psnr_db = statistics.mean(cv2.PSNR(was, read) for was, read in zip(shown, back, strict=False))
                figures[name] = (os.path.getsize(path) / len(images) / 1e3, psnr_db)
                path.unlink()
    base_ms = statistics.median(times_ms["OpenCV mp4v"])
    height, width = images[0].shape[:2]
    print(
        f"{len(images)} frames of {width}x{height}, {options.rounds} rounds in turns, medians; overlay"
        " included"
    )
    print(f"{'writer':<12}  {'ms/frame':>8}  {'ratio':>5}  {'CPU ms':>6}  {'kB/frame':>8}  {'PSNR dB':>7}")
    for name, times in times_ms.items():
        wall_ms, (size_kb, psnr_db) = statistics.median(times), figures[name]
        cpu = statistics.median(cpu_ms[name])
        print(
            f"{name:<12}  {wall_ms:>8.2f}  {wall_ms / base_ms:>5.2f}  {cpu:>6.2f}  {size_kb:>8.1f} "
            f" {psnr_db:>7.1f}"
        )


if __name__ == "__main__":
    main()
