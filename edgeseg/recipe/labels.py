"""Class names and colours: those of the public data sets, and how two lists of them compare.

The lists lie as JSON beside the code, `classes/NAME.json`: one `[name, [r, g, b]]` a line, in class order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from edgeseg.specs import LabelSpace

if TYPE_CHECKING:
    from edgeseg.recipe.schema import Data

FORMATS = ("ade20k", "camvid", "cityscapes", "coco_stuff", "idd_lite", "pascal_context", "synthetic")
"""The data formats with classes of their own. Those of Mapillary Vistas lie with its data."""
_SHOWN = 3


@cache
def label_space(name: str) -> LabelSpace:
    """The label space of one of `FORMATS`; ignore index 255.

    Raises:
        FileNotFoundError: no such list.
    """
    rows = json.loads((files("edgeseg.recipe") / "classes" / f"{name}.json").read_text(encoding="utf-8"))
    return LabelSpace(tuple(name for name, _ in rows), tuple((r, g, b) for _, (r, g, b) in rows))


def labels_of(data: Data) -> LabelSpace | None:
    """The classes of a recipe's data: those that it writes, else its format's; None where only the data itself tells."""
    if data.classes is not None:
        return data.classes.label_space()
    return label_space(data.format) if data.format in FORMATS else None


def same_name(one: str, other: str) -> bool:
    """Whether two names are one, but for case, blanks and punctuation: "traffic light" and "Traffic_Light"."""
    return one == other or _plain(one) == _plain(other)


def order_in(wanted: Sequence[str], held: Sequence[str]) -> tuple[int, ...] | None:
    """Where each wanted name is among those held, the same number of them; None where one has no place, or two have one."""
    for key in (str, _plain):
        places = {key(name): index for index, name in enumerate(held)}
        order = tuple(places.get(key(name), -1) for name in wanted)
        if len(places) == len(held) == len(wanted) and sorted(order) == list(range(len(held))):
            return order
    return None


def difference(ours: Sequence[str], theirs: Sequence[str], we: str, they: str) -> str | None:
    """How two lists of class names differ, for people; None where each class is called the same in both.

    Args:
        we, they: whose the names are, e.g. "the recipe".
    """
    apart = [i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if not same_name(one, other)]
    if len(ours) == len(theirs) and not apart:
        return None
    if len(ours) != len(theirs):
        return f"{we} has {len(ours)} classes, {they} {len(theirs)}{_only(ours, theirs, we)}{_only(theirs, ours, they)}"
    shown = "; ".join(f"class {i} is {ours[i]!r} in {we}, {theirs[i]!r} in {they}" for i in apart[:_SHOWN])
    more = f"; and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
    if order_in(ours, theirs):
        return f"{we} has the classes of {they} in another order: {shown}{more}"
    return f"{we} calls {len(apart)} of {len(ours)} classes otherwise than {they}: {shown}{more}"


def _only(names: Sequence[str], others: Sequence[str], whose: str) -> str:
    known = {_plain(name) for name in others}
    alone = [name for name in names if _plain(name) not in known]
    if not alone:
        return ""
    more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
    return f"; only {whose} has {', '.join(alone[:_SHOWN])}{more}"


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name
