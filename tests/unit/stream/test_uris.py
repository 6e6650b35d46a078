"""Credentials never come out; names and options are read as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import StreamError
from edgeseg.stream.sources.table import check_names, open_source
from edgeseg.stream.uris import named, redact, scrub, split_options

# Long enough not to occur in the rest of the URI by chance; "@" is in, and so is what ends an authority.
SECRETS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters="\"'?#&;!=:"), min_size=1
).map(lambda text: f"Zq{text}qZ")


@given(SECRETS, SECRETS)
def test_no_login_is_shown(user: str, password: str) -> None:
    for uri in (
        f"rtsp://{user}:{password}@cam.local:554/stream",
        f"http://{user}:{password}@cam/video@2x.mjpg?channel=1",
    ):
        for shown in (redact(uri), scrub(f"{uri}: no answer")):
            assert user not in shown
            assert password not in shown
            assert "***@" in shown


@given(st.sampled_from(["password", "user", "token", "user-pw", "PWD", "api_key"]), SECRETS)
def test_no_secret_field_is_shown(key: str, secret: str) -> None:
    for uri in (
        f"rtsp://cam/live?channel=1&{key}={secret}&subtype=0",
        f"gst:rtspsrc location=rtsp://a/b {key}={secret} ! decodebin",
    ):
        assert secret not in redact(uri)
        assert f"{key}=***" in redact(uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://cam:554/a", "rtsp://cam:554/a"),
        ("rtsp://u:p@cam/a?x=1", "rtsp://***@cam/a?x=1"),
        ("rtsp://u:p@[fe80::1]:554/a", "rtsp://***@[fe80::1]:554/a"),
        ("http://cam:80/photo@2x.jpg", "http://cam:80/photo@2x.jpg"),
        ("http://cam/photo@2x.jpg", "http://cam/photo@2x.jpg"),
        ("rtsp://u:p/w@cam/a", "rtsp://***@cam/a"),
        (
            "gst:rtspsrc location=rtsp://u:p@cam/a ! decodebin",
            "gst:rtspsrc location=rtsp://***@cam/a ! decodebin",
        ),
        ("clips/a@b.mp4", "clips/a@b.mp4"),
    ],
)
def test_what_is_shown(uri: str, shown: str) -> None:
    assert redact(uri) == shown


def test_names() -> None:
    assert named("front=rtsp://u:p@cam/1") == ("front", "rtsp://u:p@cam/1")
    assert named("rtsp://u:p@cam/?a=b") == ("rtsp://***@cam/?a=b", "rtsp://u:p@cam/?a=b")
    assert named("gst:videotestsrc num-buffers=3").uri.startswith("gst:")
    assert named("frames/?fps=3").uri == "frames/?fps=3"


def test_a_file_with_an_equals_sign_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    assert named("a=b.mp4") == ("a=b.mp4", "a=b.mp4")


def test_a_source_has_its_name_in_results() -> None:
    assert open_source("synthetic://64x48", "cam1").source_id == "cam1"
    assert open_source("rtsp://u:p@cam/1#transport=udp").source_id == "rtsp://***@cam/1"
    assert open_source("rtsp://u:p@cam/1", "back").source_id == "back"


def test_two_sources_need_two_names() -> None:
    with pytest.raises(StreamError, match="given twice") as caught:
        check_names([open_source("rtsp://u:secret@cam/1"), open_source("rtsp://v:secret@cam/1")])
    assert "front=" in caught.value.hint
    check_names([open_source("rtsp://cam/1", "a"), open_source("rtsp://cam/1", "b")])


def test_options_follow_a_hash() -> None:
    assert split_options("rtsp://cam/1?channel=2#transport=udp&timeout=3", {"transport", "timeout"}) == (
        "rtsp://cam/1?channel=2",
        {"transport": "udp", "timeout": "3"},
    )


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://u:secret@cam/1#transports=udp",
        "rtsp://u:secret@cam/1#transport=carrier-pigeon",
        "rtsp://u:secret@cam/1#timeout=soon",
        "rtsp://u:secret@cam/1#timeout=-1",
        "rtsp://u:secret@cam/1#timeout=1&timeout=2",
        "rtsp://u:secret@cam/1#nothing",
        "/dev/video0#size=big",
        "/dev/video0#size=0x0",
        "v4l2://0#fps=nan",
        "csi://front",
        "csi://0#size=1920",
        "gst:",
        "gst: ! appsink",
    ],
)
def test_wrong_options_are_told_without_the_password(uri: str) -> None:
    with pytest.raises(StreamError) as caught:
        open_source(uri)
    assert caught.value.hint
    assert "secret" not in f"{caught.value} {caught.value.hint}"
