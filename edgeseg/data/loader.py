"""Batches for training: an endless stream of samples whose order depends on the seed alone.

Position p of the stream is sample `permutation(seed, epoch)[p % n]` of epoch `p // n`; optimiser step s takes
the global batch [s B, (s + 1) B), process r of W takes slice r of each of its micro-batches. So a run
continues exactly where it stopped, with any number of workers, and W processes see together what one process
would see.
"""

from __future__ import annotations

import atexit
import signal
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgeseg.contracts import SegDataset
from edgeseg.data.transforms import TrainTransform
from edgeseg.errors import EdgesegError
from edgeseg.images import opencv
from edgeseg.signals import TERMINATION, children_spared

_Sample = tuple[Tensor, Tensor]


class _Augmented(Dataset["_Sample | EdgesegError"]):
    def __init__(self, dataset: SegDataset, transform: TrainTransform) -> None:
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]) -> _Sample | EdgesegError:
        epoch, index = key
        try:
            image, mask = self.transform(*self.dataset.load(index), epoch, index)
        except EdgesegError as error:
            return error  # raised in the training process: torch would turn it into another type on its way
        return torch.from_numpy(image), torch.from_numpy(mask)


def _collate(samples: list[_Sample | EdgesegError]) -> _Sample | EdgesegError:
    pairs = []
    for sample in samples:
        if isinstance(sample, EdgesegError):
            return sample
        pairs.append(sample)
    images, masks = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(masks)


def _start_worker(worker: int) -> None:
    """The training process hears the signals, saves its state, and ends its workers."""
    for number in (signal.SIGINT, *TERMINATION):
        signal.signal(number, signal.SIG_IGN)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Micro-batches of (epoch, index) for one process, from `first_step` to `steps`.

    Args:
        count: samples in the data set.
        batch_size: images of one optimiser step over all processes; a multiple of world_size * accumulate.
        accumulate: micro-batches of a process per step.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulate: int,
        steps: int,
        first_step: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.steps = steps
        self.first_step = first_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, np.int64)
        share = self.batch_size // (self.accumulate * self.world_size)
        for step in range(self.first_step, self.steps):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.count != epoch:
                    epoch = position // self.count
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
                batch.append((epoch, int(order[position % self.count])))
            for micro in range(self.accumulate):
                start = (micro * self.world_size + self.rank) * share
                yield batch[start : start + share]


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Workers are forked in here: one core each, and no copy of a thread pool whose threads stayed behind."""
    cv2 = opencv()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def train_batches(
    dataset: SegDataset, transform: TrainTransform, sampler: StepSampler, workers: int
) -> Generator[_Sample, None, None]:
    """Micro-batches of images (b, H, W, 3) uint8 and masks (b, H, W) uint8, in the sampler's order.

    Its end, or `close`, ends the workers; so does the end of the program.

    Args:
        workers: loader processes; 0 loads in this one.
    Raises:
        DataError: a sample cannot be read.
    """
    batches = _batches(dataset, transform, sampler, workers)
    alive = weakref.ref(batches)
    # At the end of a program multiprocessing asks workers by SIGTERM, which they do not hear, and would wait
    # for ever.
    atexit.register(_close, alive)
    return batches


def _close(stream: Callable[[], Generator[Any, None, None] | None]) -> None:
    left = stream()
    if left is not None:
        left.close()


def _batches(
    dataset: SegDataset, transform: TrainTransform, sampler: StepSampler, workers: int
) -> Generator[_Sample, None, None]:
    loader = DataLoader(
        _Augmented(dataset, transform),
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        # the loader draws worker seeds; not from the generator that dropout draws from
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    with _single_threaded_opencv(), children_spared():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, EdgesegError):
                raise batch
            yield batch
    finally:
        del batches  # now, whatever holds this frame: it ends its workers in order
