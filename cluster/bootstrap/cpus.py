"""How many CPUs this process may use: what the machine has says nothing about that in a container or under taskset."""

import os
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_cpus(control_group: Path = _CONTROL_GROUP) -> int:
    """The CPUs that it may be scheduled on; fewer where its control group gives it less time, at least one."""
    allowed = len(os.sched_getaffinity(0))
    share = _share(control_group)
    return allowed if share is None else max(1, min(allowed, int(share)))


def _share(control_group: Path) -> float | None:
    """CPU seconds per second, by version 2 or 1 of control groups; None without a limit."""
    together, quota = control_group / "cpu.max", control_group / "cpu" / "cpu.cfs_quota_us"
    if together.is_file():
        given, period = together.read_text().split()
    elif quota.is_file():
        given, period = quota.read_text(), quota.with_name("cpu.cfs_period_us").read_text()
    else:
        return None
    return None if given.strip() in ("max", "-1") else int(given) / int(period)
