"""Building engines: kept or built and why, the gate, and the commands around it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from choosing import runtimes
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.cli.main import run
from edgeseg.devices.machine import detect
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.latency import measure_latency
from edgeseg.engines.open import open_session, verify_engines
from edgeseg.errors import BuildError, EngineMismatch, GateFailed, Unsupported
from edgeseg.testing.fakes import FakeBackend
from tiny import RECIPE, tiny_bundle, tiny_image, tiny_mask, tiny_program


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


def test_build_packs_a_checked_and_timed_engine(bundle: Bundle) -> None:
    made = build_engine(bundle, threads=1)
    assert (made.built, made.reason) == (True, "none was built yet")
    found = open_bundle(bundle.path)
    assert found.manifest.engines == (made.engine,)
    figures = made.engine.measurements
    assert figures["mask_agreement"] == {"frame0": 1.0, "frame1": 1.0}
    assert 0 < figures["p10_ms"] <= figures["median_ms"] <= figures["p90_ms"]
    assert (figures["runs"], figures["warmup"], figures["threads"], made.engine.options["threads"]) == (
        30,
        5,
        1,
        1,
    )
    with open_session(found) as session:
        np.testing.assert_array_equal(session.infer(tiny_image(5)), tiny_mask(tiny_image(5)))
    with open_session(found, threads=2, runtime="onnxruntime") as session:
        assert session.segment(np.zeros((11, 13, 3), np.uint8)).shape == (11, 13)
    assert verify_engines(found) == {"level 0, onnxruntime float": {"frame0": 1.0, "frame1": 1.0}}


def test_kept_or_built_and_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_engine(bundle, threads=1)
    again = build_engine(open_bundle(bundle.path), threads=1)
    assert (again.built, again.reason, again.engine) == (
        False,
        "same program, runtime, device and options",
        first.engine,
    )
    forced = build_engine(bundle, threads=1, force=True)
    assert (forced.built, forced.reason) == (True, "--force")
    threads = build_engine(bundle, threads=2)
    assert (threads.built, threads.reason) == (True, "threads 1 -> 2")
    spinning = build_engine(bundle, threads=2, options={"spinning": True})
    assert (spinning.built, spinning.reason) == (True, "spinning left out -> true")
    (bundle.path / spinning.engine.files[0]).write_bytes(b"rot")
    damaged = build_engine(bundle, threads=2, options={"spinning": True})
    assert damaged.built
    assert damaged.reason.startswith("damaged: ")
    assert len(bundle.manifest.engines) == 1

    other = replace(detect(), cpu="Cortex-A78AE", arch="aarch64", isa=("asimd",))
    with pytest.raises(EngineMismatch, match="this is Cortex-A78AE"):
        open_session(bundle, machine=other)
    elsewhere = build_engine(bundle, threads=2, machine=other)
    assert elsewhere.built
    assert "the one that is there was built for" in elsewhere.reason
    assert "not for Cortex-A78AE" in elsewhere.reason
    assert len(bundle.manifest.engines) == 2
    open_session(bundle).close()


def test_engine_that_misses_the_gate_is_not_packed(tmp_path: Path) -> None:
    image = tiny_image()
    wrong = tiny_mask(image)
    wrong[:4] = 1 - wrong[:4]
    bundle = tiny_bundle(
        tmp_path / "t.edgeseg", golden=[("good", image, tiny_mask(image)), ("bad", image, wrong)]
    )
    with pytest.raises(GateFailed, match=r"good 1\.0000, bad 0\.7500") as caught:
        build_engine(bundle, threads=1)
    assert caught.value.report == {"mask_agreement": {"good": 1.0, "bad": 0.75}, "min_mask_agreement": 0.99}
    assert open_bundle(bundle.path).manifest.engines == ()
    assert bundle.verify().unlisted == ()


def test_verify_run_holds_an_engine_to_the_gate(tmp_path: Path) -> None:
    """An engine that passed on another day's gate: the bundle's own golden frames decide."""
    image = tiny_image()
    wrong = 1 - tiny_mask(image)
    lax = RECIPE.replace("min_mask_agreement: 0.99", "min_mask_agreement: 0.0")
    bundle = tiny_bundle(tmp_path / "t.edgeseg", golden=[("x", image, wrong)], recipe_text=lax)
    build_engine(bundle, threads=1)
    assert verify_engines(bundle) == {"level 0, onnxruntime float": {"x": 0.0}}


def test_what_cannot_be_built(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="0 threads"):
        build_engine(bundle, threads=0)
    with pytest.raises(Unsupported, match="no runtime named 'openvin'"):
        build_engine(bundle, "openvin")
    program = tiny_program(tmp_path / "broken.onnx")
    program.onnx_path.write_bytes(
        program.onnx_path.read_bytes().replace(b"AveragePool", b"AveragePuddle"[:11])
    )
    broken = tiny_bundle(tmp_path / "broken.edgeseg", programs=[program])
    with pytest.raises(BuildError, match="refuses"):
        build_engine(broken, threads=1)


def test_every_level_has_its_own_engine(tmp_path: Path) -> None:
    from edgeseg.specs import IsrPlan

    image = tiny_image()
    programs = [
        tiny_program(tmp_path / "a.onnx"),
        tiny_program(tmp_path / "b.onnx", isr=IsrPlan((2, 1, 1, 1)), threshold=230.0),
    ]
    golden = [("x", image, tiny_mask(image)), ("x", image, tiny_mask(image, 230.0), 1)]
    bundle = tiny_bundle(tmp_path / "two.edgeseg", programs=programs, golden=golden)
    for level in (0, 1):
        build_engine(bundle, level=level, threads=1)
    with open_session(bundle, 1) as session:
        np.testing.assert_array_equal(session.infer(image), tiny_mask(image, 230.0))
    assert set(verify_engines(bundle)) == {"level 0, onnxruntime float", "level 1, onnxruntime float"}


def test_measure_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, 0

    def call() -> None:
        nonlocal now, calls
        now += 0.001 * calls  # 0, 1, 2, ... ms
        calls += 1

    monkeypatch.setattr("time.perf_counter", lambda: now)
    latency = measure_latency(call, runs=11, warmup=5)
    assert calls == 16
    assert (latency.median_ms, latency.p10_ms, latency.p90_ms) == pytest.approx((10.0, 6.0, 14.0))
    assert latency.spread == pytest.approx(0.8)


# Commands


def command(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, Any, str]:
    """Exit code, stdout (parsed where --json is among `args`) and stderr of a command line."""
    code = run([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, json.loads(out) if "--json" in args else out, err


def test_commands_from_build_to_verify(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    code, data, err = command(capsys, "bundle", "verify", bundle.path, "--run", "--json")
    assert (code, data["error"]["type"]) == (6, "BundleError")
    assert f"hint: edgeseg build {bundle.path}" in err

    code, data, err = command(
        capsys, "build", bundle.path, "--threads", 1, "--runtime", "onnxruntime", "--json"
    )
    assert (code, data["engines"][0]["built"], data["engines"][0]["options"]) == (0, True, {"threads": 1})
    assert [row["verdict"] for row in data["engines"][0]["candidates"]] == ["default"]
    assert "none was built yet" in err
    code, out, _ = command(capsys, "build", bundle.path, "--threads", 1, "--runtime", "onnxruntime")
    assert code == 0
    assert "kept (same program, runtimes, device and options)" in out
    assert all(part in out for part in ("100.00 %", "median", "default", "1 threads"))

    code, data, _ = command(capsys, "bundle", "show", bundle.path, "--json")
    assert (code, data["name"], len(data["engines"])) == (0, "tiny", 1)
    code, out, _ = command(capsys, "bundle", "show", bundle.path)
    assert code == 0
    assert all(part in out for part in ("tiny", "64x32", "1/2", "onnxruntime"))

    (bundle.path / "stray.txt").write_text("")
    code, data, _ = command(capsys, "bundle", "verify", bundle.path, "--run", "--json")
    assert (code, data["ok"], data["unlisted"]) == (0, True, ["stray.txt"])
    assert data["mask_agreement"] == {"level 0, onnxruntime float": {"frame0": 1.0, "frame1": 1.0}}
    code, out, _ = command(capsys, "bundle", "verify", bundle.path, "--run")
    assert code == 0
    assert all(part in out for part in ("8 files intact", "never read: stray.txt", "frame1", "100.00 %"))


def test_commands_on_damage(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(bundle.path / "programs/level0-float.onnx", "r+b") as file:
        file.truncate(10)
    for line in (("bundle", "verify", bundle.path), ("build", bundle.path)):
        code, _, err = command(capsys, *line)
        assert code == 6
        assert "float.onnx" in err
        assert "found 10" in err
    code, _, err = command(capsys, "bundle", "show", tmp_path / "none")
    assert code == 6
    assert "there is no bundle" in err


def test_command_that_misses_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tiny_image()
    bundle = tiny_bundle(tmp_path / "t.edgeseg", golden=[("x", image, 1 - tiny_mask(image))])
    code, data, err = command(capsys, "build", bundle.path, "--threads", 1, "--json")
    assert code == 5
    assert data["error"]["report"] == {"mask_agreement": {"x": 0.0}, "min_mask_agreement": 0.99}
    assert "not packed" in err


@pytest.mark.parametrize("free_bytes", [0, 1 << 30])
def test_a_full_disk_is_told_as_one(free_bytes: int, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the runtime says so, or takes it for a fault of the program."""
    error: Exception = (
        OSError(28, "No space left on device")
        if free_bytes
        else BuildError("refuses it", hint="export again")
    )
    backend = FakeBackend("onnxruntime", error=error)
    runtimes(monkeypatch, backend)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free_bytes))
    with pytest.raises(BuildError, match=r"cannot build below .*o space left") as refused:
        build_engine(bundle, threads=1)
    assert "TMPDIR=FOLDER" in refused.value.hint
    assert open_bundle(bundle.path).manifest.engines == ()
