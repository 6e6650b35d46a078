"""Draw a few pictures in the yard format: python make_yard.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

COLOURS = np.array([(110, 90, 60), (160, 160, 160), (240, 170, 0)], np.uint8)


def draw(root: Path, split: str, count: int) -> None:
    """Write photos and marks of one split: ground, a path across it, and a machine."""
    for name in range(count):
        rng = np.random.default_rng(name + 1000 * (split == "val"))
        mask = np.zeros((64, 96), np.uint8)
        left, top, edge = rng.integers(0, 72), rng.integers(0, 40), rng.integers(20, 44)
        mask[edge : edge + 12] = 1
        mask[top : top + 20, left : left + 24] = 2
        photo = np.clip(COLOURS[mask] + rng.normal(0, 8, (64, 96, 3)), 0, 255).astype(np.uint8)
        photos, marks = f"photos/{split}/{name:03d}.jpg", f"marks/{split}/{name:03d}.png"
        for file, picture in ((photos, photo[..., ::-1]), (marks, 10 + 10 * mask)):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / file), picture)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), "train", 24)
    draw(Path(sys.argv[1]), "val", 8)
