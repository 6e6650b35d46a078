"""Names and commands as text: what a terminal, a JSON reader or a shell can take, whatever bytes a file name
holds.

Python reads a byte of a file name that is not UTF-8 as a lone surrogate, which no encoding writes and strict
JSON readers refuse. Wherever such a name leaves the program it is shown as ls shows it, `\\xff` for the byte.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|u(d[89a-f]..)|.)", re.DOTALL)
ENCODING_ERRORS = "edgeseg-shown"
"""Name of the `errors` handler of a text stream that shows what its encoding lacks as escapes, bytes of names
as `\\xff`.
"""


def shown(text: str | os.PathLike[str]) -> str:
    """A text, or a path, that every Unicode encoding can write: a byte that is not UTF-8 becomes `\\xff`."""
    return _SURROGATE.sub(lambda match: _escaped(ord(match[0])), os.fspath(text))


def json_text(data: Any, *, indent: int | None = None, **options: Any) -> str:
    """JSON in ASCII that every reader takes: no NaN, no lone surrogates.

    Raises:
        ValueError: NaN or infinity in it.
    """
    text = json.dumps(data, indent=indent, allow_nan=False, **options)
    return _ESCAPE.sub(_without_surrogate, text) if "\\ud" in text else text


def plain(value: Any) -> Any:
    """Return the JSON form of a value: mappings, sequences, paths, dataclasses, numpy scalars and arrays.

    What has a `to_json` is what that gives. NaN and infinity are null.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if callable(to_json := getattr(value, "to_json", None)):
        return plain(to_json())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def json_document(data: Any) -> bytes:
    """A JSON file for people and programs: `json_text`, indented, with a line end."""
    return (json_text(data, indent=2) + "\n").encode()


def quoted(word: str | os.PathLike[str]) -> str:
    """A path or URI as one word of a printed command: what a shell passes on is the same path, and never an
    option.
    """
    text = os.fspath(word)
    if text.startswith("-") and text != "-":
        text = f"./{text}"
    if not (text.isprintable() and text.isascii()) and not _plain(text):
        return _dollar_quoted(text)
    return shlex.quote(text)


def _plain(text: str) -> bool:
    """Whether a terminal shows it as it is: letters of any script, but no line ends, control characters or
    stray bytes.
    """
    return text.isprintable() and not _SURROGATE.search(text)


def _dollar_quoted(text: str) -> str:
    """$'a\\nb', which bash, zsh, ksh and busybox read; only where plain quotes would not survive a
    terminal.
    """
    pieces = []
    for byte in os.fsencode(text):
        char = chr(byte)
        pieces.append(f"\\{char}" if char in "\\'" else char if 32 <= byte < 127 else f"\\x{byte:02x}")
    return "$'" + "".join(pieces) + "'"


def _escaped(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _without_surrogate(match: re.Match[str]) -> str:
    return match[0] if match[1] is None else "\\" + _escaped(int(match[1], 16))


def _show_instead(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(
        _escaped(ord(char)) if _SURROGATE.match(char) else char.encode("ascii", "backslashreplace").decode()
        for char in wrong
    ), error.end


codecs.register_error(ENCODING_ERRORS, _show_instead)
