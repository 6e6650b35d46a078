"""Programs laid out for several runtimes: each gets its own, and a damaged one is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from choosing import Clock, runtimes
from edgeseg.bundle import Bundle
from edgeseg.engines.choose.choice import build_level
from edgeseg.errors import IntegrityError
from edgeseg.specs import Form
from edgeseg.testing.fakes import FakeBackend
from tiny import tiny_bundle, tiny_program


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def in_two_forms(tmp_path: Path) -> Bundle:
    programs = [
        tiny_program(tmp_path / "a.onnx"),
        replace(tiny_program(tmp_path / "b.onnx", threshold=127.6), form=Form.CPU_OPENVINO),
    ]
    return tiny_bundle(tmp_path / "forms.edgeseg", programs=programs)


def test_a_runtime_gets_the_form_that_it_likes(
    in_two_forms: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = [
        FakeBackend(name, clock.taking(4), form=Form(name))
        for name in ("onnxruntime", "openvino", "tensorrt")
    ]
    runtimes(monkeypatch, *backends)
    made = build_level(in_two_forms, threads=1)
    assert [backend.compiled[0]["form"] for backend in backends] == ["onnxruntime", "openvino", "onnxruntime"]
    assert [bool(row.hint) for row in made.choice.candidates] == [False, False, True]
    assert (
        in_two_forms.program().onnx_path.read_bytes()
        != in_two_forms.program(form=Form.CPU_OPENVINO).onnx_path.read_bytes()
    )
    assert {in_two_forms.program(form=form).form for form in (Form.CPU, Form.GPU)} == {"onnxruntime"}


def test_a_damaged_form_is_found(in_two_forms: Bundle) -> None:
    path = in_two_forms.program(form=Form.CPU_OPENVINO).onnx_path
    path.write_bytes(path.read_bytes()[:-1])
    in_two_forms.program()
    for use in (in_two_forms.verify, lambda: in_two_forms.program(form=Form.CPU_OPENVINO)):
        with pytest.raises(IntegrityError, match="level0-float-openvino"):
            use()


def test_forms_that_do_not_belong_together(tmp_path: Path) -> None:
    other = replace(tiny_program(tmp_path / "a.onnx"), form=Form.CPU_OPENVINO)
    with pytest.raises(ValueError, match="is not there in the form onnxruntime"):
        tiny_bundle(tmp_path / "t.edgeseg", programs=[other])
    with pytest.raises(ValueError, match="two float programs at ISR 1,1,1,1-1,1,1 in the form openvino"):
        tiny_bundle(tmp_path / "t.edgeseg", programs=[tiny_program(tmp_path / "b.onnx"), other, other])
