"""streams.yaml: what it may hold, what is said when it is wrong, and that no secret is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import RecipeError
from edgeseg.stream.config import Streams, load_streams
from edgeseg.stream.run.mailbox import LIVE, RECORDED, Policy
from edgeseg.stream.uris import Connection
from edgeseg.stream.watch.regions import Region, Threshold
from locations import REPOSITORY

EXAMPLE = REPOSITORY / "service" / "streams.yaml"
LEAST = "bundle: b.edgeseg\nsources: [{uri: clip.mp4}]\n"


def load(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> Streams:
    path = folder / "streams.yaml"
    path.write_text(text, encoding="utf-8")
    return load_streams(path, environment or {})


def said(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """The mistakes, one a line, with the folder cut off."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, environment)
    return str(caught.value).replace(f"{folder}/", "").splitlines()[1:]


def test_what_is_left_out_is_the_default(tmp_path: Path) -> None:
    streams = load(tmp_path, LEAST)
    assert (streams.level, streams.threads, streams.web, streams.log, streams.sinks) == (
        0,
        None,
        None,
        "text",
        (),
    )
    source = streams.sources[0]
    assert (source.mailbox(is_live=True), source.mailbox(is_live=False)) == (LIVE, RECORDED)


def raw_region() -> dict[str, object]:
    region: dict[str, object] = yaml.safe_load(EXAMPLE.read_text())["sources"][0]["regions"][0]
    return region


def test_the_example_holds_every_key_and_loads(tmp_path: Path) -> None:
    streams = load_streams(EXAMPLE, {"GATE_LOGIN": "user:secret"})
    assert streams.sources[0].uri == "rtsp://user:secret@10.0.0.21/stream1"
    assert streams.sources[0].connection() == Connection("tcp", 5)
    assert streams.sources[0].mailbox(True) == Policy("oldest", 1, 500.0)
    region = streams.sources[0].regions[0]
    assert set(raw_region()) == set(type(region).model_fields)
    assert region.build() == Region("lane", ((0.35, 0.6), (0.65, 0.6), (0.95, 1.0), (0.05, 1.0)))
    assert region.thresholds[0].build("lane") == Threshold(
        "road blocked", "lane", ("road",), True, 0.35, 0.30, 2.0, others=True
    )
    assert streams.patience.build().start_s is None
    raw = yaml.safe_load(EXAMPLE.read_text())
    assert set(raw) == set(Streams.model_fields)
    for name in ("patience", "web"):
        assert set(raw[name]) == set(type(getattr(streams, name)).model_fields)
    assert set(raw["sources"][0]) == set(type(streams.sources[0]).model_fields)


def test_every_mistake_at_once_with_its_line(tmp_path: Path) -> None:
    text = """bundle: b.edgeseg
sources:
  - name: gate
    uri: rtsp://camera/1
    drop: newst
    queue: 0
  - uri: rtsp://${NOPE}@camera/2
    nmae: yard
    regions:
      - name: lane
        polygon: [[0, 0], [1, 0], [1, 1]]
        thresholds: [{name: jam, classes: [car], above: 0.5, below: 0.1}]
opacty: 3
web: {listen: 8080}
log: xml
"""
    assert said(tmp_path, text) == [
        (
            "streams.yaml:5: sources.0.drop: must be 'oldest', 'newest' or 'none', not \"newst\"; did you"
            " mean newest?"
        ),
        "streams.yaml:6: sources.0.queue: must be greater than or equal to 1, not 0",
        "streams.yaml:7: sources.1.uri: the environment has no variable NOPE",
        "streams.yaml:8: sources.1.nmae: unknown key; did you mean name?",
        "streams.yaml:12: sources.1.regions.0.thresholds.0: needs above or below, one of them",
        "streams.yaml:13: opacty: unknown key; did you mean opacity, a top-level key?",
        'streams.yaml:14: web.listen: must be text, not 8080; for text write "8080"',
        "streams.yaml:15: log: must be 'text' or 'json', not \"xml\"",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("deadline_ms: 50\ntarget_fps: 30\n", "deadline_ms and target_fps are two targets; give one of them"),
        ("sources: [{uri: a.mp4}]\n", "written twice"),
        ("sinks: out.mp4\n", "must be a list"),
        ("patience: {retry_s: 0}\n", "must be greater than 0"),
        ("deadline_ms: .inf\n", "numbers are finite"),
        ("limit: 1.5\n", "must be an integer"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, more: str, message: str) -> None:
    assert message in "\n".join(said(tmp_path, LEAST + more))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("{name: lane, polygon: [[0, 0], [1, 1]]}", "takes at least 3 values"),
        ("{name: 'a=b', polygon: [[0, 0], [1, 0], [1, 1]]}", "without '='"),
        ("{name: lane, polygon: [[0, 0], [1, 0], [-1, 1]]}", "from 0 up"),
        (
            (
                "{name: lane, polygon: [[0, 0], [1, 0], [1, 1]], thresholds: [{name: jam, classes: [car],"
                " above: 0.2, clear: 0.3}]}"
            ),
            "must lie below",
        ),
    ],
)
def test_regions_are_checked_where_they_stand(tmp_path: Path, region: str, message: str) -> None:
    text = f"bundle: b\nsources:\n  - uri: a.mp4\n    regions:\n      - {region}\n"
    lines = said(tmp_path, text)
    assert (
        len(lines) == 1 and lines[0].startswith("streams.yaml:5: sources.0.regions.0") and message in lines[0]
    )


def test_two_sources_of_one_name(tmp_path: Path) -> None:
    assert (
        "two sources are called gate"
        in said(tmp_path, "bundle: b\nsources: [{name: gate, uri: a.mp4}, {name: gate, uri: b.mp4}]\n")[0]
    )


@pytest.mark.parametrize("text", ["", "just text\n", "- a\n", "bundle: b\n"])
def test_no_configuration(tmp_path: Path, text: str) -> None:
    assert said(tmp_path, text)[0].startswith("streams.yaml:1:")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load_streams(tmp_path / "streams.yaml", {})


def test_no_message_holds_what_the_environment_held(tmp_path: Path) -> None:
    text = (
        "bundle: b\nsources: [{uri: 'rtsp://u:${PASSWORD}@camera/1'}]\nlog: ${PASSWORD}\nopacity:"
        " '${PASSWORD}'\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, {"PASSWORD": "hunter2"})
    assert "hunter2" not in str(caught.value) + caught.value.hint


@given(
    key=st.from_regex(r"[a-z][a-z_]{0,12}", fullmatch=True),
    value=st.none() | st.booleans() | st.integers(0, 9) | st.just("x"),
)
def test_any_document_loads_or_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(LEAST + yaml.safe_dump({key: value}))
    try:
        streams = load_streams(path, {})
    except RecipeError as error:
        assert key in str(error)
    else:
        assert key in Streams.model_fields and getattr(streams, key) == value


@given(st.floats(0, 1), st.booleans())
def test_a_threshold_without_clear_has_hysteresis(limit: float, above: bool) -> None:
    from edgeseg.stream.config import ThresholdSection as Section

    built = Section(name="jam", classes=("car",), **{"above" if above else "below": limit}).build("lane")  # type: ignore[arg-type]
    assert built.raise_at == limit and built.above is above and math.isfinite(built.clear_at)
    assert built.clear_at <= limit if above else built.clear_at >= limit
