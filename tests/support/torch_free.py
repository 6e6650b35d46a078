"""A Python in which torch, onnx and modelopt look as if they were not installed."""

from __future__ import annotations

import subprocess
import sys

# A finder that stands before all others.
TORCH_FREE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "modelopt"):
            raise ModuleNotFoundError(f"No module named {name!r} here", name=name)

sys.meta_path.insert(0, Absent())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def torch_free(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where the three are absent."""
    return python(f"{TORCH_FREE}\n{code}")
