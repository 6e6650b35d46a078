"""Limits of this process's control groups: a share of the processors' time, and memory.

A container, a unit of systemd and a job of a cluster are control groups. A process is in one of each
hierarchy, by a path that /proc/self/cgroup tells; /proc/self/mountinfo tells where the hierarchies lie, and
how much of each is mounted. A limit may stand at any level, and holds for all below it, so the tightest on
the way up counts. Version 1 has a hierarchy for each controller, version 2 one for all of them, and both may
be there at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgeseg.devices.system_file import read

ROOT = Path("/")
_USUAL = "/sys/fs/cgroup"
_BOUNDLESS = 1 << 62
"""Version 1 says "no limit" of memory by the largest number of pages."""


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time, e.g. 1.5; None where there is no limit.

    Args:
        root: where the files lie; another one than / in tests.
    """
    quotas = []
    for version, folder in _groups("cpu", root):
        if version == 2:
            quota, _, period = (
                read(folder / "cpu.max").strip().partition(" ")
            )  # "150000 100000", "max 100000"
        else:
            quota, period = (
                read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
            )  # -1: none
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes of memory; None where there is no limit. `root` as for `cpu_quota`."""
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    texts = [read(folder / names[version]).strip() for version, folder in _groups("memory", root)]
    return min((int(text) for text in texts if text.isdecimal() and int(text) < _BOUNDLESS), default=None)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Folders of the groups that this process is in, each from its own up to the uppermost that can be seen,
    with the version.
    """
    own = _own_paths(read(root / "proc/self/cgroup"))
    for version, top, mounted in _mounts(read(root / "proc/self/mountinfo"), controller):
        path = own.get(controller if version == 1 else "", "/")
        inside = _below(path, top)
        folder = root / mounted.lstrip("/")
        groups = [folder, *(folder.joinpath(*inside[: depth + 1]) for depth in range(len(inside)))]
        yield from ((version, group) for group in reversed(groups))


def _own_paths(cgroup: str) -> dict[str, str]:
    """Controller -> path of this process's group; "" for version 2. Lines are like "4:cpu,cpuacct:/a/b" and
    "0::/a/b".
    """
    rows = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") >= 2]
    return {controller: path for _, controllers, path in rows for controller in controllers.split(",")}


def _mounts(mountinfo: str, controller: str) -> list[tuple[int, str, str]]:
    """Version, the group that is mounted, and where. Where nothing says, the usual places."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if len(place) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
            found.append((2 if kind[0] == "cgroup2" else 1, _unescaped(place[3]), _unescaped(place[4])))
    return found or [(2, "/", _USUAL), (1, "/", f"{_USUAL}/{controller}")]


def _below(path: str, top: str) -> tuple[str, ...]:
    """A group's path below the mounted one. A path outside it, of which a namespace or a bind mount shows
    nothing, is its top.
    """
    own, above = PurePosixPath(path).parts, PurePosixPath(top).parts
    return own[len(above) :] if own[: len(above)] == above and ".." not in own else ()


def _unescaped(text: str) -> str:
    r"""The kernel writes blanks and the like in octal, a blank as "\040"."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
