"""What a spawned builder process may do to the process that started it."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from edgeseg.engines.tensorrt_rtx import ENGINE, FACTS
from edgeseg.specs import Program


def build(pipe: Connection, program: Program, out_dir: Path, capability: str) -> None:
    for phase in ("Parsing", "Optimizing"):
        pipe.send(phase)
    (out_dir / ENGINE).write_bytes(b"engine")
    (out_dir / FACTS).write_text(f'{{"compute_capability": "{capability}"}}')


def refuse(pipe: Connection, program: Program, out_dir: Path, capability: str) -> None:
    pipe.send(["no such operator: Frobnicate", "and one more thing"])


def run_out_of_memory(pipe: Connection, program: Program, out_dir: Path, capability: str) -> None:
    pipe.send("Optimizing")
    os.kill(os.getpid(), signal.SIGKILL)


def crash(pipe: Connection, program: Program, out_dir: Path, capability: str) -> None:
    os._exit(3)
