"""How many threads torch computes with."""

from __future__ import annotations

import torch

from edgeseg.devices.cores import usable_cores


def take_usable_cores() -> None:
    """Let torch compute with no more threads than engines would: it counts processors, and knows of no quota.

    A smaller number that was asked for, as by torchrun or OMP_NUM_THREADS, stays.
    """
    if torch.get_num_threads() > (cores := usable_cores()):
        torch.set_num_threads(cores)
