"""Class names and colours of the public data sets, as JSON beside the code: one `[name, [r, g, b]]` a line, in class order."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from edgeseg.specs import LabelSpace


@cache
def label_space(name: str) -> LabelSpace:
    """The label space of `classes/NAME.json`; ignore index 255.

    Raises:
        FileNotFoundError: no such list.
    """
    rows = json.loads((files("edgeseg.data") / "classes" / f"{name}.json").read_text(encoding="utf-8"))
    return LabelSpace(tuple(name for name, _ in rows), tuple((r, g, b) for _, (r, g, b) in rows))
