"""The TensorRT-RTX row without TensorRT-RTX: options, a child process in every kind of trouble, what it does not do.

The real builder is in tests/conformance/test_rtx_builder.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import builders
from edgeseg.contracts import NoProgress
from edgeseg.engines import tensorrt_build
from edgeseg.engines.tensorrt_rtx import COMPUTE_CAPABILITIES, TensorRtRtx
from edgeseg.errors import BuildError, MissingDependency, Unsupported
from tiny import tiny_program

OPTIONS = {"compute_capability": "8.9"}


class Phases(NoProgress):
    def __init__(self) -> None:
        self.seen: list[object] = []

    def advance(self, task: str, steps: int = 1, **figures: float | str) -> None:
        self.seen.append(figures["phase"])

    def finish(self, task: str) -> None:
        self.seen.append("end")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7.1"))  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_the_child_builds_and_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorrt_build, "construct", builders.succeed)
    phases = Phases()
    files = TensorRtRtx(phases).compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, OPTIONS)
    assert [file.name for file in files] == ["engine.rtx", "engine.json"]
    assert files[0].read_bytes() == b"engine"
    assert json.loads(files[1].read_text()) == OPTIONS
    assert phases.seen == ["Parsing", "Optimizing", "end"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (builders.refuse, r"refuses .*tiny\.onnx: no such operator: Frobnicate; and one more thing"),
        (builders.run_out_of_memory, r"tiny\.onnx with tensorrt_rtx ended early \(SIGKILL\)"),
        (builders.crash, r"ended early \(exit code 3\)"),
    ],
)
def test_a_child_in_trouble_is_a_build_error(
    trouble: Callable[..., None], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tensorrt_build, "construct", trouble)
    phases = Phases()
    with pytest.raises(BuildError, match=told):
        TensorRtRtx(phases).compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, OPTIONS)
    assert phases.seen[-1] == "end"
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.onnx"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("options", [{}, {"compute_capability": "8.7"}, {"compute_capability": 8.9}, {"threads": 1}])
def test_an_engine_is_for_a_known_compute_capability(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=", ".join(COMPUTE_CAPABILITIES)) as refused:
        TensorRtRtx().compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, options)
    assert "--device rtx4090" in refused.value.hint


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for attempt in (TensorRtRtx().version, lambda: TensorRtRtx().compile(tiny_program(tmp_path / "a.onnx"), tmp_path, OPTIONS)):
        with pytest.raises(MissingDependency) as missing:
            attempt()
        assert missing.value.hint == "pip install 'edgeseg[rtx]'"
    assert TensorRtRtx().variants() == (), "no candidate here, nor a reason to install anything"
