"""The number of cores worth using."""

from __future__ import annotations

import os
from pathlib import Path

from edgeseg.devices.control_groups import cpu_quota
from edgeseg.devices.instructions import PROC_CPUINFO, processors

ROOT = Path("/")


def usable_cores(cpuinfo: Path | None = None, root: Path = ROOT) -> int:
    """Physical cores that this process may use: by its affinity mask and by the quotas of its control groups,
    at least 1.

    Hardware threads of one core count once: a second one adds next to nothing to dense arithmetic. Of a
    fraction of a core nothing is used: a thread too many waits for the next period of the quota with all the
    others, in the middle of a frame.

    Args:
        cpuinfo, root: files of another machine, for tests.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {
        (block.get("physical id", "0"), block["core id"])
        for block in processors(cpuinfo or PROC_CPUINFO)
        if "core id" in block and int(block["processor"]) in allowed
    }
    count, quota = len(cores) or len(allowed), cpu_quota(root)
    return max(1, count if quota is None else min(count, int(quota)))
