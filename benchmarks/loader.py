"""Images a second on the way to training: reading, augmenting, whole batches by number of workers, and the
scene generator.

python benchmarks/loader.py [--format camvid --data-root DIR] [--seconds 3] [--workers 0 1 2]

Without a data root the files are street scenes, 480x360, JPEG with indexed PNG labels, written to a temporary
folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from edgeseg.contracts import SegDataset
from edgeseg.data.datasets import open_dataset
from edgeseg.data.loader import StepSampler, train_batches
from edgeseg.data.transforms import TrainTransform
from edgeseg.recipe.schema import Augment, Data
from edgeseg.specs import ImageSpec
from edgeseg.synthetic.scene import LABELS, Scene

CROP_HW = (256, 320)
BATCH = 16


def write_scenes(root: Path, count: int = 64) -> Data:
    """A `folders` data set of street scenes."""
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for seed in range(count):
        image, mask = Scene(seed, (360, 480)).frame(seed)
        cv2.imwrite(str(root / f"images/{seed:04}.jpg"), image[..., ::-1])
        label = Image.fromarray(mask).convert("P")
        label.save(root / f"labels/{seed:04}.png")
    split = {"images": "images", "labels": "labels"}
    classes = {"names": LABELS.names, "palette_rgb": LABELS.palette_rgb}
    return Data.model_validate({"format": "folders", "classes": classes, "train": split, "val": split})


def per_second(step: Callable[[int], object], seconds: float) -> float:
    """Calls a second of `step(number)`."""
    step(0)
    start_s = time.perf_counter()
    for number in itertools.count(1):
        step(number)
        if (elapsed_s := time.perf_counter() - start_s) >= seconds:
            return number / elapsed_s
    raise AssertionError("unreachable")


def batches_per_second(dataset: SegDataset, transform: TrainTransform, workers: int, seconds: float) -> float:
    """Batches a second, after the first ones of each worker."""
    sampler = StepSampler(len(dataset), BATCH, 1, 1_000_000, 0, seed=0, rank=0, world_size=1)
    stream = train_batches(dataset, transform, sampler, workers)
    for _ in range(1 + 4 * workers):  # what the workers have made ahead does not count
        next(stream)
    return per_second(lambda _: next(stream), seconds)


def measure(data: Data, root: Path, seconds: float, workers: list[int]) -> dict[str, Any]:
    dataset = open_dataset(data, "train", root)
    pad_rgb = ImageSpec(CROP_HW).mean_rgb
    transform = TrainTransform(Augment(crop_hw=CROP_HW), pad_rgb, dataset.labels.ignore_index, seed=0)
    image, mask = dataset.load(0)
    cv2.setNumThreads(1)
    return {
        "samples": len(dataset),
        "size_hw": list(mask.shape),
        "crop_hw": list(CROP_HW),
        "cores": os.cpu_count(),
        "load_1_thread": per_second(lambda number: dataset.load(number % len(dataset)), seconds),
        "transform_1_thread": per_second(lambda number: transform(image, mask, 0, number), seconds),
        "scene_256x320_1_thread": per_second(lambda number: Scene(number, (256, 320)).frame(number), seconds),
        "loader": {
            f"{count} workers": BATCH * batches_per_second(dataset, transform, count, seconds)
            for count in workers
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", default="camvid", help="format of the data in --data-root")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each figure")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.data_root:
            root, data = (
                given.data_root,
                Data.model_validate({"format": given.format, "classes": None, "train": None, "val": None}),
            )
        else:
            root = Path(folder)
            data = write_scenes(root)
        figures = measure(data, root, given.seconds, given.workers)
    print(json.dumps({"unit": "images per second", **figures}, indent=2, default=float))


if __name__ == "__main__":
    main()
