"""The street generator: the same arguments give the same frame, masks fit their images, and time moves
things.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.specs import ImageU8, MaskU8
from edgeseg.synthetic import draw
from edgeseg.synthetic.scene import LABELS, Scene

SIZE_HW = (128, 160)
seeds = st.integers(0, 2**40)
sides = st.integers(32, 200)


@settings(max_examples=25)
@given(seeds, sides, sides, st.integers(0, 5000), st.floats(1, 240))
def test_any_scene_is_a_picture_with_a_class_for_every_pixel(
    seed: int, height: int, width: int, index: int, fps: float
) -> None:
    image, mask = Scene(seed, (height, width)).frame(index, fps)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert mask.shape == (height, width) and mask.dtype == np.uint8
    assert mask.max() < LABELS.num_classes
    assert image.std() > 3 and len(np.unique(mask)) >= 3


@settings(max_examples=15)
@given(seeds, st.lists(st.integers(0, 300), min_size=1, max_size=3))
def test_frames_do_not_depend_on_what_was_asked_before(seed: int, indices: list[int]) -> None:
    scene = Scene(seed, SIZE_HW)
    for index in [*indices, indices[0]]:
        image, mask = scene.frame(index)
        fresh_image, fresh_mask = Scene(seed, SIZE_HW).frame(index)
        np.testing.assert_array_equal(image, fresh_image)
        np.testing.assert_array_equal(mask, fresh_mask)


def test_another_process_makes_the_same_frame() -> None:
    code = "import zlib; from edgeseg.synthetic.scene import Scene; "
    code += "print(*(zlib.crc32(a.tobytes()) for a in Scene(5, (64, 96)).frame(9)))"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_frames_are_the_callers_own() -> None:
    scene = Scene(0, SIZE_HW)
    image, mask = scene.frame(0)
    kept = image.copy(), mask.copy()
    scene.frame(1)
    np.testing.assert_array_equal(image, kept[0])
    image[:], mask[:] = 0, 0
    np.testing.assert_array_equal(scene.frame(0)[0], kept[0])


def edge_contrast(image: ImageU8, mask: MaskU8) -> float:
    """Mean step of the image across the mask's vertical edges."""
    grey = image.astype(int).sum(axis=2)
    steps = np.abs(np.diff(grey, axis=1))
    return float(steps[np.diff(mask.astype(int), axis=1) != 0].mean())


@pytest.mark.parametrize("seed", range(8))
def test_the_masks_edges_are_the_images_edges(seed: int) -> None:
    image, mask = Scene(seed, (256, 320)).frame(seed)
    exact = edge_contrast(image, mask)
    assert all(exact > 1.3 * edge_contrast(image, np.roll(mask, shift, axis=1)) for shift in (-2, 2))


class Watched:
    """OpenCV, noting what is drawn: function, dimensions of the target, shape."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, int, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(cv2, name)
        if name not in ("fillPoly", "circle"):
            return real

        def draw(target: Any, *arguments: Any) -> Any:
            colour = 1 if name == "fillPoly" else 2
            shape = (
                pickle.dumps([np.asarray(part) for part in arguments[:colour]])
                + repr(arguments[colour + 1 :]).encode()
            )
            self.drawn.append((name, target.ndim, shape))
            return real(target, *arguments)

        return draw


def test_each_shape_goes_into_image_and_mask_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr(draw, "opencv", lambda: watched)
    Scene(3, SIZE_HW).frame(7)
    in_mask = [number for number, (_, dimensions, _) in enumerate(watched.drawn) if dimensions == 2]
    assert len(in_mask) > 50
    for number in in_mask:
        (before, dimensions, shape), (name, _, same) = watched.drawn[number - 1 : number + 1]
        assert (before, dimensions, shape) == (name, 3, same)
    image_only = len(watched.drawn) - 2 * len(in_mask)
    assert 0 < image_only < len(in_mask) / 4  # the shadows


def test_the_street_moves_smoothly() -> None:
    scene = Scene(1, SIZE_HW)
    masks = [scene.frame(index)[1] for index in (0, 1, 30)]
    next_frame, next_second = ((masks[0] != other).mean() for other in masks[1:])
    assert 0 < next_frame < 0.08
    assert next_second > 1.5 * next_frame


def test_the_frame_rate_sets_the_time_of_a_frame() -> None:
    scene = Scene(4, SIZE_HW)
    np.testing.assert_array_equal(scene.frame(10, fps=10)[1], scene.frame(30, fps=30)[1])


def test_seeds_differ_and_every_class_is_common() -> None:
    masks = [Scene(seed, SIZE_HW).frame(seed)[1] for seed in range(40)]
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    shown = np.array([[(mask == index).any() for index in range(LABELS.num_classes)] for mask in masks]).mean(
        axis=0
    )
    assert (shown > 0.3).all(), dict(zip(LABELS.names, shown.tolist(), strict=True))


def test_light_varies_with_the_seed() -> None:
    brightness = [Scene(seed, SIZE_HW).frame(0)[0].mean() for seed in range(20)]
    assert max(brightness) > 1.8 * min(brightness)


@pytest.mark.parametrize(("seed", "size_hw"), [(0, (31, 64)), (0, (64, 31)), (-1, (64, 64))])
def test_what_cannot_be_drawn_is_refused(seed: int, size_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="32 px"):
        Scene(seed, size_hw)
