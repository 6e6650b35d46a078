"""The doctor tells what other packages add, and what of it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeseg.cli.doctor import doctor
from plugins import install


def told() -> dict[str, dict[str, object]]:
    shown = CliRunner().invoke(doctor, ["--json"])
    assert shown.exit_code == 0, shown.output
    findings = json.loads(shown.stdout)["findings"]
    return {row["name"]: row for row in findings if row["area"] == "plug-ins"}


def test_every_plug_in_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"edgeseg.sinks": {"csv": "acme:thing"}, "edgeseg.meters": {"rapl": "acme:thing"}}
    install(tmp_path, monkeypatch, "acme", good, "thing = object()")
    install(tmp_path, monkeypatch, "broken", {"edgeseg.datasets": {"yard": "broken:thing"}}, "1 / 0")
    rows = told()
    assert rows.keys() == {"sink csv", "power meter rapl", "data format yard"}
    assert rows["sink csv"]["found"] == "acme:thing, of the package acme"
    assert rows["power meter rapl"]["found"] == "not used: edgeseg has a power meter of this name"
    broken = rows["data format yard"]
    assert not broken["ok"] and "package broken" in str(broken["found"])
    assert "ZeroDivisionError" in str(broken["found"]) and "pip uninstall broken" in str(broken["hint"])


def test_without_plug_ins_there_is_no_line() -> None:
    assert told() == {}
