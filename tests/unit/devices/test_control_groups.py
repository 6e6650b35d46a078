"""Limits of control groups, in the forms that containers, systemd and clusters give them: a tree of files ->
what is granted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseg.devices.control_groups import cpu_quota, memory_limit
from edgeseg.devices.cores import usable_cores
from edgeseg.devices.machine import detect
from machines import Tree, memory, write_tree


def v2(top: str = "/", at: str = "/sys/fs/cgroup") -> str:
    return (
        f"30 25 0:26 {top} {at} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2"
        " rw,nsdelegate,memory_recursiveprot\n"
    )


def v1(controllers: str, top: str = "/", at: str | None = None) -> str:
    at = at or f"/sys/fs/cgroup/{controllers}"
    return (
        f"33 32 0:29 {top} {at} rw,nosuid,nodev,noexec,relatime shared:9 - cgroup cgroup rw,{controllers}\n"
    )


def place(own: str, mounts: str) -> Tree:
    """Where a process is: /proc/self/cgroup and /proc/self/mountinfo, among mounts that are not of control
    groups.
    """
    other = (
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs"
        " rw,mode=755\n"
    )
    return {"proc/self/cgroup": own, "proc/self/mountinfo": f"{other}{mounts}"}


def quota(folder: str, value: int, period: int = 100000) -> Tree:
    return {f"{folder}/cpu.cfs_quota_us": f"{value}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


TOP = "sys/fs/cgroup"
SERVICE = "system.slice/edgeseg.service"
V1_CPU = f"{TOP}/cpu,cpuacct"
REFUSED = 77

CASES: dict[str, tuple[Tree, float | None]] = {
    "no control groups": ({}, None),
    "container, its own namespace": ({**place("0::/\n", v2()), f"{TOP}/cpu.max": "150000 100000\n"}, 1.5),
    "container, nothing told of mounts": ({f"{TOP}/cpu.max": "250000 100000\n"}, 2.5),
    "no limit": ({**place("0::/\n", v2()), f"{TOP}/cpu.max": "max 100000\n"}, None),
    "CPUQuota= of a unit": (
        {**place(f"0::/{SERVICE}\n", v2()), f"{TOP}/{SERVICE}/cpu.max": "200000 100000\n"},
        2,
    ),
    "CPUQuota= of its slice": (
        {
            **place(f"0::/{SERVICE}\n", v2()),
            f"{TOP}/{SERVICE}/cpu.max": "max 100000\n",
            f"{TOP}/system.slice/cpu.max": "70000 100000\n",
        },
        0.7,
    ),
    "the tightest of three": (
        {
            **place("0::/a/b/c\n", v2()),
            f"{TOP}/a/cpu.max": "400000 100000\n",
            f"{TOP}/a/b/cpu.max": "30000 10000\n",
            f"{TOP}/a/b/c/cpu.max": "800000 100000\n",
        },
        3,
    ),
    "of another unit": (
        {**place("0::/user.slice\n", v2()), f"{TOP}/{SERVICE}/cpu.max": "100000 100000\n"},
        None,
    ),
    "a part of the tree is mounted": (
        {
            **place("0::/docker/7f/task\n", v2("/docker/7f", "/cg")),
            "cg/cpu.max": "max 100000",
            "cg/task/cpu.max": "50000 100000",
        },
        0.5,
    ),
    "a path outside what is mounted": (
        {**place("0::/../other\n", v2()), f"{TOP}/cpu.max": "300000 100000"},
        3,
    ),
    "a blank in its name": (
        {**place("0::/a b\n", v2(at=r"/sys/fs/c\040g")), "sys/fs/c g/a b/cpu.max": "100000 100000\n"},
        1,
    ),
    "version 1": (
        {
            **place("4:cpu,cpuacct:/build\n1:name=systemd:/\n", v1("cpu,cpuacct")),
            **quota(f"{V1_CPU}/build", 250000),
        },
        2.5,
    ),
    "version 1, of a group above": (
        {
            **place("4:cpu,cpuacct:/k/pod/c\n", v1("cpu,cpuacct")),
            **quota(f"{V1_CPU}/k/pod/c", -1),
            **quota(f"{V1_CPU}/k/pod", 50000),
        },
        0.5,
    ),
    "version 1, no limit": ({**place("4:cpu:/\n", v1("cpu")), **quota(f"{TOP}/cpu", -1)}, None),
    "version 1, as Docker mounts it": (
        {
            **place("4:cpu,cpuacct:/docker/7f\n", v1("cpu,cpuacct", "/docker/7f")),
            **quota(V1_CPU, 150000, 50000),
        },
        3,
    ),
    "version 1, nothing told of mounts": (quota(f"{TOP}/cpu", 200000), 2),
    "version 1, cpuset is not cpu": (
        {**place("3:cpuset:/x\n", v1("cpuset")), **quota(f"{TOP}/cpuset/x", 100000)},
        None,
    ),
    "hybrid: the limit is of version 1": (
        {
            **place(
                f"5:cpu,cpuacct:/{SERVICE}\n0::/{SERVICE}\n",
                v1("cpu,cpuacct") + v2(at="/sys/fs/cgroup/unified"),
            ),
            **quota(f"{V1_CPU}/{SERVICE}", 100000),
            f"{TOP}/unified/{SERVICE}/cgroup.controllers": "\n",
        },
        1,
    ),
    "hybrid: both have one": (
        {
            **place("5:cpu:/x\n0::/y\n", v1("cpu") + v2(at="/sys/fs/cgroup/unified")),
            **quota(f"{TOP}/cpu/x", 400000),
            f"{TOP}/unified/y/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "nonsense": ({**place("0::/\nx\n:::\n", f"{v2()}1 2\n - \n"), f"{TOP}/cpu.max": "lots\n"}, None),
    "a period of nothing": ({**place("4:cpu:/\n", v1("cpu")), **quota(f"{TOP}/cpu", 100000, 0)}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_quotas(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, wanted = CASES[case]
    write_tree(tmp_path, tree)
    assert cpu_quota(tmp_path) == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores(tmp_path / "no cpuinfo", tmp_path) == (8 if wanted is None else max(1, int(wanted)))


@pytest.mark.parametrize(
    "tree, wanted",
    [
        ({}, None),
        ({**place("0::/\n", v2()), f"{TOP}/memory.max": "max\n"}, None),
        (
            {
                **place("0::/a/b\n", v2()),
                f"{TOP}/a/memory.max": "2000000000\n",
                f"{TOP}/a/b/memory.max": "max\n",
            },
            2000000000,
        ),
        (
            {
                **place("7:memory:/a\n", v1("memory")),
                f"{TOP}/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
        ),
        (
            {
                **place("7:memory:/a/b\n", v1("memory")),
                f"{TOP}/memory/a/memory.limit_in_bytes": "3000000000\n",
                f"{TOP}/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
            },
            3000000000,
        ),
    ],
)
def test_memory(tree: Tree, wanted: int | None, tmp_path: Path) -> None:
    write_tree(tmp_path, {**tree, **memory(7802840)})
    assert memory_limit(tmp_path) == wanted
    seen = detect(tmp_path, "x86_64")
    assert (seen.memory_gb, seen.memory_limit_gb) == (8.0, wanted and wanted / 1e9)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this system that has a quota of one and a half processors."""
    for parent, setting in (
        (Path("/sys/fs/cgroup"), "cpu.max"),
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"),
    ):
        folder = parent / "edgeseg_test"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / setting).exists():
            (folder / setting).write_text("150000 100000" if setting == "cpu.max" else "150000")
            yield folder
            folder.rmdir()
            return
        folder.rmdir()
    pytest.skip("making a control group with the controller for cpu needs root, and a hierarchy that has it")


def test_a_real_control_group(group: Path) -> None:
    code = f"""
import json, sys, time
for tries_left in reversed(range(20)):  # a kernel refuses a process that it is still starting
    try:
        with open(sys.argv[1], "w") as processes:
            processes.write("0")
        break
    except OSError as refused:
        if not tries_left:
            sys.exit({REFUSED})
        time.sleep(0.05)
from edgeseg.devices.control_groups import cpu_quota
from edgeseg.devices.cores import usable_cores
print(json.dumps([cpu_quota(), usable_cores()]))
"""
    enter = [sys.executable, "-c", code, str(group / "cgroup.procs")]
    done = subprocess.run(enter, capture_output=True, text=True, timeout=60)
    if done.returncode == REFUSED:
        pytest.skip("this kernel lets no process into a new control group")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1.5, 1]


def test_torch_takes_what_engines_take(monkeypatch: pytest.MonkeyPatch) -> None:
    torch, threads = pytest.importorskip("torch"), pytest.importorskip("edgeseg.models.threads")
    before = torch.get_num_threads()
    try:
        for given, usable, taken in ((4, 2, 2), (2, 4, 2), (3, 1, 1)):
            torch.set_num_threads(given)
            monkeypatch.setattr(threads, "usable_cores", lambda cores=usable: cores)
            threads.take_usable_cores()
            assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)
