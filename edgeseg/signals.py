"""The signals that ask a program to end, and who hears them.

Service managers, containers, `timeout` and Slurm send them to all processes of a group at once. Our child
processes do not hear them: whoever started a child ends it, when he has put his own work in order.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

TERMINATION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a program besides Ctrl-C."""

ONE_REQUEST_S = 1.0
"""Signals that come so close together are one request: `timeout`, Slurm and torchrun send to the process and
to its group.
"""


@contextmanager
def children_spared() -> Iterator[None]:
    """Start child processes in this block that Ctrl-C, SIGTERM and SIGHUP do not reach; SIGKILL and the end
    of a pipe do.

    They are blocked in this thread meanwhile and come through after it; forked and spawned children inherit
    that, and keep it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *TERMINATION))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_spared(child: BaseProcess) -> None:
    """Start a process of multiprocessing's as `children_spared` does."""
    # where starting a child starts that first, it would let the signals through
    resource_tracker.ensure_running()
    with children_spared():
        child.start()


def is_heard(number: int) -> bool:
    """Whether a signal may be given a handler: one that is ignored, as SIGHUP under nohup, is to stay so."""
    return signal.getsignal(number) not in (signal.SIG_IGN, None)
