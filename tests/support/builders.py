"""What a spawned builder process may do to the process that started it; and one that is not spawned."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing.connection import Connection
from types import SimpleNamespace

from edgeseg.engines.tensorrt.builder import Note, Order
from edgeseg.errors import MissingDependency


def succeed(pipe: Connection, order: Order) -> None:
    for phase in ("Parsing", "Optimizing"):
        pipe.send(phase)
    order.engine.write_bytes(b"engine")
    order.facts.write_text(json.dumps(dict(order.settings)))


def at_once(order: Order, progress: object, work: object = None) -> None:
    """A `tensorrt_build.build` that succeeds, without a process."""
    succeed(SimpleNamespace(send=lambda said: None), order)  # type: ignore[arg-type]


def note(pipe: Connection, order: Order) -> None:
    pipe.send(Note("DLA takes half of it"))
    succeed(pipe, order)


def refuse(pipe: Connection, order: Order) -> None:
    pipe.send(["no such operator: Frobnicate", "and one more thing"])


def run_out_of_memory(pipe: Connection, order: Order) -> None:
    pipe.send("Optimizing")
    os.kill(os.getpid(), signal.SIGKILL)


def crash(pipe: Connection, order: Order) -> None:
    os._exit(3)


def lack_modelopt(pipe: Connection, order: Order) -> None:
    pipe.send(MissingDependency("modelopt", extra="tensorrt", purpose="compile INT8 programs"))
