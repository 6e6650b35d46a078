"""Peak memory of an engine, in a process of its own: beside other engines, or after them, nobody could tell
whose pages they are.

The child imports the runtime, forgets the peak up to there, opens the engine and runs it on an empty image.
What counts is how far its resident memory rises, so the interpreter and the libraries are left out; weights
that are mapped count as they are touched. What a GPU holds is not in it, not even where it is the system's
memory, as on a Jetson. Linux only: elsewhere nothing tells the peak of a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.engines import table
from edgeseg.errors import BuildError
from edgeseg.signals import children_spared
from edgeseg.specs import Program

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"
_INFERENCES = 3
_LIMIT_S = 300


def peak_memory_bytes(
    runtime: str, program: Program, files: Sequence[Path], options: Mapping[str, Any]
) -> int | None:
    """Measure the memory that opening and running an engine takes at most; None where this system does not
    tell.

    Raises:
        BuildError: the process that opened the engine failed.
    """
    if not CLEAR.exists():
        return None
    task = {
        "runtime": runtime,
        "program": program.to_json(),
        "onnx_path": str(program.onnx_path),
        "blobs": [str(blob) for blob in program.blobs],
        "files": [str(file) for file in files],
        "options": dict(options),
    }
    command = [sys.executable, "-m", "edgeseg.engines.choose.memory"]
    try:
        told = _asked(command, json.dumps(task))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        last = (
            (error.stderr or "it said nothing").strip().splitlines()[-1]
            if isinstance(error.stderr, str)
            else str(error)
        )
        raise BuildError(
            f"the memory of the {runtime} {program.precision} engine cannot be measured: {last}",
            hint="leave --memory out",
        ) from error
    return int(told)


def _asked(command: Sequence[str], question: str) -> str:
    """Return what a child process answers. Raises CalledProcessError and TimeoutExpired as `subprocess.run`
    does.
    """
    with children_spared():
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with child:
        try:
            answer, complaint = child.communicate(question, _LIMIT_S)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, answer, complaint)
    return answer


def measure(task: Mapping[str, Any]) -> int:
    """In the child: what `peak_memory_bytes` asks for."""
    backend = table.backend(task["runtime"])
    backend.version()
    program = Program.from_json(
        task["program"], Path(task["onnx_path"]), tuple(Path(blob) for blob in task["blobs"])
    )
    image = np.zeros((*program.image.size_hw, 3), np.uint8)
    CLEAR.write_text(_FORGET_PEAK)
    before = _status("VmRSS")
    with backend.load(program, [Path(file) for file in task["files"]], task["options"]) as session:
        for _ in range(_INFERENCES):
            session.infer(image)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    print(measure(json.load(sys.stdin)))
