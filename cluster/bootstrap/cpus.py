"""Count the CPUs that this process may use: fewer than the machine has in a container or under taskset."""

import os
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")


def usable_cpus(control_group: Path = _CONTROL_GROUP) -> int:
    """Return the CPUs that it may be scheduled on, or fewer by its control group's quota; at least one."""
    allowed = len(os.sched_getaffinity(0))
    version_2, version_1 = control_group / "cpu.max", control_group / "cpu" / "cpu.cfs_quota_us"
    if version_2.is_file():
        quota, period = version_2.read_text().split()
    elif version_1.is_file():
        quota, period = version_1.read_text().strip(), version_1.with_name("cpu.cfs_period_us").read_text()
    else:
        return allowed
    return allowed if quota in ("max", "-1") else max(1, min(allowed, int(quota) // int(period)))
