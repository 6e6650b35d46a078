"""Class names and colours that published checkpoints carry: mmsegmentation's `dataset_meta`, Hugging Face's
`id2label`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg.recipe.labels import Held

_HOLDERS = ("meta", "dataset_meta", "config", "cfg", "hyper_parameters", "args")
"""Entries of a file that may hold names, as mmsegmentation and Lightning call them."""
_NAMES = ("CLASSES", "classes", "class_names", "id2label", "names")
_PALETTES = ("PALETTE", "palette")
_PLACEHOLDER = re.compile(r"LABEL_\d+|class_?\d+|\d+", re.IGNORECASE)
_DEPTH = 3


def label_space_of(facts: Mapping[str, Any], path: Path, num_classes: int) -> Held:
    """What a file, or the config.json that lies beside it, says of its classes. What is not of `num_classes`
    is not taken.

    Args:
        facts: what lies beside the tensors, as `foreign.read_foreign` reads it.
    """
    sources = [*_holders(facts, _DEPTH), *_config(path)]
    names = (_names(source.get(key), num_classes) for source in sources for key in _NAMES)
    palettes = (_palette(source.get(key), num_classes) for source in sources for key in _PALETTES)
    return Held(next(filter(None, names), None), next(filter(None, palettes), None), published=True)


def _holders(facts: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    """Deepest first: what a file says of its data set goes before what it says of itself."""
    for key in _HOLDERS if depth else ():
        inside = facts.get(key)
        if isinstance(inside, Mapping):
            yield from _holders(inside, depth - 1)
    yield facts


def _config(path: Path) -> Iterator[Mapping[str, Any]]:
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size < 1 << 24 else None
    except (OSError, ValueError):  # there is none, or it is of something else
        return
    if isinstance(document, Mapping):
        yield document


def _names(value: Any, count: int) -> tuple[str, ...] | None:
    """A list of distinct names, or a mapping from 0, 1, ... to them."""
    if isinstance(value, Mapping):
        numbered = {str(key): name for key, name in value.items()}
        value = [numbered.get(str(index)) for index in range(len(numbered))]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != count:
        return None
    if any(not isinstance(name, str) or not name.strip() for name in value):
        return None
    names = tuple(" ".join(name.split()) for name in value)
    return None if len(set(names)) < count or all(_PLACEHOLDER.fullmatch(name) for name in names) else names


def _palette(value: Any, count: int) -> tuple[tuple[int, int, int], ...] | None:
    try:
        palette = tuple((int(r), int(g), int(b)) for r, g, b in value)
    except (TypeError, ValueError):
        return None
    fits = len(palette) == count and all(0 <= channel <= 255 for colour in palette for channel in colour)
    return palette if fits else None
