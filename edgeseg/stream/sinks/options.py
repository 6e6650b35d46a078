"""The options in a sink's URI: `out.mp4#view=side&segment_s=600`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeseg.errors import StreamError
from edgeseg.stream.uris import redact, split_options

Reader = Callable[[str], Any]
"""Text of an option -> its value. Raises ValueError that says what is accepted."""


def read_options(uri: str, readers: Mapping[str, Reader], *, suffix: str = "") -> tuple[str, dict[str, Any]]:
    """The URI without its options, and their values.

    Args:
        readers: how each option that this sink takes is read.
        suffix: of file names; one that ends in it has no options, whatever characters it holds.
    Raises:
        StreamError: an option that is not known, given twice, or malformed.
    """
    if suffix and uri.lower().endswith(suffix):
        return uri, {}
    base, texts = split_options(uri, readers)
    options: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            options[key] = readers[key](text)
        except ValueError as error:
            raise StreamError(
                f"{redact(base)}: {key}={text}: not {error}", hint=f"write it as #{key}=..."
            ) from error
    return base, options


def choice(*names: str) -> Reader:
    """One of some words."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return read


def number(least: float, greatest: float) -> Reader:
    """A number in a range, both ends included."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= greatest:
            raise ValueError(f"a number from {least:g} to {greatest:g}")
        return value

    return read


def whole(least: int, greatest: int) -> Reader:
    """A whole number in a range, both ends included."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= greatest:
            raise ValueError(f"a whole number from {least} to {greatest}")
        return int(text)

    return read


def flag(text: str) -> bool:
    """0 or 1."""
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"
