"""Stand-ins for the foreign classes that a training leaves beside its weights, so that torch's restricted
unpickler gets past them. Nothing foreign is imported or called: a stand-in takes whatever it is given, and
does nothing.

What is not listed here is refused, and named.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Record:
    """Any object: constructed, called and filled with anything, it stays inert."""

    def __init__(self, *given: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class Mapping:
    """A class derived from dict. The unpickler fills plain dictionaries only, so this makes one."""

    def __new__(cls, *given: Any, **named: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict(given[0]) if len(given) == 1 and isinstance(given[0], dict) else OrderedDict()


class Listing:
    """A class that is filled like a list."""

    def __new__(cls, *given: Any, **named: Any) -> list[Any]:  # type: ignore[misc]
        return []


class NumpyType:
    """A numpy.dtype: its code, such as f4, and its byte order."""

    def __init__(self, code: Any = "", *flags: Any) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """Raises ValueError for anything but plain numbers."""
        if not re.fullmatch(r"f[248]|[iu][1248]|b1", self.code):
            raise ValueError(f"an array of {self.code or 'objects'}")
        return np.dtype(self.order.replace("|", "=") + self.code)


class NumpyArray:
    """A numpy.ndarray as it was pickled: shape, type, order and bytes."""

    def __init__(self, *given: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The numbers; None for an array of anything else."""
        try:
            _, shape, kind, fortran, raw = self.state
            flat = np.frombuffer(raw, kind.dtype())
            array = flat.reshape(shape, order="F" if fortran else "C")
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        except (TypeError, ValueError, AttributeError):
            return None


def _new_array(*given: Any) -> NumpyArray:
    return NumpyArray()


def _nothing(*given: Any) -> Record:
    return Record()


ALWAYS = (Record, Mapping, Listing, NumpyType, NumpyArray)
"""What the unpickler must know as safe, whatever the names under which it meets them."""

_FAMILIES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (NumpyType, ("numpy.dtype",)),
    (NumpyArray, ("numpy.ndarray",)),
    (_new_array, ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")),
    (
        _nothing,
        (
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.random.*",
            "builtins.getattr",
        ),
    ),
    (_nothing, ("copyreg._reconstructor", "functools.partial")),
    (
        Mapping,
        (
            "collections.defaultdict",
            "easydict.EasyDict",
            "yacs.config.CfgNode",
            "addict.*",
            "munch.*",
            "box.*",
        ),
    ),
    (Mapping, ("*.ConfigDict", "*.AttributeDict", "*.AttrDict", "*.AttrDefault")),
    (
        Record,
        (
            "argparse.Namespace",
            "types.SimpleNamespace",
            "pathlib.*",
            "datetime.*",
            "decimal.Decimal",
            "uuid.UUID",
        ),
    ),
    (Listing, ("collections.deque",)),
    (Record, ("fractions.Fraction", "enum.*", "typing.*", "numpy.*")),
    (
        Record,
        tuple(
            f"builtins.{name}"
            for name in ("int", "float", "str", "bool", "list", "tuple", "dict", "object", "slice")
        ),
    ),
    (Record, ("omegaconf.*", "hydra.*", "yacs.*", "mmengine.*", "mmcv.*", "fvcore.*", "timm.utils.*")),
    (
        Record,
        (
            "lightning.*",
            "pytorch_lightning.*",
            "lightning_fabric.*",
            "torchmetrics.*",
            "torch.torch_version.*",
        ),
    ),
    (Record, ("torch.optim.lr_scheduler.*",)),
)
"""What stands in for which names; the first that matches. Only data: whatever a name here did elsewhere, here
it does nothing.
"""


def stand_in(name: str) -> Callable[..., Any] | None:
    """What stands in for a global of a pickle, such as argparse.Namespace; None where it has to be
    refused.
    """
    return next(
        (inert for inert, patterns in _FAMILIES if any(fnmatchcase(name, pattern) for pattern in patterns)),
        None,
    )
