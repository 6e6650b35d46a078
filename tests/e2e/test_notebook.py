"""The notebook runs from its first cell to its last, and holds what it gave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from locations import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "street.ipynb"
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def outputs(path: Path) -> list[dict[str, Any]]:
    """Of each cell of code: its data and texts, by kind."""
    found = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            kinds = {kind: data for one in cell["outputs"] for kind, data in one.get("data", {}).items()}
            texts = [one["text"] for one in cell["outputs"] if "text" in one]
            found.append({**kinds, **({"stream": texts} if texts else {})})
    return found


def test_it_was_executed_and_is_small() -> None:
    kept = outputs(NOTEBOOK)
    assert [place for place, one in enumerate(kept) if not one] == [0], "only the first cell gives nothing"
    assert any("image/png" in one for one in kept) and NOTEBOOK.stat().st_size < 400_000
    assert "/tmp" not in NOTEBOOK.read_text().replace("tempfile", "")


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "modelopt"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    made = tmp_path / "made.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(made)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "IPYTHONDIR": str(tmp_path / "ipython")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [set(one) for one in outputs(made)] == [set(one) for one in outputs(NOTEBOOK)]
