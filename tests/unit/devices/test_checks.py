"""The doctor tells the truth about this machine, and what to type where something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.cli import main
from edgeseg.devices.doctor import checks
from edgeseg.devices.doctor.findings import Finding


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    named = {finding.name: finding for finding in findings}
    assert len(named) == len(findings)
    return named


def test_findings_are_facts_of_this_machine() -> None:
    findings = by_name(checks.check())
    assert findings["core"].ok
    assert f"numpy {importlib.metadata.version('numpy')}" in findings["core"].found
    assert findings["ONNX Runtime"].found.startswith(importlib.metadata.version("onnxruntime"))
    assert findings["mp4"].ok
    assert findings["extra demo"].ok == (importlib.util.find_spec("skvideo") is not None)
    assert int(findings["usable cores"].found) >= 1


def test_what_is_missing_comes_with_what_to_type() -> None:
    findings = checks.check()
    assert all(finding.ok != bool(finding.hint) for finding in findings)


def test_every_declared_extra_that_is_used_is_looked_at() -> None:
    declared = set(checks._requirements())
    assert {"", "video", "train", "demo", "openvino"} <= declared <= {"", *checks._EXTRAS}
    assert "onnxruntime" in checks._requirements()[""]


def test_an_absent_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks._IMPORT_NAMES, "safetensors", "no_such_module")
    finding = by_name(list(checks._packages()))["extra train"]
    assert not finding.ok
    assert not finding.required
    assert finding.hint == "pip install 'edgeseg[train]'"
    assert finding.found.startswith("not installed: ")
    assert "safetensors" in finding.found


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(Path, "cwd", lambda: gone)
    gone.rmdir()
    finding = by_name(list(checks._storage()))["working folder"]
    assert not finding.ok
    assert "No such file or directory" in finding.found


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {"area", "name", "ok", "found", "hint", "required"} == set(document["findings"][0])


def test_doctor_fails_where_the_core_is_broken() -> None:
    # onnxruntime cannot be imported in this interpreter; everything else is as it was.
    line = "sys.exit(run(['doctor', '--json']))"
    code = f"import sys; sys.modules['onnxruntime'] = None; from edgeseg.cli.main import run; {line}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4, done.stderr
    missing = {
        finding["name"]: finding for finding in json.loads(done.stdout)["findings"] if not finding["ok"]
    }
    assert missing["ONNX Runtime"]["hint"] == "pip install --force-reinstall onnxruntime"
    assert missing["core"]["hint"] == "pip install onnxruntime"
