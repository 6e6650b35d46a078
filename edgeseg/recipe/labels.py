"""Class names and colours: those of the public data sets, and how two lists of them compare.

The lists lie as JSON beside the code, `classes/NAME.json`: one `[name, [r, g, b]]` a line, in class order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edgeseg.errors import DataError
from edgeseg.specs import LabelSpace

if TYPE_CHECKING:
    from edgeseg.recipe.schema import Data

FORMATS = ("ade20k", "camvid", "cityscapes", "coco_stuff", "idd_lite", "pascal_context", "synthetic")
"""The data formats with classes of their own. Those of Mapillary Vistas lie with its data."""
_SHOWN = 3
_SYNONYMS = 0.1
"""Share of the classes that may have another name in a published list of the same data set."""


@cache
def label_space(name: str) -> LabelSpace:
    """The label space of one of `FORMATS`; ignore index 255.

    Raises:
        FileNotFoundError: no such list.
    """
    rows = json.loads((files("edgeseg.recipe") / "classes" / f"{name}.json").read_text(encoding="utf-8"))
    return LabelSpace(tuple(name for name, _ in rows), tuple((r, g, b) for _, (r, g, b) in rows))


def labels_of(data: Data) -> LabelSpace | None:
    """The classes of a recipe's data: those that it writes, else its format's; None where only the data
    itself tells.
    """
    if data.classes is not None:
        return data.classes.label_space()
    return label_space(data.format) if data.format in FORMATS else None


@dataclass(frozen=True)
class Held:
    """What a checkpoint says of its classes. A published one may name them, colour them, both, or neither.

    Attributes:
        published: it came from elsewhere, where a class may have another word for a name: "aeroplane" for
            "airplane".
    """

    names: tuple[str, ...] | None = None
    palette_rgb: tuple[tuple[int, int, int], ...] | None = None
    ignore_index: int = 255
    published: bool = False

    def to_facts(self) -> dict[str, Any]:
        """What of a checkpoint's facts `held_in` reads again, as JSON values."""
        facts = {"class_names": self.names, "palette_rgb": self.palette_rgb}
        return {key: value for key, value in facts.items() if value is not None}


def held_in(facts: Mapping[str, Any]) -> Held:
    """What the facts of a checkpoint of ours say of its classes: of one that was trained here, or
    imported.
    """
    labels, published = facts.get("labels"), "labels" not in facts
    if labels is None:
        labels = {
            "names": facts.get("class_names"),
            "palette_rgb": facts.get("palette_rgb"),
            "ignore_index": 255,
        }
    names, palette = labels["names"], labels["palette_rgb"]
    return Held(
        None if names is None else tuple(map(str, names)),
        None if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette),
        labels["ignore_index"],
        published,
    )


def settled(data: Data, held: Held, count: int, whose: str) -> tuple[LabelSpace, list[str]]:
    """The label space under which a checkpoint is used with a recipe: the recipe's, which the checkpoint must
    not contradict.

    Args:
        held: what the checkpoint says of its classes.
        count: its number of classes.
        whose: the checkpoint, for messages.
    Returns:
        The label space, and what the user should be told.
    Raises:
        DataError: another number of classes, other names, the same names in another order; or nobody names
            them.
    """
    ours = labels_of(data)
    if ours is None:  # the classes lie with the data
        if held.names is None or held.palette_rgb is None or len(held.names) != count:
            raise DataError(
                f"{whose} does not name its classes", hint="write them into the recipe: data.classes"
            )
        return LabelSpace(held.names, held.palette_rgb, held.ignore_index), []
    if count != ours.num_classes:
        like = [form for form in FORMATS if label_space(form).num_classes == count]
        raise DataError(
            f"{whose} was trained with {count} classes, the recipe names {ours.num_classes}",
            hint="correct data.classes in the recipe"
            + (f", or data.format: {' or '.join(like)} has {count}" if like else ""),
        )
    told = []
    if held.published and held.names is not None and are_synonyms(ours.names, held.names):
        told = [
            f"{difference(ours.names, held.names, 'the recipe', whose)}: taken for other words, as all others"
            " agree"
        ]
    elif held.names is not None:
        mend = (
            "give the checkpoint of this recipe, or the recipe of it: data.classes names classes in the"
            " checkpoint's order"
        )
        require_same(ours.names, held.names, "the recipe", whose, hint=mend)
    if held.palette_rgb is not None and held.palette_rgb != ours.palette_rgb:
        apart = [
            i
            for i, pair in enumerate(zip(ours.palette_rgb, held.palette_rgb, strict=False))
            if pair[0] != pair[1]
        ]
        shown = ", ".join(
            f"{ours.names[i]} {ours.palette_rgb[i]}, not {held.palette_rgb[i]}" for i in apart[:_SHOWN]
        )
        more = f" and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
        told += [f"colours are the recipe's, which differ from those of {whose}: {shown}{more}"]
    return ours, told


def require_same(ours: Sequence[str], theirs: Sequence[str], we: str, they: str, *, hint: str) -> None:
    """Raise DataError where two lists of class names differ, saying how."""
    if apart := difference(ours, theirs, we, they):
        raise DataError(apart, hint=hint)


def same_name(one: str, other: str) -> bool:
    """Whether two names are one, but for case, blanks and punctuation: "traffic light" and
    "Traffic_Light".
    """
    return one == other or _plain(one) == _plain(other)


def are_synonyms(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two lists differ by other words alone: a few names, none of which stands elsewhere in the other
    list.
    """
    apart = [(one, other) for one, other in zip(ours, theirs, strict=False) if not same_name(one, other)]
    known = ({_plain(name) for name in ours}, {_plain(name) for name in theirs})
    moved = any(_plain(one) in known[1] or _plain(other) in known[0] for one, other in apart)
    return len(ours) == len(theirs) and 0 < len(apart) <= _SYNONYMS * len(ours) and not moved


def order_in(wanted: Sequence[str], held: Sequence[str]) -> tuple[int, ...] | None:
    """Where each wanted name is among those held, the same number of them; None where one has no place, or
    two have one.
    """
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
        return (
            f"{we} has {len(ours)} classes, {they}"
            f" {len(theirs)}{_only(ours, theirs, we)}{_only(theirs, ours, they)}"
        )
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
