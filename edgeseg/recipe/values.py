"""A recipe's values as they were read, whatever is wrong with them: what rules look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.recipe.architectures import Entry, entry_of
from edgeseg.recipe.explain import section_of
from edgeseg.recipe.labels import FORMATS, label_space
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import LabelSpace


@dataclass(frozen=True)
class Values:
    """A recipe's values by path, with the schema's defaults where a section leaves them out. Anything may be
    of any type.
    """

    data: Any

    def get(self, *path: str) -> Any:
        """The value; None where it is missing without default, or below something that is no section."""
        here: Any = self.data
        section: Mapping[str, Any] = Recipe.model_fields
        for key in path:
            if not isinstance(here, Mapping):
                return None
            info = section.get(key)
            if key in here:
                here = here[key]
            elif info is None or info.is_required():
                return None
            else:
                here = info.get_default(call_default_factory=True)
                here = here.model_dump(mode="json") if hasattr(here, "model_dump") else here
            section = _fields(info.annotation) if info else {}
        return list(here) if isinstance(here, tuple) else here

    def number(self, *path: str) -> float | None:
        value = self.get(*path)
        return (
            value
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            else None
        )

    def integer(self, *path: str) -> int | None:
        value = self.get(*path)
        return value if type(value) is int else None

    def items(self, *path: str) -> list[Any]:
        """A list; empty where there is none."""
        value = self.get(*path)
        return value if isinstance(value, list) else []

    def section(self, *path: str) -> Mapping[str, Any]:
        """A section; empty where there is none."""
        value = self.get(*path)
        return value if isinstance(value, Mapping) else {}

    @property
    def entry(self) -> Entry | None:
        """The parts of the model; None where nobody knows it."""
        arch = self.get("model", "arch")
        return entry_of(arch) if isinstance(arch, str) else None

    @property
    def options(self) -> dict[str, Any]:
        """Of the model, those that it has, defaults included."""
        given = self.section("model", "options")
        return {
            name: given.get(name, option.default)
            for name, option in (self.entry.options if self.entry else {}).items()
        }

    @property
    def own_labels(self) -> LabelSpace | None:
        """Those of the data's format; None where it has none of its own, or where they lie with the data."""
        form = self.get("data", "format")
        return label_space(form) if isinstance(form, str) and form in FORMATS else None

    @property
    def num_classes(self) -> int | None:
        """None where only the data tells."""
        names = self.items("data", "classes", "names")
        own = self.own_labels
        return own.num_classes if own is not None else len(names) or None


def _fields(annotation: Any) -> Mapping[str, Any]:
    section = section_of(annotation)
    return section.model_fields if section else {}
