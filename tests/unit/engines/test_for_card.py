"""Engines for another machine: names of cards, what the manifest says of them, and that they are never opened
here.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import builders
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.cli.main import run
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.for_card import build_for_card, compute_capability
from edgeseg.engines.open import find_engine, open_session, verify_engines
from edgeseg.engines.tensorrt import rtx
from edgeseg.engines.tensorrt.builder import Order
from edgeseg.errors import BuildError, EngineMismatch, Unsupported
from edgeseg.specs import Form
from tiny import tiny_bundle, tiny_precisions, tiny_program


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bundle:
    """A bundle, where a TensorRT-RTX stands in that builds at once."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7.1"))  # type: ignore[arg-type]
    monkeypatch.setattr(rtx, "build", builders.at_once)
    return tiny_bundle(tmp_path / "tiny.edgeseg")


@pytest.mark.parametrize(
    ("card", "capability"),
    [
        ("rtx3080", "8.6"),
        ("rtx4090", "8.9"),
        ("rtx5090", "12.0"),
        ("sm86", "8.6"),
        ("sm89", "8.9"),
        ("sm120", "12.0"),
    ],
)
def test_names_of_cards(card: str, capability: str) -> None:
    assert compute_capability(card) == capability


def test_what_is_no_card() -> None:
    with pytest.raises(Unsupported, match="no device named 'rtx409'") as unknown:
        compute_capability("rtx409")
    assert unknown.value.hint == "did you mean 'rtx4090'?"
    with pytest.raises(Unsupported, match="no device named 'gtx1080'") as unknown:
        compute_capability("gtx1080")
    assert unknown.value.hint == "edgeseg devices names them"
    with pytest.raises(
        Unsupported, match=r"does not build for orin-nano-8gb: its compute capability is 8\.7"
    ):
        compute_capability("orin-nano-8gb")


def test_the_entry_says_for_what_and_that_nothing_was_checked(bundle: Bundle) -> None:
    (made,) = build_for_card(bundle, "rtx4090")
    assert made.built
    (engine,) = open_bundle(bundle.path).manifest.engines
    assert engine == made.engine
    assert not engine.checked
    assert "compute capability 8.9" in engine.device
    assert engine.options == {"compute_capability": "8.9"}
    assert set(engine.measurements) == {"compile_ms", "bytes"}
    open_bundle(bundle.path).verify()


def test_every_program_is_built_in_every_precision(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = replace(tiny_program(tmp_path / "half.onnx", threshold=127.4), precision="fp16", form=Form.GPU)
    parts = tiny_precisions(tmp_path / "parts")
    golden = [*parts["golden"], parts["golden"][0]._replace(precision="fp16")]
    bundle = tiny_bundle(bundle.path, programs=[*parts["programs"], half], golden=golden)
    made = build_for_card(bundle, "rtx4090")
    assert {one.engine.precision for one in made} == {"float", "fp16", "int8"}
    assert not any(one.engine.checked for one in made)
    assert run(["bundle", "show", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("compiled only") == len(made) + 1
    assert "nobody has run it" in shown


def test_a_bundle_that_was_exported_without_what_the_card_wants(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", str(bundle.path), "--device", "rtx4090"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "tiny was exported without what tensorrt_rtx wants: float laid out for tensorrt, fp16" in told
    assert "write - runtime: tensorrt_rtx under targets in the recipe, and export again" in told
    whole = replace(bundle.program(), form=Form.GPU)
    half = replace(whole, precision="fp16")
    golden = list(bundle.golden())
    both = [*golden, *(frame._replace(precision="fp16") for frame in golden)]
    other = tiny_bundle(
        bundle.path.parent / "whole.edgeseg", programs=[bundle.program(), whole, half], golden=both
    )
    assert run(["build", str(other.path), "--device", "rtx4090"]) == 0
    assert "exported without" not in capsys.readouterr().err


def test_cards_live_side_by_side_and_are_kept(bundle: Bundle) -> None:
    reasons = [build_for_card(bundle, card)[0].reason for card in ("rtx4090", "rtx5090")]
    assert reasons[0] == "none was built yet"
    assert re.fullmatch(
        r"the one that is there was built for .* 8\.9 with .*, not for .* 12\.0 with .*", reasons[1]
    )
    assert [engine.options["compute_capability"] for engine in bundle.manifest.engines] == ["8.9", "12.0"]
    (again,) = build_for_card(bundle, "sm89")
    assert not again.built
    assert again.engine == bundle.manifest.engines[0]
    (forced,) = build_for_card(bundle, "rtx4090", force=True)
    assert forced.built
    assert len(bundle.manifest.engines) == 2


def test_never_opened_here(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build_for_card(bundle, "rtx4090")
    with pytest.raises(EngineMismatch, match=r"compute capability 8\.9 .* this is ") as refused:
        open_session(bundle)
    assert refused.value.hint == f"edgeseg build {bundle.path}"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        EngineMismatch, match=r"compute capability 8\.9 .* this is .* without tensorrt_rtx"
    ) as refused:
        open_session(bundle)
    assert refused.value.hint == f"edgeseg build {bundle.path}"
    build_engine(bundle, threads=1)
    assert find_engine(bundle).runtime == "onnxruntime"
    assert find_engine(bundle).checked
    verify_engines(bundle)


def test_a_builder_in_trouble_leaves_the_bundle_as_it_was(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(order: Order, progress: object) -> None:
        order.engine.write_bytes(b"half of it")
        raise BuildError("its process ended early (SIGKILL)", hint="free memory")

    monkeypatch.setattr(rtx, "build", killed)
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BuildError, match="SIGKILL"):
        build_for_card(bundle, "rtx4090")
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert not list(bundle.path.glob("engines/*"))


def test_the_command_says_it_loudly(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", str(bundle.path), "--device", "rtx4090"]
    assert run(command) == 0
    told = capsys.readouterr().out
    assert "NOT CHECKED" in told
    assert "pip install 'edgeseg[rtx]'; edgeseg build BUNDLE" in told, "what is to be typed on the card"
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checked"] is False
    assert [(engine["checked"], engine["built"]) for engine in document["engines"]] == [(False, False)]
    assert run([*command, "--threads", "2"]) == 2
    assert "--device names another" in capsys.readouterr().err
