"""URIs of sources and sinks: names, options, and the one place where credentials are taken out.

What is opened is the URI as the user wrote it; what is shown, logged, written or raised is `redact` of it.
Messages of libraries quote URIs too, so these go through `scrub`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from edgeseg.errors import StreamError

HIDDEN = "***"

_SECRET_KEYS = (
    "user username login user-id user-pw pass passwd password pwd pw auth token access_token key apikey"
    " api_key secret sig"
)
_SECRET_FIELD = re.compile(
    rf"(?i)(?<![a-z])((?:{'|'.join(_SECRET_KEYS.split())})\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^&;\s!?#]*)"
)
_URI = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)([^\s\"']*)")
_PORT = re.compile(r"^(?:\[[^\]]*\]|[^:/?#]*)(?::\d{0,5})?(?=[/?#])")
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})=(.+)", re.S)


class Named(NamedTuple):
    """A URI and the name that the user gave it; without one, the redacted URI."""

    name: str
    uri: str


@dataclass(frozen=True, slots=True)
class Connection:
    """How a stream is reached where its URI does not say it; None: as by default.

    Attributes:
        transport: of RTSP.
        timeout_s: silence in seconds after which it is given up, from 0.1 to 3600.
    """

    transport: Literal["tcp", "udp"] | None = None
    timeout_s: float | None = None


def named(text: str) -> Named:
    """Read "NAME=URI" or "URI".

    A name is letters, digits, "_", "." and "-". Where a file is called "a=b.mp4", that is meant.
    """
    match = _NAME.fullmatch(text)
    if match is None or os.path.exists(text):
        return Named(redact(text), text)
    return Named(match[1], match[2])


def scheme_of(uri: str) -> str:
    """Return the scheme of "NAME://...", in lower case; "" where a URI has none."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return found[1].lower() if found else ""


def redact(uri: str) -> str:
    """The URI without user name and password, and without values of query fields that hold secrets, for
    messages and results.
    """
    found = re.match(r"(?i)[a-z][a-z0-9+.-]*://|gst:", uri)
    if found is None:
        return uri
    if found[0].lower() == "gst:":
        return scrub(uri)
    return _fields_hidden(found[0] + _without_login(uri[found.end() :]))


def scrub(text: str) -> str:
    """A message of a library, or a pipeline, with every URI and every field in it redacted."""
    return _fields_hidden(_URI.sub(lambda match: match[1] + _without_login(match[2]), text))


def split_options(uri: str, allowed: Collection[str]) -> tuple[str, dict[str, str]]:
    """Take our options from behind the "#": "rtsp://camera/1?channel=2#transport=udp" -> (".../1?channel=2",
    {"transport": "udp"}).

    They follow a "#" because what follows a "?" is the camera's own.

    Raises:
        StreamError: an option that is not in `allowed`, or is given twice.
    """
    address, mark, text = uri.partition("#")
    pairs = parse_qsl(text, keep_blank_values=True)
    options = dict(pairs)
    unknown = sorted(set(options) - set(allowed))
    if unknown or len(options) != len(pairs) or (mark and text and not pairs):
        named_keys = ", ".join(unknown) or text
        raise StreamError(
            f"{redact(address)}: {named_keys}: not an option here",
            hint=(
                "options follow a #, as in"
                f" {redact(address)}#{'&'.join(f'{key}=...' for key in sorted(allowed))}"
            ),
        )
    return address, options


def number(uri: str, options: dict[str, str], key: str, default: float, least: float, most: float) -> float:
    """An option that is a number. Raises StreamError where it is none, or out of its range."""
    text = options.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise StreamError(
            f"{redact(uri)}: {key}={text} is not a number from {least:g} to {most:g}",
            hint=f"write #{key}={default:g}",
        )
    return value


_Choice = TypeVar("_Choice", bound=str)


def choice(uri: str, options: dict[str, str], key: str, values: Sequence[_Choice]) -> _Choice:
    """An option that is one of some words, the first by default. Raises StreamError where it is another."""
    text = options.get(key, values[0])
    for value in values:
        if text == value:
            return value
    raise StreamError(f"{redact(uri)}: {key}={text} is not known", hint=f"write #{key}={' or '.join(values)}")


def _without_login(rest: str) -> str:
    """What follows "://", without user and password.

    An unescaped "/" in either of them ends the authority for every parser, so the URI is wrong; they are
    hidden all the same.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = (authority if "@" in authority else rest).rfind("@")
    if end < 0 or ("@" not in authority and ":" not in _PORT.sub("", rest[:end], count=1)):
        return rest
    return f"{HIDDEN}@{rest[end + 1 :]}"


def _fields_hidden(text: str) -> str:
    return _SECRET_FIELD.sub(lambda match: match[1] + HIDDEN, text)
