"""Tables that installed packages extend: names with import strings, ours and those of an entry-point group.

A plug-in is a distribution that declares entry points. Nothing of it is imported before its row is used: one
that is broken breaks nothing else. Using it tells what is wrong, and `edgeseg doctor` lists them all. A name
of ours stays ours: a plug-in that takes it is not used, and the doctor says so.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from edgeseg.errors import EdgesegError, Unsupported

_Thing = TypeVar("_Thing", covariant=True)

ENGINES_GROUP = "edgeseg.engines"
SOURCES_GROUP = "edgeseg.sources"
SINKS_GROUP = "edgeseg.sinks"
MODELS_GROUP = "edgeseg.models"
DATASETS_GROUP = "edgeseg.datasets"
METERS_GROUP = "edgeseg.meters"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A row that an installed package adds.

    Attributes:
        value: its import string, "module:attribute".
        distribution: the package, as pip calls it.
        shadowed: who has the name already, so that this row is not used; "" where nobody has.
    """

    group: str
    name: str
    value: str
    distribution: str
    shadowed: str = ""


class Table(Generic[_Thing]):
    """A table of import strings, and the rows that an entry-point group adds to it.

    Args:
        group: of the entry points.
        what: is in it, for messages: "runtime".
        rows: name -> "module:attribute" of our own.
        taken: further names that no plug-in may take.
    """

    def __init__(
        self, group: str, what: str, rows: Mapping[str, str], *, taken: Collection[str] = ()
    ) -> None:
        self.group, self.what, self.rows = group, what, rows
        self._taken = taken

    def plugins(self) -> dict[str, Plugin]:
        """Return the rows that are added, by name."""
        return {plugin.name: plugin for plugin in self.installed() if not plugin.shadowed}

    def installed(self) -> list[Plugin]:
        """Return every entry point of the group, those included whose name somebody else has."""
        found: list[Plugin] = []
        for point, distribution in _points(self.group, tuple(sys.path)):
            first = next((one for one in found if one.name == point.name and not one.shadowed), None)
            ours = point.name in self.rows or point.name in self._taken
            shadowed = "edgeseg" if ours else first.distribution if first else ""
            found.append(Plugin(self.group, point.name, point.value, distribution, shadowed))
        return found

    def names(self) -> list[str]:
        """Return the names of all rows, ours first."""
        return [*self.rows, *self.plugins()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.rows or name in self.plugins())

    def load(self, name: str) -> _Thing:
        """Import what a row names.

        Raises:
            Unsupported: there is no such row, or the plug-in that adds it cannot be imported.
        """
        thing: _Thing
        if name in self.rows:
            thing = _imported(self.rows[name])
            return thing
        plugins = self.plugins()
        if name not in plugins:
            known = self.names()
            near = difflib.get_close_matches(name, known, n=1)
            raise Unsupported(
                f"there is no {self.what} named {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}",
            )
        thing = self.imported(name, plugins[name].value)
        return thing

    def imported(self, name: str, value: str) -> Any:
        """Import what a plug-in's row names, or what that names in turn.

        Raises:
            Unsupported: it cannot be imported; the message names the row and its package.
        """
        try:
            return _imported(value)
        except EdgesegError:
            raise
        except Exception as error:
            package = self.plugins()[name].distribution
            raise Unsupported(
                f"the {self.what} {name!r} of the package {package} cannot be imported:"
                f" {type(error).__name__}: {error}",
                hint=f"repair that package, or remove it: pip uninstall {package}",
            ) from error

    def problem(self, plugin: Plugin) -> str:
        """Return why a plug-in of this table cannot be used, for people; "" where it can."""
        if plugin.shadowed:
            return f"not used: {plugin.shadowed} has a {self.what} of this name"
        try:
            self.load(plugin.name)
        except EdgesegError as error:
            return str(error)
        return ""


def _imported(value: str) -> Any:
    module, _, attribute = value.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _points(group: str, path: tuple[str, ...]) -> list[tuple[EntryPoint, str]]:
    """Return the entry points of a group with their distributions, in an order that does not depend on the
    disk's. Kept, since reading them takes milliseconds; `path` is where Python looks now.
    """
    found = [(point, point.dist.name if point.dist else "?") for point in entry_points(group=group)]
    return sorted(found, key=lambda one: (one[1], one[0].name))
