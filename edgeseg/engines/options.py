"""Options of runtimes: the options that their rows declare, and what a user asks for, held against
them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from edgeseg.contracts import Option
from edgeseg.engines import table
from edgeseg.errors import OptionError, Unsupported

LIST = "edgeseg build --options"
"""The command that lists what there is."""

CUDA_GRAPH = Option(bool, "launch all work at once, recorded as a CUDA graph; by default true")
OPTIMIZATION_LEVEL = Option(
    int, "how long the builder looks for fast kernels; by default its own level", most=5
)
WORKSPACE_BYTES = Option(
    int, "memory that kernels may work in; by default half of what is free", least=64 << 20
)

THREADS = Option(
    int, "of the processor; --threads says it for all runtimes; by default one for each core", least=1
)

_TRUTH = {"true": True, "false": False}
_NUMBER = re.compile(r"-?[0-9]{1,18}")

Wanted = Mapping[str, Mapping[str, Any]]
"""Runtime -> option -> value."""


def declared() -> dict[str, Mapping[str, Option]]:
    """Return runtime -> name -> option, for every row of the engine table, whether or not its package is
    installed; without the rows of plug-ins that cannot be imported.
    """
    known: dict[str, Mapping[str, Option]] = {}
    for name in table.ENGINES.names():
        with suppress(Unsupported):
            known[name] = table.backend(name).options
    return known


def read(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the options on a command line.

    Args:
        texts: RUNTIME.NAME=VALUE each, such as "tensorrt.optimization_level=5".
    Raises:
        OptionError: there is no such runtime, option or value; or one is given twice.
    """
    known, wanted = declared(), dict[str, dict[str, Any]]()
    for text in texts:
        key, _, value = text.partition("=")
        runtime, _, name = key.partition(".")
        if not (runtime and name and value):
            raise OptionError(
                f"{text!r} is no option of a runtime",
                hint=f"RUNTIME.NAME=VALUE, such as tensorrt.optimization_level=5; {LIST}",
            )
        option = _find(known, runtime, name)
        if name in wanted.setdefault(runtime, {}):
            raise OptionError(
                f"{runtime}.{name} is given twice",
                hint="a runtime is built with one value of an option at a time",
            )
        wanted[runtime][name] = _value(runtime, name, option, _parsed(option, value), value)
    return wanted


def check(wanted: Wanted, runtimes: Sequence[str] = ()) -> None:
    """Raise OptionError where a runtime is asked for what it does not take, or is not considered at all.

    Args:
        runtimes: that are considered; empty: every one.
    """
    known = declared() if any(wanted.values()) else {}
    for runtime, options in wanted.items():
        for name, value in options.items():
            _value(runtime, name, _find(known, runtime, name), value, value)
        if options and runtimes and runtime not in runtimes:
            raise OptionError(
                f"{', '.join(f'{runtime}.{name}' for name in options)} would do nothing: considered are"
                f" {', '.join(runtimes)}",
                hint=f"--runtime {runtime} considers it too; or leave its options out",
            )


def _find(known: Mapping[str, Mapping[str, Option]], runtime: str, name: str) -> Option:
    if runtime not in known:
        raise OptionError(
            f"there is no runtime named {runtime!r}",
            hint=f"{_near(runtime, known)}known: {', '.join(known)}; {LIST}",
        )
    if name not in known[runtime]:
        others = [other for other, options in known.items() if name in options]
        elsewhere = f"; {name} is an option of {', '.join(others)}" if others else ""
        takes = f"{runtime} takes {', '.join(known[runtime]) or 'no options'}"
        raise OptionError(
            f"{runtime} has no option {name!r}", hint=f"{_near(name, known[runtime])}{takes}{elsewhere}"
        )
    return known[runtime][name]


def _parsed(option: Option, text: str) -> Any:
    """The value that a text stands for; the text itself where it stands for none of the option's kind."""
    if option.kind is bool:
        return _TRUTH.get(text, text)
    return int(text) if option.kind is int and _NUMBER.fullmatch(text) else text


def _value(runtime: str, name: str, option: Option, value: Any, shown: Any) -> Any:
    if not option.allows(value):
        raise OptionError(
            f"{runtime}.{name} takes {option.values}, not {shown!r}",
            hint=f"{_near(str(value), option.choices)}{name}: {option.text}",
        )
    return value


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
