"""What a bundle says of the rungs that its programs stood, and that nothing is built of one that broke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseg.cli.main import run
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.choose.exported_parity import climbed
from edgeseg.errors import GateFailed
from tiny import tiny_bundle

FLOAT = {"rungs": {"graph": {"value": 5e-7, "passed": True}, "mask": {"value": 1.0, "passed": True}}}
INT8 = {
    "rungs": [
        {"rung": "P1", "figures": {"logits_error": 3e-7}, "passed": True},
        {"rung": "P2", "figures": {}, "passed": None},
    ]
}


def told(folder: Path, document: dict[str, Any], precision: Any = "float") -> list[str]:
    bundle = tiny_bundle(folder / "a.edgeseg", reports={"parity": document})
    return [str(rung) for rung in climbed(bundle, 0, precision)]


def test_rungs_of_each_precision(tmp_path: Path) -> None:
    document = {"levels": [{**FLOAT, "int8": INT8}]}
    assert told(tmp_path / "float", document) == ["graph 5e-07", "mask 1"]
    assert told(tmp_path / "int8", document, "int8") == ["P1 logits_error 3e-07", "P2 skipped"]
    assert told(tmp_path / "fp16", document, "fp16") == []
    assert told(tmp_path / "old", FLOAT) == ["graph 5e-07", "mask 1"]


def test_a_bundle_that_was_never_climbed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "a.edgeseg")
    assert climbed(bundle, 0, "float") == []
    assert run(["build", str(bundle.path), "--runtime", "onnxruntime"]) == 0
    assert "parity with torch, at export: float not checked" in " ".join(capsys.readouterr().out.split())


def test_the_rungs_stand_below_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "a.edgeseg", reports={"parity": {"levels": [FLOAT]}})
    assert run(["build", str(bundle.path), "--runtime", "onnxruntime"]) == 0
    assert "at export: float graph 5e-07, mask 1" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_built_of_a_program_that_broke_a_rung(tmp_path: Path) -> None:
    broken = {"levels": [{"rungs": {**FLOAT["rungs"], "optimised": {"value": 0.2, "passed": False}}}]}
    bundle = tiny_bundle(tmp_path / "a.edgeseg", reports={"parity": broken})
    for build in (build_level, build_engine):
        with pytest.raises(
            GateFailed, match=r"float program of level 0 broke the parity ladder at optimised 0\.2"
        ) as caught:
            build(bundle)  # type: ignore[operator]
        assert "edgeseg parity" in caught.value.hint
    assert bundle.manifest.engines == ()
