"""Checks that this machine is the one that is meant, and is set as it was: what is measured here holds here
only, and so.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.clocks import differences
from edgeseg.devices.machine import Machine, detect
from edgeseg.errors import Unsupported

AUTO = "auto"


def check_here(name: str, machine: Machine | None = None) -> None:
    """Raise Unsupported where `name` is neither "auto" nor an entry of the catalogue that this machine is.

    Args:
        machine: another machine than this one, for tests.
    """
    if name == AUTO:
        return
    catalog = load_catalog()
    meant = catalog.find(name)
    if not meant:
        raise Unsupported(
            f"the catalogue has no device {name!r}", hint="edgeseg devices lists them; auto is this machine"
        )
    here = catalog.recognise(machine or detect())
    if not {device.name for device in meant} & {device.name for device in here}:
        found = " + ".join(device.title for device in here) or "not in the catalogue"
        raise Unsupported(
            f"times of {meant[0].title} cannot be measured on this machine: it is {found}",
            hint="run the same command there; it takes the run folder, the data, and torch",
        )


def timed_otherwise(clocks: Mapping[str, str], machine: Machine | None = None) -> str:
    """List what is set otherwise now than when an engine was timed, as a clause; "" where nothing is, or
    nothing is known.

    Args:
        clocks: of the engine; see `clocks.clocks`.
        machine: another machine than this one, for tests.
    """
    found = differences(clocks, (machine or detect()).clocks) if clocks else []
    return f"its times were taken at other settings: {'; '.join(found)}" if found else ""


def clocks_here() -> dict[str, str]:
    """Read how fast this machine is set to run now; see `clocks.clocks`."""
    return detect().clocks
