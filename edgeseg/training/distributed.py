"""The few collective operations that training needs; all of them are no-ops in a single process.

Started by torchrun: `torchrun --nproc-per-node 4 -m edgeseg train RECIPE`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from edgeseg.models.threads import take_usable_cores


@dataclass(frozen=True)
class Processes:
    """This process among all of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all processes, on the CPU."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def sum_counts(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Sum of an integer array over all processes."""
        total: npt.NDArray[np.int64] = self.sum(torch.from_numpy(counts)).numpy()
        return total

    def gather(self, values: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape, by rank; on the CPU."""
        if self.world_size == 1:
            return [values]
        values = values.to(self.device)
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values)
        return [tensor.cpu() for tensor in gathered]

    def wait(self) -> None:
        """Return when every process is here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the process group that torchrun describes in the environment, or stand alone.

    Args:
        device: "cpu", "cuda" or "auto" (CUDA where there is one). With several processes each takes the GPU
            of its local rank.
    """
    take_usable_cores()
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, torch.device(kind))
        return
    place = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
