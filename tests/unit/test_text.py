"""Names of any bytes, and what comes out of them."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.text import ENCODING_ERRORS, json_text, quoted, shown

NAMES = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name).map(os.fsdecode)
"""File names as the disk takes them and Python shows them."""
TEXTS = st.text(st.characters(codec=None)) | NAMES


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _strings(item)]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else [value]


@given(TEXTS)
def test_what_is_shown_can_be_written_by_every_encoding_of_unicode(text: str) -> None:
    clean = shown(text)
    clean.encode("utf-8")
    clean.encode("utf-16")
    assert shown(clean) == clean


@pytest.mark.parametrize(
    ("name", "seen"),
    [(b"a\xff.png", r"a\xff.png"), ("kä.png".encode(), "kä.png"), (b"\xc3\xa4\xe4", r"ä\xe4")],
)
def test_a_byte_that_is_no_text_is_shown_as_ls_does(name: bytes, seen: str) -> None:
    assert shown(os.fsdecode(name)) == seen


@given(
    st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
)
def test_json_is_ascii_and_holds_no_lone_surrogates(data: Any) -> None:
    text = json_text(data)
    text.encode("ascii")
    for found in _strings(json.loads(text)):
        found.encode("utf-8")


@given(
    st.recursive(
        st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )
)
def test_json_of_text_is_json(data: Any) -> None:
    assert json.loads(json_text(data, indent=2)) == data


def test_json_of_a_name() -> None:
    assert json.loads(json_text([os.fsdecode(b"a\xff"), "\\udcff", "😀", "\ud83d"])) == [
        r"a\xff",
        "\\udcff",
        "😀",
        "\\ud83d",
    ]
    with pytest.raises(ValueError, match="Out of range"):
        json_text(float("nan"))


@given(TEXTS)
def test_streams_of_every_encoding_take_it(text: str) -> None:
    for encoding in ("ascii", "latin-1", "utf-8", "cp1252"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=ENCODING_ERRORS)
        stream.write(text)
        stream.flush()


@given(NAMES)
def test_a_quoted_path_is_one_word_that_a_terminal_shows_and_a_copy_of_it_works(name: str) -> None:
    word = quoted(name)
    word.encode("utf-8")
    assert "\n" not in word and "\x1b" not in word
    assert not word.startswith("-") or name == "-"
    if not word.startswith("$'"):
        meant = f"./{name}" if name.startswith("-") and name != "-" else name
        assert shlex.split(word) == [meant]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_reads_back_what_was_quoted() -> None:
    names = [
        "my file.mp4",
        "-rf",
        "a'b",
        'a"b',
        "$HOME",
        "a\nb",
        os.fsdecode(b"\xff\xfe x'y\\z"),
        "ä ö",
        "a\tb\x01",
        "😀",
        "*",
        "~",
    ]
    words = " ".join(quoted(name) for name in names)
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True
    ).stdout
    expected = [os.fsencode(f"./{name}" if name.startswith("-") else name) for name in names]
    assert printed.split(b"\0")[:-1] == expected


def test_what_needs_no_quotes_has_none() -> None:
    assert quoted("runs/a/best.safetensors") == "runs/a/best.safetensors"
    assert quoted("-") == "-"
