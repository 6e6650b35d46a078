"""What a bundle keeps of the machine that timed an engine, and how it is told: by build, run and bundle
show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import machines
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.bundle.graph_files import opset
from edgeseg.bundle.manifest import EngineEntry, Manifest, ProgramEntry
from edgeseg.cli.main import run
from edgeseg.devices.local import timed_otherwise
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.nvidia import Gpu
from edgeseg.devices.power import PowerMeter
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.latency import measure_latency, measure_power
from processor import be
from tiny import tiny_bundle, tiny_engine, tiny_precisions, tiny_program

SetTo = Callable[[machines.Tree], Machine]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


@pytest.fixture
def set_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetTo:
    """Makes this machine say of itself what a recorded one does."""

    def of(tree: machines.Tree) -> Machine:
        machine = detect(machines.write_tree(tmp_path / "tree", tree), "aarch64")
        be(monkeypatch, machine)
        return machine

    return of


def test_an_engine_keeps_its_machine_and_its_settings(bundle: Bundle, tmp_path: Path) -> None:
    board = detect(machines.write_tree(tmp_path / "tree", machines.ORIN_NANO_MAXN_HELD), "aarch64")
    board = replace(board, gpus=(Gpu("Orin", "8.7", None, 8),))
    engine = build_engine(bundle, threads=1, machine=board).engine
    assert engine.clocks == board.clocks
    assert engine.clocks["power_mode"] == "MAXN_SUPER (2)"
    assert {
        "jetpack": "6.2",
        "jetson_linux": "36.4.3",
        "module": "p3767-0005",
        "gpu": "Orin",
        "gpu_compute_capability": "8.7",
        "gpu_multiprocessors": "8",
        "memory_gb": "8.0",
        "driver": "540.4.0",
    }.items() <= engine.built_with.items()
    assert open_bundle(bundle.path).manifest.engines == (engine,)


def test_an_engine_is_kept_in_another_power_mode_and_that_is_said(
    bundle: Bundle, set_to: SetTo, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["build", str(bundle.path), "--runtime", "onnxruntime", "--threads", "1", "--json"]
    set_to(machines.ORIN_NANO_MAXN_HELD)
    assert run(line) == 0
    first = json.loads(capsys.readouterr().out)["engines"][0]
    assert run(line) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["engines"][0]["built"], "other settings" in err) == (False, False)

    set_to(machines.ORIN_NANO_25W)
    assert run(line) == 0
    out, err = capsys.readouterr()
    (again,) = json.loads(out)["engines"]
    assert (again["built"], again["key"]) == (False, first["key"])
    assert "its times were taken at other settings: power mode is 25W (1), was MAXN_SUPER (2)" in err
    assert "--force times all anew" in err

    assert run(["run", str(bundle.path), "--source", "synthetic://64x32@5?frames=2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "power mode is 25W (1), was MAXN_SUPER (2)" in err
    assert f"edgeseg build {bundle.path} --force" in err
    report = json.loads(out)
    assert (report["frames"], report["clocks"]["power_mode"]) == (2, "25W (1)")


def test_show_tells_all(bundle: Bundle, set_to: SetTo, capsys: pytest.CaptureFixture[str]) -> None:
    set_to(machines.ORIN_NANO_MAXN_HELD)
    engine = build_engine(bundle, threads=1).engine
    changes = {
        "measurements": {**engine.measurements, "power_w": {"VDD_IN": 11.25}},
        "measured_on": "a second board",
        "options": {**engine.options, "spinning": True},
    }
    bundle.add_engine(engine.model_copy(update=changes), [bundle.file(path) for path in engine.files])
    assert run(["bundle", "show", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert [
        text
        for text in (
            *(
                "power mode MAXN_SUPER (2)",
                "jetson_clocks on",
                "GPU MHz 1020",
                "module p3767-0005",
                "jetpack 6.2",
                "memory 8.0 GB",
            ),
            *("p99", "VDD_IN 11.2 W", "timed on a second board", "spinning True", engine.created[:10]),
            *("opset", "agree to 99.0 % or more", "times compare only where power mode and clocks"),
        )
        if text not in shown
    ] == []


QUANTIZED: dict[str, Any] = {
    "isr": "1,1,1,1-1,1,1",
    "calibrated_at": "1,1,1,1-1,1,1",
    "sha256": "c" * 64,
    "calibration": {
        "set": "camvid",
        "set_sha256": "d" * 64,
        "isr": ["1,1,1,1-1,1,1"],
        "images": 64,
        "method": "percentile",
    },
    "coverage": {
        "share": 0.9,
        "macs": 1000,
        "layers": [
            {"name": "encoder.patch", "kind": "conv", "macs": 900, "precision": "int8", "reason": ""},
            {
                "name": "decoder.classifier",
                "kind": "conv",
                "macs": 100,
                "precision": "float",
                "reason": "the classifier is float",
            },
        ],
    },
}


def test_show_tells_of_the_quantization_and_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "checkpoint_sha256": "e" * 64,
        "weights": "fp16",
        "libraries": {"torch": "2.13.0", "onnx": "1.23.2"},
    }
    reports = {"quantization": {"levels": [QUANTIZED]}, "export": made}
    bundle = tiny_bundle(tmp_path / "b.edgeseg", **tiny_precisions(tmp_path), reports=reports)
    assert run(["bundle", "show", str(bundle.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert [
        text
        for text in (
            *(
                "64 images of camvid (dddddddddddd)",
                "by percentile",
                "90.0 %",
                "checkpoint eeeeeeeeeeee",
                "torch 2.13.0, onnx 1.23.2",
            ),
            *(
                "decoder.classifier",
                "1 layer with 10.00 %",
                "the classifier is float",
                "resized (bilinear)",
                "mean 123.675",
            ),
        )
        if text not in shown
    ] == []
    assert run(["bundle", "show", str(bundle.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["made_from"] == made
    int8 = document["levels"][0]["int8"]
    assert (int8["mac_share"], int8["checkpoint_sha256"]) == (0.9, "c" * 64)
    assert [layer["name"] for layer in int8["float_layers"]] == ["decoder.classifier"]
    assert document["min_mask_agreement"] == 0.99


def test_programs_keep_their_opset(bundle: Bundle, tmp_path: Path) -> None:
    graph = tiny_program(tmp_path / "p.onnx").onnx_path
    wanted = next(one.version for one in onnx.load(graph).opset_import if one.domain == "")
    assert bundle.manifest.levels[0].programs["float"].opset == opset(graph.read_bytes()) == wanted
    model = onnx.ModelProto()
    model.opset_import.add(domain="com.microsoft", version=1)
    assert opset(model.SerializeToString()) is None
    model.opset_import.add(domain="ai.onnx", version=21)
    assert opset(model.SerializeToString()) == 21


def test_a_manifest_from_before_these_facts_opens(bundle: Bundle) -> None:
    engine = tiny_engine(files=("recipe.yaml",)).model_dump(mode="json", exclude={"clocks", "built_with"})
    older = EngineEntry.model_validate_json(json.dumps(engine))
    assert (older.clocks, older.built_with) == ({}, {})
    assert timed_otherwise(older.clocks) == ""
    program = bundle.manifest.levels[0].programs["float"].model_dump(mode="json", exclude={"opset"})
    assert ProgramEntry.model_validate_json(json.dumps(program)).opset is None
    assert Manifest.model_validate_json(bundle.manifest.model_dump_json()) == bundle.manifest


def test_quantiles_are_in_order() -> None:
    figures = measure_latency(lambda: sum(range(1000)), runs=40, warmup=0)
    assert 0 < figures.p10_ms <= figures.median_ms <= figures.p90_ms <= figures.p99_ms
    assert figures.to_json()["p99_ms"] > 0


class Meter(PowerMeter):
    """Gives readings one after another; the last one for ever."""

    def __init__(self, readings: Iterator[dict[str, float]]) -> None:
        self._readings, self._reading = readings, {}

    def read(self) -> dict[str, float]:
        self._reading = next(self._readings, self._reading)
        return self._reading


def test_power_is_the_mean_once_the_load_is_on() -> None:
    now_s, calls = [0.0], [0]

    def call() -> None:
        now_s[0] += 0.25
        calls[0] += 1

    watts = [{"VDD_IN": value, "VDD_GPU": 1.0} for value in (99.0, 50.0, 20.0, 10.0, 10.0, 14.0, 14.0)]
    assert measure_power(call, Meter(iter(watts)), 1.5, lambda: now_s[0]) == {
        "power_w": {"VDD_IN": 13.6, "VDD_GPU": 1.0}
    }
    assert calls[0] == 6


def test_without_a_meter_nothing_is_called() -> None:
    assert measure_power(lambda: pytest.fail("called"), Meter(iter([{}]))) == {}


def test_one_slow_call_is_enough() -> None:
    now_s = [0.0]
    found = measure_power(
        lambda: now_s.__setitem__(0, 9.0), Meter(iter([{"CPU": 5.0}])), 1.5, lambda: now_s[0]
    )
    assert found == {"power_w": {"CPU": 5.0}}
