"""Sources and sinks that other packages add, by the scheme or the suffix that their entry point is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeseg.cli.main import root
from edgeseg.errors import StreamError, Unsupported
from edgeseg.stream.sinks.table import open_sinks, route_sinks
from edgeseg.stream.sources.table import open_source
from plugins import install

CODE = """
from edgeseg.testing.fakes import FakeSink, FakeSource

def source(uri, name):
    return FakeSource([], name=name or uri)

def sink(uri, opacity):
    made = FakeSink()
    made.name = uri
    return made
"""
GROUPS = {
    "edgeseg.sources": {"ros-2": "acme:source", "NDI": "acme:source"},
    "edgeseg.sinks": {"csv": "acme:sink", "mp4": "acme:sink"},
}


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", GROUPS, CODE)


@pytest.mark.usefixtures("added")
def test_a_scheme_of_a_source() -> None:
    assert open_source("ros-2://camera/front").source_id == "ros-2://camera/front"
    assert open_source("ndi://studio").source_id == "ndi://studio"
    assert open_source("ROS-2://camera", "front").source_id == "front"


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("uri", ["csv://somewhere", "out/shares.csv", "Shares.CSV#every=2"])
def test_a_scheme_or_a_suffix_of_a_sink(uri: str) -> None:
    (sink,) = open_sinks([uri])
    assert sink.name == uri


@pytest.mark.usefixtures("added")
def test_a_file_of_a_plug_in_is_written_by_one_sink_alone(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="would write over the source or another sink"):
        route_sinks(["a.csv", "a.csv#every=2"], {"camera": "rtsp://camera"})


@pytest.mark.usefixtures("added")
def test_what_is_ours_stays_ours() -> None:
    (sink,) = open_sinks(["out.mp4"])
    assert type(sink).__name__ == "Recording"


def test_help_and_hints_name_every_form(added: None) -> None:
    shown = " ".join(CliRunner().invoke(root, ["run", "--help"]).output.split())
    with pytest.raises(StreamError) as source:
        open_source("ros-3://x")
    with pytest.raises(StreamError) as sink:
        open_sinks(["out.xyz"])
    assert "ros-2://..." in source.value.hint and "clip.mp4" in source.value.hint
    assert "csv://... or *.csv" in sink.value.hint and "out.mp4" in sink.value.hint
    assert "clip.mp4" in shown and "results.ndjson" in shown


def test_a_broken_one_is_told_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", GROUPS, "1 / 0")
    assert open_source("clip.mp4").source_id == "clip.mp4"
    with pytest.raises(Unsupported, match="source 'ros-2' of the package acme cannot be imported"):
        open_source("ros-2://x")
    with pytest.raises(Unsupported, match="sink 'csv' of the package acme cannot be imported"):
        open_sinks(["a.csv"])
