"""The TensorRT-RTX row without TensorRT-RTX: which cards it is for, and a child process in every kind of
trouble.

The real builder is in tests/conformance/test_rtx_builder.py, opening engines in test_rtx_engine.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import builders
import machines
from edgeseg.contracts import NoProgress, PortableBackend
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines import table
from edgeseg.engines.tensorrt import builder, rtx
from edgeseg.engines.tensorrt.rtx import COMPUTE_CAPABILITIES, TensorRtRtx
from edgeseg.errors import BuildError, MissingDependency, OutOfRoom, Unsupported
from machines import write_tree
from tiny import tiny_program

OPTIONS = {"compute_capability": "8.9"}


def machine(*cards: str | None) -> Machine:
    """One with GPUs of these compute capabilities, None where nobody could be asked."""
    gpus = tuple(Gpu("NVIDIA GPU that the catalogue does not name", card) for card in cards)
    return Machine("x86_64", "Linux", "", "a processor", (), gpus, None, None, None, {})


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
    monkeypatch.setattr(builder, "construct", builders.succeed)
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
    monkeypatch.setattr(builder, "construct", trouble)
    phases = Phases()
    with pytest.raises(BuildError, match=told) as caught:
        TensorRtRtx(phases).compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, OPTIONS)
    assert isinstance(caught.value, OutOfRoom) == (trouble is builders.run_out_of_memory), (
        "only that is worth trying again"
    )
    assert phases.seen[-1] == "end"
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.onnx"}


@pytest.mark.usefixtures("installed")
def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(self: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", full)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        TensorRtRtx().compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, OPTIONS)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "options", [{}, {"compute_capability": "8.7"}, {"compute_capability": 8.9}, {"threads": 1}]
)
def test_an_engine_is_for_a_known_compute_capability(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=", ".join(COMPUTE_CAPABILITIES)) as refused:
        TensorRtRtx(machine=machine("8.7")).compile(tiny_program(tmp_path / "tiny.onnx"), tmp_path, options)
    assert "--device rtx4090" in refused.value.hint


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for attempt in (
        TensorRtRtx().version,
        lambda: TensorRtRtx().compile(tiny_program(tmp_path / "a.onnx"), tmp_path, OPTIONS),
    ):
        with pytest.raises(MissingDependency) as missing:
            attempt()
        assert missing.value.hint == "pip install 'edgeseg[rtx]'"
        with pytest.raises(MissingDependency):
            TensorRtRtx(machine=machine("8.9")).variants()
    assert TensorRtRtx(machine=machine("8.7")).variants() == (), (
        "no candidate here, nor a reason to install anything"
    )


Cards = st.lists(st.sampled_from([*COMPUTE_CAPABILITIES, "6.1", "8.7", "9.0", "10.0", None]), max_size=5)


@given(cards=Cards)
def test_one_variant_for_each_kind_of_card(cards: list[str | None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7.1"))  # type: ignore[arg-type]
        row = TensorRtRtx(machine=machine(*cards))
        found = [variant["compute_capability"] for variant in row.variants()]
        assert found == [card for card in dict.fromkeys(cards) if card in COMPUTE_CAPABILITIES]
        assert [row.accelerator(variant) for variant in row.variants()] == list(row.accelerators())
        assert row.accelerator({}) == (row.accelerators()[0] if found else "")
        for asked in COMPUTE_CAPABILITIES:
            wanted = {"compute_capability": asked, "cuda_graph": False}
            if asked in found:
                assert row.variants(wanted) == [wanted]
            elif found:
                with pytest.raises(
                    Unsupported, match=f"no card of compute capability {asked} here"
                ) as refused:
                    row.variants(wanted)
                assert f"--device sm{asked.replace('.', '')}" in refused.value.hint


@pytest.mark.usefixtures("installed")
def test_a_card_is_known_by_its_name_where_nobody_tells_its_capability(tmp_path: Path) -> None:
    """As in a container where only the kernel's list is seen."""
    seen = detect(write_tree(tmp_path, machines.RTX_4090), "x86_64")
    assert TensorRtRtx(machine=seen).variants() == [{"compute_capability": "8.9"}]


@pytest.mark.usefixtures("installed")
def test_the_card_that_is_here_is_built_for_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rtx, "build", builders.at_once)
    files = TensorRtRtx(machine=machine("8.6")).compile(
        tiny_program(tmp_path / "tiny.onnx"), tmp_path, {"threads": 1}
    )
    assert json.loads(files[1].read_text()) == {"compute_capability": "8.6"}


def test_an_engine_is_bound_to_a_compute_capability_and_a_release() -> None:
    bound = [
        table.fingerprint("tensorrt_rtx", machine(), version, options={"compute_capability": capability})
        for capability in ("8.6", "8.9")
        for version in ("1.6.1", "1.7.1")
    ]
    assert len({one.key for one in bound}) == 4
    assert all(one.moves and one.place.startswith("NVIDIA GPU of compute capability 8.") for one in bound)
    assert isinstance(TensorRtRtx(), PortableBackend)
