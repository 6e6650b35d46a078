"""edgeseg.data.transforms and edgeseg.data.loader: augmentation that moves image and label together,
reproducibly.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.data.loader import StepSampler, train_batches
from edgeseg.data.transforms import TrainTransform, fit_scale
from edgeseg.errors import DataError
from edgeseg.recipe.schema import Augment
from edgeseg.specs import ImageU8, LabelSpace, MaskU8
from locations import SUPPORT

PAD = (10.0, 20.0, 30.0)


def geometric(**changes: object) -> Augment:
    """Only geometry: no photometric change."""
    plain = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    return Augment(**{"crop_hw": (32, 48), **plain, **changes})  # type: ignore[arg-type]


def blocks(height: int, width: int, seed: int = 0) -> tuple[ImageU8, MaskU8]:
    """An image whose red channel is 20 times its label, in 16 px blocks."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 5, (-(-height // 16), -(-width // 16))).astype(np.uint8)
    mask = np.kron(small, np.ones((16, 16), np.uint8))[:height, :width]
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = mask * 20
    return image, mask


@given(st.integers(8, 150), st.integers(8, 150), st.integers(0, 50))
def test_crop_has_the_asked_size_and_label_follows_image(height: int, width: int, index: int) -> None:
    transform = TrainTransform(geometric(), PAD, 255, seed=3)
    image, mask = transform(*blocks(height, width), epoch=1, index=index)
    assert image.shape == (32, 48, 3)
    assert mask.shape == (32, 48)
    assert image.dtype == mask.dtype == np.uint8
    inside = mask != 255
    # Bilinear borders between blocks differ; the inside of blocks must agree.
    agree = np.abs(image[..., 0][inside].astype(int) - mask[inside].astype(int) * 20) <= 10
    assert agree.mean() > 0.6
    assert (image[~inside] == np.array(PAD)).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip(flip: float) -> None:
    image, mask = blocks(32, 48)
    transform = TrainTransform(geometric(flip=flip, scale_range=(1.0, 1.0)), PAD, 255, seed=0)
    out_image, out_mask = transform(image, mask, 0, 0)
    step = -1 if flip else 1
    assert np.array_equal(out_image, image[:, ::step])
    assert np.array_equal(out_mask, mask[:, ::step])


def test_same_seed_epoch_and_index_give_the_same_sample() -> None:
    augment = Augment(crop_hw=(32, 32))
    image, mask = blocks(80, 90)
    image = np.random.default_rng(1).integers(0, 256, image.shape).astype(np.uint8)
    draw = TrainTransform(augment, PAD, 255, seed=7)
    first = draw(image, mask, 2, 5)
    again = pickle.loads(pickle.dumps(draw))(image, mask, 2, 5)  # noqa: S301 - as a loader worker receives it
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    others = [
        draw(image, mask, 3, 5),
        draw(image, mask, 2, 6),
        TrainTransform(augment, PAD, 255, seed=8)(image, mask, 2, 5),
    ]
    assert not any(np.array_equal(first[0], other[0]) for other in others)


def test_one_class_does_not_fill_the_crop_where_that_can_be_helped() -> None:
    mask = np.zeros((64, 256), np.uint8)
    mask[:, 200:] = 1
    image = np.zeros((64, 256, 3), np.uint8)

    def single_class_share(limit: float) -> float:
        transform = TrainTransform(geometric(scale_range=(1.0, 1.0), max_class_share=limit), PAD, 255, seed=0)
        crops = [transform(image, mask, 0, i)[1] for i in range(60)]
        return float(np.mean([len(np.unique(crop)) == 1 for crop in crops]))

    assert single_class_share(1.0) < 0.35  # two classes are asked for in any case
    transform = TrainTransform(geometric(scale_range=(1.0, 1.0), max_class_share=0.75), PAD, 255, seed=0)
    shares = [np.bincount(transform(image, mask, 0, i)[1].ravel()).max() / (32 * 48) for i in range(60)]
    assert np.mean(np.array(shares) < 0.75) > 0.5  # one draw alone: 0.12


def test_photometric_keeps_the_label_and_changes_the_image() -> None:
    image, mask = blocks(32, 48)
    image[..., 1] = 90
    transform = TrainTransform(Augment(crop_hw=(32, 48), scale_range=(1.0, 1.0), flip=0.0), PAD, 255, seed=0)
    outputs = [transform(image, mask, 0, i) for i in range(20)]
    assert all(np.array_equal(m, mask) for _, m in outputs)
    assert sum(not np.array_equal(i, image) for i, _ in outputs) >= 15
    assert len({i.tobytes() for i, _ in outputs}) >= 15


def test_base_size_keeps_the_aspect() -> None:
    assert fit_scale((100, 200), None) == 1.0
    assert fit_scale((256, 512), (512, 2048)) == 2.0
    assert fit_scale((512, 256), (512, 2048)) == 2.0


class Numbered:
    """Sample i is a constant image of value i."""

    labels = LabelSpace(("a", "b"), ((0, 0, 0), (255, 255, 255)))

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count = count
        self.broken = broken

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> tuple[ImageU8, MaskU8]:
        if index == self.broken:
            raise DataError("sample is broken", hint="mend it")
        return np.full((32, 32, 3), index, np.uint8), np.zeros((32, 32), np.uint8)


def order(
    first_step: int, rank: int, world_size: int, accumulate: int = 1, workers: int = 0
) -> list[list[int]]:
    sampler = StepSampler(10, 4, accumulate, 6, first_step, 1, rank, world_size)
    transform = TrainTransform(geometric(crop_hw=(32, 32), scale_range=(1.0, 1.0)), PAD, 255, 1)
    return [
        images[:, 16, 16, 0].tolist()
        for images, _ in train_batches(Numbered(10), transform, sampler, workers)
    ]


def test_every_epoch_sees_every_sample_once() -> None:
    flat = [i for batch in order(0, 0, 1) for i in batch]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]


def test_a_resumed_stream_continues_where_it_stopped() -> None:
    assert order(3, 0, 1) == order(0, 0, 1)[3:]


def test_processes_and_micro_batches_share_the_global_batch() -> None:
    whole = order(0, 0, 1)
    ranks = [order(0, rank, 2) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    micro = order(0, 0, 1, accumulate=2)
    assert [micro[i] + micro[i + 1] for i in range(0, len(micro), 2)] == whole


def test_workers_do_not_change_the_stream() -> None:
    assert order(0, 0, 1, workers=2) == order(0, 0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_sample_is_a_data_error_with_its_hint(workers: int) -> None:
    sampler = StepSampler(10, 4, 1, 3, 0, 1, 0, 1)
    transform = TrainTransform(geometric(crop_hw=(32, 32), scale_range=(1.0, 1.0)), PAD, 255, 1)
    with pytest.raises(DataError, match="sample is broken") as caught:
        list(train_batches(Numbered(10, broken=3), transform, sampler, workers))
    assert caught.value.hint == "mend it"


@pytest.mark.parametrize("how", ["held", "broken", "closed"])
def test_workers_end_with_the_program_however_the_stream_is_left(how: str) -> None:
    """They hear no SIGTERM, which is how multiprocessing would end them; a program that waited for them would
    never end.
    """
    code = f"""
import multiprocessing, sys
sys.path[:0] = {[str(Path(__file__).parent), str(SUPPORT)]!r}
from test_transforms import *
transform = TrainTransform(geometric(crop_hw=(32, 32), scale_range=(1.0, 1.0)), PAD, 255, 1)
data = Numbered(10, broken=3 if {how!r} == "broken" else None)
stream = train_batches(data, transform, StepSampler(10, 4, 1, 3, 0, 1, 0, 1), 2)
kept = None
if {how!r} == "broken":
    try:
        list(stream)
    except DataError as error:
        kept = error
else:
    next(stream)
if {how!r} == "closed":
    stream.close()
print(len(multiprocessing.active_children()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == ("2" if how == "held" else "0")


def test_batches_are_uint8() -> None:
    sampler = StepSampler(10, 4, 1, 1, 0, 1, 0, 1)
    images, masks = next(
        iter(train_batches(Numbered(10), TrainTransform(geometric(), PAD, 255, 1), sampler, 0))
    )
    assert images.shape == (4, 32, 48, 3)
    assert masks.shape == (4, 32, 48)
    assert images.dtype == masks.dtype == torch.uint8
