"""Identity of a Jetson: module, chip and Jetson Linux release, from the files that name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeseg.devices.system_file import read

_RELEASE = re.compile(r"^#\s*R(\d+)\s+\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", re.MULTILINE)
_SOC = re.compile(r"nvidia,(tegra\d+)")
_PART = re.compile(r"p\d{4}-\d{4}")


@dataclass(frozen=True, slots=True)
class Jetson:
    """A Jetson.

    Attributes:
        model: the board's name for people.
        soc: chip, e.g. "tegra234".
        parts: part numbers, carrier board first, module last: "p3768-0000", "p3767-0005".
        super_mode: the board boots with the higher clocks of "Super".
        l4t: Jetson Linux release, e.g. "36.4.3"; None where no file says.
    """

    model: str
    soc: str
    parts: tuple[str, ...]
    super_mode: bool
    l4t: str | None


def jetson(root: Path, l4t_package: str | None = None) -> Jetson | None:
    """The Jetson whose files lie below `root`; None where it is none.

    Args:
        l4t_package: version of the package nvidia-l4t-core, for systems (containers) without
            /etc/nv_tegra_release.
    """
    compatible = device_tree(root, "compatible")
    soc = next((match[1] for entry in reversed(compatible) if (match := _SOC.fullmatch(entry))), None)
    if soc is None:
        return None
    parts = dict.fromkeys(part for entry in compatible for part in _PART.findall(entry))
    l4t = parse_release(read(root / "etc/nv_tegra_release"))
    return Jetson(
        model=" ".join(device_tree(root, "model")),
        soc=soc,
        parts=tuple(parts),
        super_mode=any(entry.endswith("-super") for entry in compatible),
        l4t=l4t or (l4t_package.partition("-")[0] if l4t_package else None),
    )


def parse_release(text: str) -> str | None:
    """Release that an nv_tegra_release file names: "# R36 (release), REVISION: 4.3, ..." -> "36.4.3"; None if
    it names none.
    """
    match = _RELEASE.search(text)
    return f"{match[1]}.{match[2]}" if match else None


def device_tree(root: Path, name: str) -> list[str]:
    """The strings of a property at the root of the device tree, which end with NUL each; [] where there is
    none.
    """
    return [entry for entry in read(root / "proc/device-tree" / name).split("\0") if entry]
