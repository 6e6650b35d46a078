"""Contact sheets: every picture in its place, and a legend of what is in them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.images import colour_mask, contact_sheet, encode_png, legend
from edgeseg.specs import ImageU8, LabelSpace
from edgeseg.stream.sinks.contact_sheet import FrameSampler
from sinking import frame, result
from streams import LABELS


def flat(value: int, size_hw: tuple[int, int]) -> ImageU8:
    return np.full((*size_hw, 3), value, np.uint8)


def test_tiles_stand_row_by_row() -> None:
    pictures = [flat(40 * index, (20, 40)) for index in range(5)]
    masks = [np.full((20, 40), 255, np.uint8)] * 5
    sheet = contact_sheet(pictures, masks, LABELS, columns=3, tile_px=40)
    for index in range(5):
        top, left = index // 3 * 24, index % 3 * 44
        assert (sheet[top : top + 20, left : left + 40] == 40 * index).all()
    assert (sheet[24:44, 88:] == 255).all()


def test_pictures_of_other_shapes_are_fitted_in() -> None:
    sheet = contact_sheet(
        [flat(0, (30, 60)), flat(0, (60, 30)), flat(0, (1, 1))],
        [np.full(s, 255, np.uint8) for s in ((30, 60), (60, 30), (1, 1))],
        LABELS,
        columns=3,
        tile_px=60,
    )
    dark = (sheet[:30] == 0).all(axis=2)
    assert dark[:, :60].all()
    assert dark[:, 64:124].sum() == 30 * 15
    assert dark[:, 128:188].sum() == 30 * 30


def test_the_overlay_is_blended() -> None:
    sheet = contact_sheet([flat(100, (8, 8))], [np.full((8, 8), 2, np.uint8)], LABELS, tile_px=8, opacity=0.5)
    assert np.abs(sheet[:8, :8].astype(float) - [50, 50, 121]).max() <= 1


def test_the_legend_names_the_classes_that_are_there() -> None:
    everything, some = legend(LABELS, 400), legend(LABELS, 400, [2])
    assert everything.shape[1] == some.shape[1] == 400
    for index, colour in enumerate(LABELS.palette_rgb):
        assert (everything == colour).all(axis=2).sum() > 50
        assert ((some == colour).all(axis=2).sum() > 50) == (index == 2)
    assert ((some < 100).all(axis=2)).sum() > 10  # the name


@given(st.integers(1, 60), st.integers(1, 700), st.integers(0, 30))
def test_legends_of_any_size_fit_their_width(count: int, width_px: int, length: int) -> None:
    labels = LabelSpace(tuple(f"{'x' * length}{index}" for index in range(count)), ((1, 2, 3),) * count)
    strip = legend(labels, width_px)
    assert strip.shape[1] == width_px
    assert strip.dtype == np.uint8


@pytest.mark.parametrize(("frames", "masks"), [(0, 0), (1, 2), (2, 1)])
def test_as_many_masks_as_frames(frames: int, masks: int) -> None:
    with pytest.raises(ValueError, match="as many masks as frames"):
        contact_sheet([flat(0, (4, 4))] * frames, [np.zeros((4, 4), np.uint8)] * masks, LABELS)


def test_png_comes_back() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[:, :, ::-1], picture)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_colours_are_the_palette(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    assert np.array_equal(colour_mask(mask, LABELS), LABELS.palette()[mask])
    assert np.array_equal(colour_mask(mask[:, ::-1], LABELS), LABELS.palette()[mask[:, ::-1]])


@given(st.integers(1, 300), st.integers(1, 9))
def test_samples_are_spread_over_the_whole_run(frames: int, count: int) -> None:
    sampler = FrameSampler(count, width_px=4)
    for index in range(frames):
        image_rgb = np.full((2, 4, 3), index % 256, np.uint8)
        sampler(result(frame(image_rgb, index), np.full((2, 4), 255, np.uint8)))
        assert len(sampler._kept) < 2 * count
    sheet = sampler.sheet(LABELS)
    shown = min(count, frames)
    columns, rows = min(4, shown), -(-shown // 4)
    assert sheet.shape[1] == columns * 324 - 4
    assert sheet.shape[0] > rows * 164 - 4
    assert (sheet[:160, :320] == 0).all()


def test_samples_shrink_and_are_their_own() -> None:
    sampler = FrameSampler(2, width_px=16)
    image_rgb, mask = flat(9, (32, 64)), np.zeros((32, 64), np.uint8)
    sampler(result(frame(image_rgb), mask))
    image_rgb[:] = 0
    kept_image, kept_mask = sampler._kept[0]
    assert kept_image.shape == (8, 16, 3)
    assert kept_mask.shape == (8, 16)
    assert (kept_image == 9).all()
