"""Everything that can go wrong for a user, in one tree.

    EdgesegError                exit   what the caller can do
    +- RecipeError                2    edit the recipe
    +- OptionError                2    edit the command line
    +- DataError                  3    fix the data
    +- Unsupported                4    install something, or choose another target
    |  +- MissingDependency              names the extra to install
    +- BuildError                 5    change the model or the gate
    |  +- ParityError                    carries its report
    |  +- GateFailed                     carries its report
    |  +- OutOfRoom                      memory or disk: the same may go well another time
    +- BundleError                6    rebuild, or copy again
    |  +- IntegrityError                 a file is not what the manifest says
    |  +- EngineMismatch                 built on one device, opened on another
    +- StreamError                7    restart, or check the camera, the clip or the disk
       +- AccessDenied                   user name or password are refused: trying again does not help
       +- ReaderGone                     a pipe's reader has seen enough

Inner nodes say what a caller can do; leaves say what happened. Each carries a `hint`: the next command or
edit. Bugs are plain Python exceptions (traceback, exit 1) and are not related to this tree, so that a caller
who catches `EdgesegError` never swallows one. Ctrl-C exits 130.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class EdgesegError(Exception):
    """A failure that the user can act on.

    Args:
        message: what happened, naming the file, key or device.
        hint: the next command or edit that gets the user further.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders whole: loader workers send them."""
        return _revive, (type(self), self.args, self.__dict__)


def _revive(kind: type[EdgesegError], args: tuple[Any, ...], attributes: dict[str, Any]) -> EdgesegError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class RecipeError(EdgesegError):
    """The recipe (or an option that overrides it) is wrong. The message lists every mistake, one a line."""

    exit_code = 2


class OptionError(EdgesegError):
    """An option that a runtime does not take, or not with this value, or that would do nothing."""

    exit_code = 2


class DataError(EdgesegError):
    """Images, labels, weights or calibration data are missing, unreadable or do not fit."""

    exit_code = 3


class Unsupported(EdgesegError):
    """This machine, runtime or build cannot do what was asked."""

    exit_code = 4


class MissingDependency(Unsupported):
    """An optional package is absent.

    Args:
        package: the import name that failed.
        extra: the edgeseg extra that brings it.
        purpose: what it is needed for, as the object of "needed to".
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"the package {package!r} is needed to {purpose}, and it is not installed",
            hint=f"pip install 'edgeseg[{extra}]'",
        )
        self.package = package
        self.extra = extra


class BuildError(EdgesegError):
    """A program or an engine could not be made, or must not be used."""

    exit_code = 5


class OutOfRoom(BuildError):
    """There was not enough memory or disk to build. Says nothing of the program: it is tried again."""


class ParityError(BuildError):
    """Two forms of one model disagree. `report` holds the measured rungs."""

    def __init__(self, message: str, *, hint: str, report: Mapping[str, Any]) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class GateFailed(BuildError):
    """A measured figure missed the recipe's gate. `report` holds the figures."""

    def __init__(self, message: str, *, hint: str, report: Mapping[str, Any]) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class BundleError(EdgesegError):
    """A bundle is missing, incomplete, or of a format that this version does not read."""

    exit_code = 6


class IntegrityError(BundleError):
    """A file in a bundle is not the file that its manifest names."""


class EngineMismatch(BundleError):
    """An engine was built for another device or runtime.

    Args:
        built_on: fingerprint of the device and runtime the engine was built for.
        here: fingerprint of this device and runtime.
    """

    def __init__(self, built_on: str, here: str, *, hint: str) -> None:
        super().__init__(f"this engine was built for {built_on}; this is {here}", hint=hint)
        self.built_on = built_on
        self.here = here


class StreamError(EdgesegError):
    """A source or a sink failed: camera, clip, network or disk."""

    exit_code = 7


class ReaderGone(StreamError):
    """Whoever read a pipe that results go into closed it, as `head` does when it has seen enough. A wish, not
    a fault.

    Args:
        where: the pipe: "-" for stdout, or the path of a FIFO.
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where}: its reader is gone", hint="write to a file to keep all of it: --sink results.ndjson"
        )


class AccessDenied(StreamError):
    """A camera or a server refuses user name and password; some lock out whoever keeps trying."""


def require(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or raise MissingDependency naming the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise
        raise MissingDependency(package, extra=extra, purpose=purpose) from error
