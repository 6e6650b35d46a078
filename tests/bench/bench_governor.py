"""What the governor is worth: one clip with a slow phase, at a fixed level and governed, side by side.

    python tests/bench/bench_governor.py [--bundle B] [--clip C] (--deadline-ms 40 | --target-fps 25) [--frames 750] [--rounds 2]

While the middle third of the clip is written, processes that only burn CPU time run beside it. Frames come at the clip's rate, as
from a camera, and wait where the runner is late. Shown for each run: share of the frames over the limit, in all and in the slow
third, switches, share of the frames by level; and how far the governed masks are from those of the fixed level.

Without a bundle one is exported from the shipped checkpoint at three plans. Without a target the deadline is 1.5 times the
latency of the most exact level on the machine as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from burners import Burners
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.contracts import FrameSource
from edgeseg.devices.probe import usable_cores
from edgeseg.engines.build import build_engine
from edgeseg.metrics import ConfusionMatrix, mask_agreement
from edgeseg.specs import Frame, IsrPlan, LabelSpace, MaskU8
from edgeseg.stream.governor import Target
from edgeseg.stream.levels import open_governed
from edgeseg.stream.runner import run
from edgeseg.stream.sources import open_source

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
PLANS = ("1,1,1,1-1,1,1", "2,2,1,1-2,2,2", "4,4,2,1-4,4,2")
CLIP = "synthetic://640x480@{fps:g}?frames={frames}"
MASK_STEP = 4


class Paced:
    """A source whose frames come no earlier than their presentation times."""

    is_live = False

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.source_id, self.fps, self.frame_count = source.source_id, source.fps, source.frame_count

    def open(self) -> None:
        self._source.open()
        self.fps, self.frame_count = self._source.fps, self._source.frame_count

    def frames(self) -> Iterator[Frame]:
        start_s = time.monotonic()
        for frame in self._source.frames():
            time.sleep(max(0.0, start_s + frame.pts_s - time.monotonic()))
            yield replace(frame, arrival_s=time.monotonic())

    def close(self) -> None:
        self._source.close()


class Watch:
    """Starts and stops the load by thirds, and keeps every fourth pixel of the masks and all records."""

    def __init__(self, burners: Burners, frames: int) -> None:
        self._burners, self.slow = burners, range(frames // 3, 2 * frames // 3)
        self.masks: list[MaskU8] = []
        self.records: list[Mapping[str, Any]] = []

    def __call__(self, frame: Frame, mask: MaskU8, record: Mapping[str, Any]) -> None:
        self.masks.append(mask[::MASK_STEP, ::MASK_STEP].copy())
        self.records.append(record)
        if frame.index + 1 == self.slow.start:
            self._burners.start()
        elif frame.index + 1 == self.slow.stop:
            self._burners.stop()

    def figures(self, target: Target) -> dict[str, Any]:
        key = "latency_ms" if target.kind == "deadline" else "infer_ms"
        times_ms = np.array([record[key] for record in self.records])
        levels = [record["level"] for record in self.records]
        return {
            "over_limit": float((times_ms > target.limit_ms).mean()),
            "over_limit_slow_third": float((times_ms[self.slow.start : self.slow.stop] > target.limit_ms).mean()),
            "p50_ms": float(np.median(times_ms)),
            "p90_ms": float(np.quantile(times_ms, 0.9)),
            "age_p90_ms": float(np.quantile([record["age_ms"] for record in self.records], 0.9)),
            "switches": sum(a != b for a, b in pairwise(levels)),
            "level_share": {level: levels.count(level) / len(levels) for level in sorted(set(levels))},
        }


def shipped_levels(folder: Path) -> Bundle:
    """The shipped checkpoint at 384x512 and PLANS, with engines."""
    from edgeseg.pipeline.export import export_bundle
    from edgeseg.recipe.load import find_recipe, load_recipe

    recipe = load_recipe(find_recipe("edaformer_t_camvid"))
    plans = [IsrPlan.parse(plan) for plan in PLANS]
    bundle, _ = export_bundle(recipe, CHECKPOINT, folder / "levels.edgeseg", levels=plans)
    for level in range(len(PLANS)):
        build_engine(bundle, level=level)
    return bundle


def count(source: FrameSource, limit: int) -> int:
    """Frames of a clip, at most `limit`."""
    source.open()
    frames = min(limit, source.frame_count or limit)
    source.close()
    return frames


def distance(fixed: Sequence[MaskU8], governed: Sequence[MaskU8], labels: LabelSpace) -> dict[str, float]:
    """How far the governed masks are from those of the fixed level, which is taken for the truth."""
    cost = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    for truth, mask in zip(fixed, governed, strict=True):
        cost.update(truth, mask)
    agreement = float(np.mean([mask_agreement(mask, truth) for truth, mask in zip(fixed, governed, strict=True)]))
    return {"mask_agreement_with_fixed": agreement, "miou_against_fixed": float(cost.miou())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="with several levels, and an engine for each")
    parser.add_argument("--clip", help="a video; a synthetic one where none is given")
    parser.add_argument("--frames", type=int, default=750, help="of the clip; the phases are thirds of it")
    parser.add_argument("--fps", type=float, default=25.0, help="of the synthetic clip")
    parser.add_argument("--deadline-ms", type=float)
    parser.add_argument("--target-fps", type=float)
    parser.add_argument("--burners", type=int, default=usable_cores(), help="processes of the load")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    clip = options.clip or CLIP.format(fps=options.fps, frames=options.frames)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        burners = stack.enter_context(Burners(options.burners))
        bundle = open_bundle(options.bundle) if options.bundle else shipped_levels(folder)
        session = stack.enter_context(bundle.session(threads=options.threads))

        def source() -> FrameSource:
            return Paced(open_source(clip))

        frames = count(open_source(clip), options.frames)
        if options.target_fps:
            target = Target.fps(options.target_fps)
        elif options.deadline_ms:
            target = Target("deadline", options.deadline_ms)
        else:
            quiet = run(session, source(), [], limit=100)
            target = Target("deadline", round(1.5 * quiet.latency["p50_ms"], 1))
        rounds = []
        for _ in range(options.rounds):
            fixed, governed = Watch(burners, frames), Watch(burners, frames)
            run(session, source(), [], limit=frames, on_frame=fixed)
            with open_governed(bundle, target, threads=options.threads) as (sessions, governor):
                report = run(sessions, source(), [], limit=frames, governor=governor, on_frame=governed)
            cost = distance(fixed.masks, governed.masks, session.program.labels)
            switches = report.governor["switches"] if report.governor else []
            rounds.append(
                {"fixed": fixed.figures(target), "governed": {**governed.figures(target), **cost}, "switches": switches}
            )
    setting = {"clip": clip, "frames": frames, "target": target.kind, "limit_ms": target.limit_ms, "burners": options.burners}
    print(json.dumps({**setting, "rounds": rounds}, indent=2))


if __name__ == "__main__":
    main()
