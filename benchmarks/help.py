"""`edgeseg --help` beside bare Python: medians over interleaved runs, and their difference.

python benchmarks/help.py [runs]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def once_s(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def measure(runs: int) -> dict[str, float]:
    """Medians in milliseconds. Both commands alternate, so that a busy moment of the machine hits both."""
    script = Path(sys.executable).with_name("edgeseg")
    commands = {"python_ms": [sys.executable, "-c", "pass"], "help_ms": [str(script), "--help"]}
    for command in commands.values():
        once_s(command)  # byte code and the page cache
    times_s: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times_s[name].append(once_s(command))
    medians = {name: 1000 * statistics.median(values) for name, values in times_s.items()}
    medians["over_python_ms"] = medians["help_ms"] - medians["python_ms"]
    medians["ratio"] = medians["help_ms"] / medians["python_ms"]
    return {name: round(value, 2) for name, value in medians.items()} | {"runs": runs}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20)))
