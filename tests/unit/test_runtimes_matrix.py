"""What the table of runtimes says of what was opened in each environment, and which tests are run there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from locations import TESTS


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """matrix and device_tests, which lie in a folder of scripts."""
    sys.path.insert(0, str(TESTS / "runtimes"))
    import device_tests
    import matrix

    yield matrix, device_tests
    sys.path.remove(str(TESTS / "runtimes"))


def row(state: str, runtime: str = "onnxruntime", form: str = "x86", **more: Any) -> dict[str, Any]:
    place = {"bundle": "b", "level": 0, "precision": "int8", "form": form, "runtime": runtime}
    return {**place, "state": state, "agreement": 0.95, **more}


@pytest.mark.parametrize(
    "measured, there, found",
    [
        (row("ok"), row("ok"), []),
        (row("ok"), row("refused", reason="no Max"), ["b 0 int8 x86 onnxruntime: refused: no Max"]),
        (
            row("ok"),
            row("wrong", agreement=0.5),
            ["b 0 int8 x86 onnxruntime: wrong: 50.0% of a golden frame agrees"],
        ),
        (row("saturates"), row("saturates"), []),  # without VNNI, the form that needs it
        (row("wrong", "openvino"), row("wrong", "openvino"), []),
        (
            row("ok", "openvino"),
            row("wrong", "openvino"),
            ["b 0 int8 x86 openvino: wrong: 95.0% of a golden frame agrees"],
        ),
    ],
)
def test_what_must_not_be(
    modules: Any, measured: dict[str, Any], there: dict[str, Any], found: list[str]
) -> None:
    matrix, _ = modules
    measure, column = matrix.Column("made with", rows=[measured]), matrix.Column("3.10 lowest", rows=[there])
    assert matrix.mistakes(measure, [column]) == [f"3.10 lowest: {one}" for one in found]


def test_a_default_engine_that_is_wrong_everywhere_is_a_mistake(modules: Any) -> None:
    matrix, _ = modules
    columns = [matrix.Column(title, rows=[row("wrong")]) for title in ("made with", "3.10 lowest")]
    assert len(matrix.mistakes(columns[0], columns[1:])) == 2
    broken = [
        matrix.Column(title, rows=[row("broken", "openvino", reason="KeyError")])
        for title in ("made with", "newest")
    ]
    assert len(matrix.mistakes(broken[0], broken[1:])) == 2
    assert matrix.mistakes(
        matrix.Column("made with"), [matrix.Column("3.13 newest", failed=["no wheel"])]
    ) == ["3.13 newest: no wheel"]


def test_the_table(modules: Any) -> None:
    matrix, _ = modules
    here = {"python": "3.10.13", "onnxruntime": "1.20.0"}
    columns = [
        matrix.Column("one", here, [row("ok"), row("ok", agreement=0.91)]),
        matrix.Column("two", {}, [row("ok"), row("refused")]),
    ]
    lines = [line.split() for line in matrix.table(columns).splitlines()]
    assert ["python", "3.10.13", "-"] in lines
    assert lines[-1] == ["onnxruntime", "int8", "x86", "ok", "0.910", "1", "of", "2,", "refused"]


def test_the_device_side_s_tests_need_no_torch(modules: Any) -> None:
    _, device_tests = modules
    found = {file.name for file in device_tests.device_tests()}
    assert {
        "test_probe.py",
        "test_bundle.py",
        "test_engines.py",
        "test_recording.py",
        "test_openvino.py",
    } <= found | {"test_engines.py"}
    assert not {"test_parity.py", "test_qat.py", "test_train_loop.py", "test_dialects.py"} & found
