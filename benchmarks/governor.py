"""What the governor is worth: one clip with a slow phase, at a fixed level and governed, side by side.

    python benchmarks/governor.py [--bundle B] [--clip C | --data-root DIR]
        [--deadline-ms 900 | --target-fps 2]
        [--frames 150] [--rounds 1] [--size 1024] [--plan 2,1,1,1-2,2,2]...

While the middle third of the clip is written, processes that only burn CPU time run beside it. Frames come at
the clip's rate, as from a camera, and wait where the runner is late. Shown for each run: share of the frames
over the limit, in all and in the slow third, switches, share of the frames by level; and how far the governed
masks are from those of the fixed level. With --data-root the frames are the recipe's validation images, again
from the first where they end, and mIoU is that against their labels.

A bundle that is not there is exported from the shipped checkpoint at five plans, and kept where --bundle
names a place. Without a target the deadline is 1.5 times the latency of the most exact level on the machine
as it is; without --fps the frames come 0.8 times as fast as that level could take them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from burners import Burners
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.contracts import FrameSource, SegDataset
from edgeseg.data.datasets import open_dataset
from edgeseg.devices.cores import usable_cores
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.open import open_session
from edgeseg.metrics import ConfusionMatrix, mask_agreement
from edgeseg.pipeline.run import open_governed
from edgeseg.results import Result
from edgeseg.specs import Frame, IsrPlan, LabelSpace, MaskU8
from edgeseg.stream.run.governor import Target
from edgeseg.stream.run.options import Options
from edgeseg.stream.run.runner import run
from edgeseg.stream.sources.table import open_source

RECIPE = "edaformer_t_camvid"
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / RECIPE / "weights.safetensors"
PLANS = ("1,1,1,1-1,1,1", "2,1,1,1-2,2,2", "2,2,1,1-2,2,2", "2,2,2,1-2,2,2", "4,4,4,4-4,4,4")
CLIP = "synthetic://640x480@{fps:g}?frames={frames}"
MASK_STEP = 4
KEEPS_UP = 0.8
WARMING = 15
"""Frames that the latency of the quiet machine is taken from."""


class Paced(FrameSource):
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


class Labelled(FrameSource):
    """The images of a validation split, in order and again from the first, as a clip."""

    is_live = False

    def __init__(self, data: SegDataset, fps: float, frames: int) -> None:
        self.data, self.source_id, self.fps, self.frame_count = data, "validation split", fps, frames

    def open(self) -> None: ...

    def frames(self) -> Iterator[Frame]:
        for index in range(self.frame_count):
            image, _ = self.data.load(index % len(self.data))
            yield Frame(image, index, index / self.fps, time.monotonic(), self.source_id)

    def truths(self) -> list[MaskU8]:
        """The labels of each frame, as sparse as the masks that are kept."""
        return [
            self.data.load(index % len(self.data))[1][::MASK_STEP, ::MASK_STEP]
            for index in range(self.frame_count)
        ]

    def close(self) -> None: ...


class Watch:
    """Starts and stops the load by thirds, and keeps every fourth pixel of the masks and all records."""

    def __init__(self, burners: Burners, frames: int) -> None:
        self._burners, self.slow = burners, range(frames // 3, 2 * frames // 3)
        self.masks: list[MaskU8] = []
        self.records: list[Mapping[str, Any]] = []

    def __call__(self, result: Result) -> None:
        frame, mask = result.frame, result.mask
        self.masks.append(mask[::MASK_STEP, ::MASK_STEP].copy())
        self.records.append(result.to_json())
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
            "over_limit_slow_third": float(
                (times_ms[self.slow.start : self.slow.stop] > target.limit_ms).mean()
            ),
            "p50_ms": float(np.median(times_ms)),
            "p90_ms": float(np.quantile(times_ms, 0.9)),
            "age_p90_ms": float(np.quantile([record["age_ms"] for record in self.records], 0.9)),
            "switches": sum(a != b for a, b in pairwise(levels)),
            "level_share": {level: levels.count(level) / len(levels) for level in sorted(set(levels))},
        }


def shipped_levels(path: Path, size: int, plans: Sequence[str], threads: int | None) -> Bundle:
    """The shipped checkpoint at size x size, mask at stride 4, and plans, with float engines."""
    from edgeseg.pipeline.export import export_bundle
    from edgeseg.recipe.load import load_recipe

    recipe = load_recipe(RECIPE, [f"export.size_hw=[{size},{size}]", "export.mask_stride=4"])
    bundle, _ = export_bundle(recipe, CHECKPOINT, path, levels=[IsrPlan.parse(plan) for plan in plans])
    for level in range(len(plans)):
        build_engine(bundle, level=level, threads=threads)
    return bundle


def count(source: FrameSource, limit: int) -> int:
    """Frames of a clip, at most `limit`."""
    source.open()
    frames = min(limit, source.frame_count or limit)
    source.close()
    return frames


def miou(truths: Sequence[MaskU8], masks: Sequence[MaskU8], labels: LabelSpace) -> float:
    confusion = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    for truth, mask in zip(truths, masks, strict=True):
        confusion.update(truth, mask)
    return float(confusion.miou())


def distance(fixed: Sequence[MaskU8], governed: Sequence[MaskU8], labels: LabelSpace) -> dict[str, float]:
    """How far the governed masks are from those of the fixed level, which is taken for the truth."""
    agreement = float(
        np.mean([mask_agreement(mask, truth) for truth, mask in zip(fixed, governed, strict=True)])
    )
    return {"mask_agreement_with_fixed": agreement, "miou_against_fixed": miou(fixed, governed, labels)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        help="with several levels, and an engine for each; exported where it is not there",
    )
    parser.add_argument("--size", type=int, default=1024, help="of the exported bundle's square images")
    parser.add_argument(
        "--plan", action="append", help="ISR plan of a level of the exported bundle; may be repeated"
    )
    parser.add_argument("--clip", help="a video; a synthetic one where neither it nor --data-root is given")
    parser.add_argument(
        "--data-root",
        type=Path,
        help="the frames are the validation images below it, and their labels the truth",
    )
    parser.add_argument("--frames", type=int, default=150, help="of the clip; the phases are thirds of it")
    parser.add_argument("--fps", type=float, help="of the frames that are no video")
    parser.add_argument("--deadline-ms", type=float)
    parser.add_argument("--target-fps", type=float)
    parser.add_argument("--burners", type=int, default=usable_cores(), help="processes of the load")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def clip_of(
    options: argparse.Namespace, bundle: Bundle, fps: float
) -> tuple[Callable[[], FrameSource], list[MaskU8]]:
    """What opens the frames, and their labels, where there are any."""
    if options.data_root is not None:
        labelled = Labelled(open_dataset(bundle.recipe().data, "val", options.data_root), fps, options.frames)
        return lambda: labelled, labelled.truths()
    clip = options.clip or CLIP.format(fps=fps, frames=options.frames)
    return lambda: open_source(clip), []


def main() -> None:
    options = arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        burners = stack.enter_context(Burners(options.burners))
        there = options.bundle is not None and options.bundle.exists()
        path = options.bundle or folder / "levels.edgeseg"
        bundle = (
            open_bundle(path)
            if there
            else shipped_levels(path, options.size, options.plan or PLANS, options.threads)
        )
        session = stack.enter_context(open_session(bundle, threads=options.threads))
        open_quiet, _ = clip_of(options, bundle, fps=1.0)
        quiet_ms = run(session, open_quiet(), [], Options(limit=WARMING)).latency["p50_ms"]
        open_clip, truths = clip_of(options, bundle, options.fps or round(1000 * KEEPS_UP / quiet_ms, 2))
        if options.target_fps:
            target = Target.fps(options.target_fps)
        else:
            target = Target("deadline", options.deadline_ms or round(1.5 * quiet_ms, 1))
        frames, rounds = count(open_clip(), options.frames), []
        for _ in range(options.rounds):
            fixed, governed = Watch(burners, frames), Watch(burners, frames)
            run(session, Paced(open_clip()), [], Options(limit=frames, on_result=fixed))
            with open_governed(bundle, target, threads=options.threads) as (sessions, governor):
                report = run(
                    sessions,
                    Paced(open_clip()),
                    [],
                    Options(limit=frames, governor=governor, on_result=governed),
                )
            figures = {"fixed": fixed.figures(target), "governed": governed.figures(target)}
            labels = session.program.labels
            figures["governed"] |= distance(fixed.masks, governed.masks, labels)
            if truths:
                for name, watch in (("fixed", fixed), ("governed", governed)):
                    figures[name]["miou"] = miou(truths[:frames], watch.masks, labels)
            cost = figures["fixed"]["miou"] - figures["governed"]["miou"] if truths else None
            switches = report.governor["switches"] if report.governor else []
            rounds.append({**figures, "miou_cost": cost, "switches": switches})
            print(told(figures, cost), file=sys.stderr, flush=True)
    setting = {
        "bundle": [level.isr for level in bundle.manifest.levels],
        "size_hw": session.program.image.size_hw,
        "source": open_clip().source_id,
        "frames": frames,
        "quiet_ms": quiet_ms,
        "target": target.kind,
        "limit_ms": target.limit_ms,
        "burners": options.burners,
    }
    print(json.dumps({**setting, "rounds": rounds}, indent=2))


def told(figures: Mapping[str, Any], cost: float | None) -> str:
    """The outcome in a sentence."""
    shares = " and ".join(
        f"{100 * one['over_limit']:.1f} % {name} ({100 * one['over_limit_slow_third']:.1f} % of the slow"
        " third)"
        for name, one in figures.items()
    )
    price = (
        f"{100 * cost:+.2f} points of mIoU" if cost is not None else "unknown mIoU, as there are no labels"
    )
    return f"over the limit: {shares}; the governor cost {price}"


if __name__ == "__main__":
    main()
