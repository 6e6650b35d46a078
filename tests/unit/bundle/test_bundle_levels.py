"""Bundles whose levels share a file of weights: stored once, found anywhere, and no other file is ever
read.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle, copy_bundle, open_bundle
from edgeseg.bundle.manifest import Manifest
from edgeseg.cli.main import run
from edgeseg.engines import table
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.open import find_engine, open_session, verify_engines
from edgeseg.errors import BundleError, IntegrityError
from edgeseg.pipeline.demo import demo_bundle
from edgeseg.specs import ImageSpec, IsrPlan
from tiny import outside_weights, tiny_bundle, tiny_image, tiny_levels, tiny_mask, tiny_program

BLOB = "programs/weights.bin"
LEVELS = {"levels": [{"plan": "2,2,1,1-2,2,2", "miou": 0.5, "ms": 3.0, "macs": 4_670_000_000}]}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "two.edgeseg", **tiny_levels(tmp_path / "made"))


def answers(bundle: Bundle) -> None:
    """Each level answers with its own threshold."""
    for level, threshold in enumerate((127.5, 230.1)):
        build_engine(bundle, level=level, threads=1)
        with open_session(bundle, level) as session:
            np.testing.assert_array_equal(session.infer(tiny_image(3)), tiny_mask(tiny_image(3), threshold))


def reseal(bundle: Bundle, files: dict[str, bytes], change: dict[str, Any] | None = None) -> Bundle:
    """The bundle as somebody makes it who wants to deceive: files changed, their hashes and the manifest's
    digest right.
    """
    from edgeseg.bundle.files import write_file

    data = bundle.manifest.model_dump(mode="json") | (change or {})
    data["files"] |= {
        name: write_file(bundle.path / name, content).model_dump() for name, content in files.items()
    }
    (bundle.path / "manifest.json").write_bytes(Manifest.model_validate_json(json.dumps(data)).to_bytes())
    return open_bundle(bundle.path)


# Shared


def test_weights_are_stored_once_and_every_level_reads_them(bundle: Bundle) -> None:
    listed = [level.programs["float"].files for level in bundle.manifest.levels]
    assert listed == [("programs/level0-float.onnx", BLOB), ("programs/level1-float.onnx", BLOB)]
    assert sorted(path.name for path in (bundle.path / "programs").iterdir()) == [
        "level0-float.onnx",
        "level1-float.onnx",
        "weights.bin",
    ]
    assert [bundle.program(level).blobs for level in (0, 1)] == [(bundle.path / BLOB,)] * 2
    answers(bundle)
    assert set(verify_engines(bundle)) == {"level 0, onnxruntime float", "level 1, onnxruntime float"}


@pytest.mark.parametrize("how", ["copytree", "move", "copy_bundle"])
def test_it_works_at_another_place(how: str, bundle: Bundle, tmp_path: Path) -> None:
    there = tmp_path / "there" / "renamed.edgeseg"
    if how == "copy_bundle":
        copy_bundle(bundle, there)
    elif how == "copytree":
        shutil.copytree(bundle.path, there)
    else:
        there.parent.mkdir()
        shutil.move(bundle.path, there)
    shutil.rmtree(bundle.path, ignore_errors=True)
    shutil.rmtree(tmp_path / "made")
    found = open_bundle(there)
    found.verify()
    answers(found)


def test_an_engine_depends_on_the_shared_weights(bundle: Bundle) -> None:
    first = build_engine(bundle, threads=1)
    doubled = (2 * np.frombuffer((bundle.path / BLOB).read_bytes(), np.float32)).tobytes()
    with_others = reseal(bundle, {BLOB: doubled})
    again = build_engine(with_others, threads=1)
    assert (again.built, again.reason) == (True, "the program changed, or how edgeseg lays out engines")
    assert again.engine.key != first.engine.key


def test_a_bundle_of_before_still_opens() -> None:
    """The shipped one: weights inside the graph, in a folder for each level."""
    shipped = open_bundle(demo_bundle())
    shipped.verify()
    assert shipped.program().blobs == ()


def test_levels_that_do_not_belong_together(tmp_path: Path) -> None:
    made = tiny_levels(tmp_path / "made")
    first, second = made["programs"]
    other = tiny_levels(tmp_path / "other")["programs"][1]
    with pytest.raises(ValueError, match=r"weights\.bin"):
        tiny_bundle(tmp_path / "t.edgeseg", **{**made, "programs": [first, other]})
    wider = replace(second, image=ImageSpec((64, 64)))
    with pytest.raises(ValueError, match="images of one size"):
        tiny_bundle(tmp_path / "t.edgeseg", **{**made, "programs": [first, wider]})
    with pytest.raises(ValueError, match="two float programs at ISR"):
        tiny_bundle(tmp_path / "t.edgeseg", **{**made, "programs": [first, replace(second, isr=first.isr)]})
    second.blobs[0].unlink()
    with pytest.raises(BundleError, match=r"no program file .*weights\.bin"):
        tiny_bundle(tmp_path / "t.edgeseg", **made)
    assert not (tmp_path / "t.edgeseg").exists()


# Damage


def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reaches a runtime from here on fails the test."""
    backend = table.backend("onnxruntime")

    def forbidden(*args: object) -> None:
        pytest.fail("a runtime was asked")

    monkeypatch.setattr(type(backend), "compile", forbidden)
    monkeypatch.setattr(type(backend), "load", forbidden)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "missing": (Path.unlink, r"weights\.bin is missing"),
    "flipped bit": (flip, r"weights\.bin was changed: expected sha256"),
    "cut short": (
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        r"weights\.bin was changed or cut short",
    ),
    "of another export": (
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        r"weights\.bin was changed",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), r"weights\.bin cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_never_reach_a_runtime(
    damage: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it, message = DAMAGE[damage]
    build_engine(bundle, level=1, threads=1)
    break_it(bundle.path / BLOB)
    no_runtime(monkeypatch)
    for use in (
        lambda: bundle.program(1),
        lambda: open_session(bundle, 1),
        lambda: build_engine(bundle, level=0, threads=1),
        bundle.verify,
    ):
        with pytest.raises(IntegrityError, match=message):
            use()


def test_levels_that_are_not_there(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    for use in (bundle.program, partial(open_session, bundle), partial(find_engine, bundle)):
        for level in (2, -1):
            with pytest.raises(BundleError, match=f"has no level {level}; its levels are 0 to 1"):
                use(level)
    assert run(["run", str(bundle.path), "--source", "synthetic://64x32@10?frames=1", "--level", "2"]) == 6
    assert "its levels are 0 to 1" in capsys.readouterr().err


OUTSIDE = (
    "../weights.bin",
    "/etc/hostname",
    "other.bin",
    "./weights.bin",
    "sub/../weights.bin",
    "*/_ORT_MEM_ADDR_/*",
    "",
)


@pytest.mark.parametrize("location", OUTSIDE)
def test_no_graph_reads_what_the_manifest_does_not_list(
    location: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad").mkdir()
    bad = outside_weights(tiny_program(tmp_path / "bad" / "bad.onnx"), location)
    with pytest.raises(BundleError, match="wants to read"):
        tiny_bundle(tmp_path / "t.edgeseg", programs=[bad])
    deceiving = reseal(bundle, {"programs/level0-float.onnx": bad.onnx_path.read_bytes()})
    no_runtime(monkeypatch)
    for use in (deceiving.program, lambda: build_engine(deceiving, threads=1), deceiving.verify):
        with pytest.raises(IntegrityError, match="wants to read"):
            use()
    deceiving.program(1)


def test_weights_must_be_listed_for_the_program_that_reads_them(bundle: Bundle) -> None:
    """Another program's file is not enough: an engine's key would not cover it."""
    levels = bundle.manifest.model_dump(mode="json")["levels"]
    levels[0]["programs"]["float"]["files"] = ["programs/level0-float.onnx"]
    changed = reseal(bundle, {}, {"levels": levels})
    with pytest.raises(IntegrityError, match="does not list for it"):
        changed.program(0)
    with pytest.raises(IntegrityError, match="does not list for it"):
        changed.verify()


def test_what_is_no_graph(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    no_runtime(monkeypatch)
    broken = reseal(bundle, {"programs/level0-float.onnx": b"<?xml version='1.0'?>"})
    for use in (broken.program, broken.verify):
        with pytest.raises(IntegrityError, match="is not an ONNX graph"):
            use()


# Shown


def test_show_tells_what_is_known_of_each_level(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = tiny_bundle(
        tmp_path / "shown.edgeseg", **tiny_levels(tmp_path / "again"), reports={"isr": LEVELS}
    )
    build_engine(shown, level=1, threads=1)
    assert run(["bundle", "show", str(shown.path), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["levels"]
    assert (first["isr"], first["miou"], first["macs"], first["median_ms"], first["runtime"]) == (
        str(IsrPlan()),
        *[None] * 4,
    )
    assert (second["isr"], second["miou"], second["macs"]) == ("2,2,1,1-2,2,2", 0.5, 4_670_000_000)
    assert second["median_ms"] > 0
    assert second["runtime"] == "onnxruntime"
    assert run(["bundle", "show", str(shown.path)]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("50.00 %", "4.67", "2,2,1,1-2,2,2", "24 B of weights"))
    assert run(["bundle", "show", str(bundle.path)]) == 0
    assert "no engine yet" in capsys.readouterr().out


def test_build_makes_every_level(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", str(bundle.path), "--threads", "1", "--runtime", "onnxruntime"]) == 0
    text = capsys.readouterr().out
    for head in (
        "level 0 (1,1,1,1-1,1,1): onnxruntime float, built",
        "level 1 (2,2,1,1-2,2,2): onnxruntime float, built",
    ):
        assert head in text
    assert [engine.level for engine in open_bundle(bundle.path).manifest.engines] == [0, 1]
