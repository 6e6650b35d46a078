"""YAML as recipes use it: plain data with line numbers, and every mistake of the text at once.

Scalars follow YAML 1.2's core schema: `1e-4` is a number, `on`, `off`, `yes`, `no` and `12:30` are text
(PyYAML alone follows 1.1 and reads text, booleans and 750). Duplicate keys, anchors, aliases, merge keys and
tags are refused: what is written counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple["str | int", ...]
"""Keys and list positions from the root to a value."""

_MAX_DEPTH = 20
_INT = re.compile(r"[-+]?[0-9]{1,20}|0o[0-7]{1,22}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS = {word: value for words, value in (
    (("", "~", "null", "Null", "NULL"), None),
    (("true", "True", "TRUE"), True),
    (("false", "False", "FALSE"), False),
) for word in words}  # fmt: skip
_PLAINER = {  # how a parser's message begins -> what it means to someone who edits a recipe
    "mapping values are not allowed": (
        "a ':' where none fits: wrong indentation, no ':' on the line before, or text that needs "
        "quotes because it holds ': '"
    ),
    "could not find expected ':'": "expected `key: value`",
    "expected <block end>": "wrong indentation, or something left over after a value",
    "found character '\\t'": "a tab: indent with spaces",
    "found unexpected end of stream": "a quote that is never closed",
    "expected ',' or ']'": "a list whose ']' or ',' is missing",
    "expected ',' or '}'": "a section whose '}' or ',' is missing",
}


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a recipe. `line` counts from 1; 0 where `where` is not a file."""

    where: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.where}:{self.line}" if self.line else self.where
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


@dataclass
class Reading:
    """What a text came to.

    Attributes:
        data: dicts with text keys, lists and scalars, as JSON can hold them; None where nothing could be
            read.
        lines: path -> line, from 1, of every key and list item.
        mistakes: what is wrong with the text itself.
        unread: paths whose value could not be read, so that nothing can be said about it; () is the whole
            text.
    """

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Value of an unquoted scalar by YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=[a-zA-Z])", "", text))
    return text


def read_yaml(text: str, where: str, *, by_section: bool = True) -> Reading:
    """Read a text.

    Args:
        text: one YAML document.
        where: the file's name, for the mistakes.
        by_section: a syntax error, which ends a YAML parser, blanks the top-level section that holds it and
            the rest is read again, so that the mistakes of other sections are told in the same run.
    """
    reading = Reading()
    lines = text.splitlines(
        keepends=True
    )  # the line ends that PyYAML counts; it refuses the other ones Python knows
    while True:
        loader = _Loader("")
        try:
            loader = _Loader("".join(lines))
            root = loader.get_single_node()
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            reading.mistakes.append(
                Mistake(where, line, "", f"a character that no text holds: {error.character!r}")
            )
            reading.unread.add(())
            return reading
        except (
            yaml.MarkedYAMLError,
            ValueError,
            OverflowError,
        ) as error:  # the last two: an escape beyond Unicode
            line, message = _syntax(error, loader)
            if isinstance(error, yaml.composer.ComposerError):
                reading.mistakes.append(Mistake(where, line + 1, "", "a second document: one recipe a file"))
                del lines[line:]
                continue
            section = _blank(lines, line) if by_section else None
            if section is None:
                reading.mistakes.append(Mistake(where, line + 1, "", message))
                reading.unread.add(())
                return reading
            reading.mistakes.append(
                Mistake(where, line + 1, "", f"{message} (the rest of {section} is not checked)")
            )
            reading.unread.add((section,))
            continue
        finally:
            reading.mistakes += [m for m in loader.refused(where) if m not in reading.mistakes]
        if root is not None:
            reading.data = _Builder(where, reading).value(root, ())
        return reading


def _syntax(error: Exception, loader: _Loader) -> tuple[int, str]:
    """Line, from 0, to which a syntax error belongs, and what to say."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return loader.get_mark().line, "an escape beyond Unicode"
    begun = (error.context or "").startswith(("while scanning", "while parsing a flow"))
    mark = (error.context_mark if begun else None) or error.problem_mark or error.context_mark
    problem = error.problem or "syntax error"
    plainer = next((text for begin, text in _PLAINER.items() if problem.startswith(begin)), None)
    return (mark.line if mark else 0), plainer or ", ".join(part for part in (error.context, problem) if part)


def _blank(lines: list[str], line: int) -> str | None:
    """Empty the top-level section around `line` in place; its key, or None where there is none."""
    start = min(line, len(lines) - 1)
    while start >= 0 and not _opens_section(lines[start]):
        start -= 1
    if start < 0:
        return None
    key = re.split(r"[:\s]", lines[start], maxsplit=1)[0].strip("\"'")
    while True:
        lines[start] = "\n"
        start += 1
        if start == len(lines) or _opens_section(lines[start]):
            return key


def _opens_section(line: str) -> bool:
    return bool(line.strip()) and line[0] not in " \t#-]}"


class _Loader(yaml.SafeLoader):
    """Composes nodes only; notes and steps over what recipes do not use."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._refused: list[tuple[int, str]] = []

    def refused(self, where: str) -> Iterator[Mistake]:
        for line, message in self._refused:
            yield Mistake(where, line, "", message)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        line = mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self._refused.append((line, f"the alias *{event.anchor}: write the value itself"))
            return _AliasNode("tag:yaml.org,2002:null", "", mark, mark)
        if event.anchor is not None:
            self._refused.append((line, f"the anchor &{event.anchor}: recipes repeat a value in writing"))
            event.anchor = None
        if event.tag is not None:
            self._refused.append((line, f"the tag {event.tag}: recipes hold plain values only"))
            event.tag = None
            event.implicit = (False, True) if isinstance(event, yaml.ScalarEvent) else True
        if self._depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_MAX_DEPTH} levels", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.yaml_implicit_resolvers = {}  # `plain_scalar` resolves instead


class _AliasNode(yaml.ScalarNode):
    """Stands where an alias was refused."""


@dataclass
class _Builder:
    """Turns nodes into data, filling in the reading's lines, mistakes and unread paths."""

    where: str
    reading: Reading

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, _AliasNode):
            self.reading.unread.add(path)
            return None
        value = _scalar(node)
        problem = _problem(value)
        if problem:
            self._refuse(node, path, problem)
            self.reading.unread.add(path)
            return None
        return value

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.reading.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key is None:
                self._refuse(key_node, path, "a key must be one word")
                continue
            here = (*path, key)
            if key == "<<" and _is_plain(key_node):
                self._refuse(key_node, here, "a merge key: recipes repeat a value in writing")
            elif key in data:
                self._refuse(key_node, here, f"written twice; first on line {self.reading.lines[here]}")
            else:
                self.reading.lines[here] = key_node.start_mark.line + 1
                data[key] = self.value(value_node, here)
        return data

    def _refuse(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.reading.mistakes.append(Mistake(self.where, node.start_mark.line + 1, dotted(path), message))


def _key(node: yaml.Node) -> str | None:
    """Text of a key; integers in their shortest form, so that 7 and 07 are one key. None: not a scalar, or
    not text.
    """
    if not isinstance(node, yaml.ScalarNode) or isinstance(node, _AliasNode) or _SURROGATE.search(node.value):
        return None
    value = _scalar(node)
    return str(value) if type(value) is int else str(node.value)


def _scalar(node: yaml.Node) -> Any:
    """Quoted and block scalars are text; what is unquoted is what it looks like."""
    return plain_scalar(node.value) if _is_plain(node) else node.value


def _is_plain(node: yaml.Node) -> bool:
    return getattr(node, "style", None) is None


def _problem(value: object) -> str | None:
    """Why JSON, or a 64-bit integer, cannot hold a scalar."""
    if isinstance(value, float) and not math.isfinite(value):
        return "numbers are finite"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "an integer beyond 64 bits"
    if isinstance(value, str) and _SURROGATE.search(value):
        return "half a character (a lone surrogate)"
    return None


def dotted(path: KeyPath) -> str:
    """`("targets", 0, "runtime")` as `targets.0.runtime`."""
    return ".".join(map(str, path))
