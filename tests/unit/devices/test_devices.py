"""The catalogue of devices: complete, consistent, every figure with its source; and the command that prints
it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import machines
from edgeseg.cli import main
from edgeseg.devices.catalog import CATALOG, Catalog, load_catalog
from edgeseg.devices.machine import detect
from processor import be

RAW: dict[str, Any] = yaml.safe_load(CATALOG.read_text())
FIGURES = {"value", "source"}


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every number and truth value below `value`: its path, itself, and whether it is a figure's."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, dict | list):
                yield f"{path}.{key}", item, set(value) == FIGURES
            else:
                yield from numbers(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, path)


def test_every_figure_has_a_source() -> None:
    bare = [
        path for path, value, cited in numbers(RAW["devices"]) if isinstance(value, int | float) and not cited
    ]
    assert bare == []
    catalog = load_catalog()
    assert {source for device in RAW["devices"] for source in _sources(device)} <= set(catalog.sources)


def _sources(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if set(value) == FIGURES:
            yield value["source"]
        for item in value.values():
            yield from _sources(item)
    elif isinstance(value, list):
        for item in value:
            yield from _sources(item)


def test_versions_of_every_line_are_in_the_table() -> None:
    catalog = load_catalog()
    for stack in catalog.stacks:
        for component, table in catalog.versions.items():
            assert getattr(stack, component) in {None, *table}, stack.name


def test_a_supported_line_says_how_to_get_what_it_has() -> None:
    for stack in load_catalog().stacks:
        wanted = {name for name in ("tensorrt", "torch_tensorrt") if getattr(stack, name)}
        assert stack.unsupported or wanted <= set(stack.install), stack.name
        # The pinned version is what the line says.
        assert (
            not stack.torch_tensorrt
            or f"torch-tensorrt=={stack.torch_tensorrt}" in stack.install["torch_tensorrt"]
        )
        assert not stack.wheels or stack.wheels in stack.install["torch_tensorrt"]


def test_what_was_promised_is_there() -> None:
    names = {device.name: device for device in load_catalog().devices}
    orins = ("nano-4gb", "nano-8gb", "nx-8gb", "nx-16gb")
    jetsons = [*(f"orin-{name}" for name in orins), "agx-orin-32gb", "agx-orin-64gb", "agx-thor", "t4000"]
    assert all(not names[name].unsupported for name in jetsons)
    assert all(names[name].unsupported for name in ("xavier-nx", "agx-xavier", "jetson-nano"))
    assert {"t4", "a10", "l4", "l40s", "a100-40gb", "a100-80gb", "h100-sxm", "h200"} <= set(names)
    capability = {
        name: device.compute_capability.value for name, device in names.items() if device.compute_capability
    }
    assert {capability[name] for name in names if name.startswith("rtx")} == {"7.5", "8.6", "8.9", "12.0"}
    assert {
        "x86-avx2",
        "x86-avx512",
        "x86-avx512-vnni",
        "x86-amx",
        "arm-neon",
        "arm-dotprod",
        "arm-i8mm",
    } <= set(names)


def test_a_stronger_class_comes_before_a_weaker_one() -> None:
    processors = [device for device in load_catalog().devices if device.requires]
    for index, weaker in enumerate(processors):
        for stronger in processors[index + 1 :]:
            assert weaker.kind != stronger.kind or not set(weaker.requires) < set(stronger.requires)


def _break(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    broken: dict[str, Any] = yaml.safe_load(CATALOG.read_text())
    edit(broken)
    return broken


@pytest.mark.parametrize(
    "edit, complaint",
    [
        (lambda c: c["devices"][0].update(int8_tops=10), "int8_tops"),
        (lambda c: c["devices"][0].update(int8_tops={"value": 10}), "source"),
        (lambda c: c["devices"][0].update(int8_tops={"value": "10", "source": "orin_nano"}), "number"),
        (lambda c: c["devices"][0].update(int8_tops={"value": 10, "source": "hearsay"}), "hearsay"),
        (
            lambda c: c["devices"][0].update(compute_capability={"value": "sm_87", "source": "nvidia_cc"}),
            "pattern",
        ),
        (lambda c: c["devices"][0].update(colour="green"), "colour"),
        (lambda c: c["devices"][0].pop("parts"), "recognised"),
        (lambda c: c["devices"][-1].update(requires=["neon"]), "no probe looks for"),
        (lambda c: c["devices"].append(c["devices"][0]), "given twice"),
        (lambda c: c["sources"].update(unread="a book"), "unread"),
        (lambda c: c["stacks"][3].update(tensorrt="10.4"), "tensorrt 10.4 is not in the table"),
        (lambda c: c["stacks"][3]["install"].update(trt="pip install trt"), "no such runtimes"),
        (lambda c: c["stacks"][3].pop("l4t"), "either socs and l4t, or gpu"),
    ],
)
def test_mistakes_are_found(edit: Callable[[dict[str, Any]], object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Catalog.model_validate(_break(edit))


@pytest.mark.parametrize(
    "text, found",
    [
        ("rtx 4090", ["rtx4090"]),
        ("Orin-Nano", ["orin-nano-4gb", "orin-nano-8gb"]),
        ("h200", ["h200"]),
        ("amx", ["x86-amx"]),
        ("radeon", []),
    ],
)
def test_find(text: str, found: list[str]) -> None:
    assert [device.name for device in load_catalog().find(text)] == found


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main.run(["devices", *args, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_command_prints_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["devices"]) == 0
    shown = capsys.readouterr().out
    assert all(device.name in shown for device in load_catalog().devices)
    assert all(stack.name in shown for stack in load_catalog().stacks if stack.socs)


def test_a_name_brings_figures_lines_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["devices", "orin nano 8"]) == 0
    shown = capsys.readouterr().out
    assert all(
        text in shown
        for text in ("20 (33.5 Super)", "68 (102 Super)", "10.16.2", "JetPack 6.2", "DS-11105-001")
    )
    assert all(
        text in shown
        for text in (
            "--system-site-packages",
            "torch-tensorrt==2.8.0",
            "bandwidth_gb_s (Super)",
            "67 INT8 TOPS",
        )
    )
    assert "4gb" not in shown
    document = run_json(capsys, "orin nano 8")
    assert [device["name"] for device in document["devices"]] == ["orin-nano-8gb"]
    assert document["devices"][0]["bandwidth_gb_s"] == {"value": 68.0, "source": "orin_nano"}


def test_a_card_comes_with_the_versions_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["devices", "rtx4090"]) == 0
    shown = capsys.readouterr().out
    assert all(
        text in shown
        for text in ("PC with an NVIDIA GPU", "driver 580 or newer", "tensorrt-cu13>=11.0", "165.2", "1008")
    )
    assert main.run(["devices", "x86-amx"]) == 0
    shown = capsys.readouterr().out
    assert "16384" in shown and "pip install" not in shown


@pytest.mark.parametrize("name", [[], ["orin"], ["rtx"], ["x86"]])
def test_names_and_figures_are_whole_at_80_columns(
    name: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(["devices", *name]) == 0
    drawn = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(" ") and " install " not in line
    ]
    assert max(map(len, drawn)) <= 80
    words = {word for line in drawn for word in line.split()}
    found = load_catalog().find(name[0]) if name else load_catalog().devices
    assert {device.name for device in found} <= words
    assert {f"{device.bandwidth_gb_s.value:g}" for device in found if device.bandwidth_gb_s} <= words


def test_a_name_that_nothing_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["devices", "radeon"]) == 4
    assert "radeon" in capsys.readouterr().err
    assert main.run(["devices", "radeon", "--here"]) == 2


@pytest.mark.parametrize(
    "tree, said",
    [
        (
            machines.ORIN_NANO_JETPACK_62,
            ["orin-nano-8gb", "36.4.3 (JetPack 6.2)", "tegra234", "Super", "10.3.0.30"],
        ),
        (machines.ORIN_NANO_25W, ["25W (1)", "306-918", "jetson_clocks", "8 GB"]),
        (machines.RTX_4090, ["rtx4090", "compute capability 8.9", "595.71.05", "avx_vnni"]),
        ({"proc/device-tree/model": "Some board\0"}, ["Some board", "not in the catalogue"]),
    ],
)
def test_here(
    tree: machines.Tree,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arch = "x86_64" if tree is machines.RTX_4090 else "aarch64"
    found = detect(machines.write_tree(tmp_path, tree), arch)
    be(monkeypatch, found)
    assert main.run(["devices", "--here"]) == 0
    shown = capsys.readouterr().out
    assert [text for text in said if text not in shown] == []
    document = run_json(capsys, "--here")
    assert document["machine"]["arch"] == arch
    assert document["machine"]["clocks"] == found.clocks
    assert [device["name"] for device in document["devices"]] == [
        d.name for d in load_catalog().recognise(found)
    ]
