"""`edgeseg build` with real runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bundle import Bundle, open_bundle
from edgeseg.cli.main import run
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.open import open_session
from edgeseg.errors import BundleError, Unsupported
from tiny import tiny_bundle, tiny_image, tiny_mask


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


def test_through_the_command_line(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    line = ["build", str(bundle.path), "--threads", "1", "--runtime", "openvino"]
    assert run([*line, "--json"]) == 0
    (level,) = json.loads(capsys.readouterr().out)["engines"]
    names = {(row["runtime"], row["options"].get("precision_hint")) for row in level["candidates"]}
    assert {("onnxruntime", None), ("openvino", "f32")} <= names
    assert sum(row["verdict"] == "default" for row in level["candidates"]) == 1
    assert level["key"] == next(row["key"] for row in level["candidates"] if row["verdict"] == "default")
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert all(
        part in shown for part in ("kept (same program", "openvino float", "speed-", "laid out for openvino")
    )
    for engine in ("onnxruntime", "openvino"):
        with open_session(open_bundle(bundle.path), runtime=engine) as session:
            np.testing.assert_array_equal(session.infer(tiny_image(3)), tiny_mask(tiny_image(3)))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [(["--runtime", "openvin"], 4, "did you mean 'openvino'"), (["--limit", "3"], 2, "--data-root")],
)
def test_mistakes(
    options: list[str], code: int, said: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", str(bundle.path), *options]) == code
    assert said in capsys.readouterr().err


def test_levels_that_are_not_there(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no level 1"):
        build_level(bundle, 1)
    with pytest.raises(Unsupported, match="no runtime named"):
        build_level(bundle, runtimes=["ghost"])
