"""How one published layout of an encoder or a decoder is recognised, renamed and rearranged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgeseg.models.segmentor import Part

State = dict[str, Tensor]


def _as_is(state: State) -> State:
    return state


def _no_options(state: State) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class KeyMap:
    """One published layout of one part.

    Attributes:
        model, layout: what messages call it.
        part: the class that it fills.
        sign: a pattern that a key of this layout matches, and none of those that are tried later.
        rename: upstream key -> our key; None drops a tensor that is saved and not used here.
        arrange: what concerns more than names, on our names.
        options: the model options that the tensors, in our names, show.
    """

    model: str
    layout: str
    part: type[Part]
    sign: str
    rename: Callable[[str], str | None]
    arrange: Callable[[State], State] = _as_is
    options: Callable[[State], dict[str, Any]] = _no_options

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        return any(re.match(self.sign, key) for key in state)


def by_rules(*rules: tuple[str, str]) -> Callable[[str], str | None]:
    """A renaming from (pattern, template) pairs, applied in order, each to what the ones before made.

    `<n>` in a result is n - 1. An empty result drops the tensor. A key that gets no name of ours keeps its
    own.
    """
    compiled = [(re.compile(pattern), template) for pattern, template in rules]

    def rename(key: str) -> str | None:
        name = key
        for pattern, template in compiled:
            name = pattern.sub(template, name)
        name = re.sub(r"<(\d)>", lambda match: str(int(match[1]) - 1), name)
        return (name if name.startswith(("encoder.", "decoder.")) else key) if name else None

    return rename
