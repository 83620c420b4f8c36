"""Find how much main memory this process may still take: in a container less than the machine has free."""

from collections.abc import Iterator
from pathlib import Path

import psutil

_NAMES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of limit and use, and the field of memory.stat, by controller in /proc/self/cgroup: version 2, then 1."""


def free_memory(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return free bytes: of the machine, or fewer by a limit on this process's control group or one above it."""
    return max(0, min([psutil.virtual_memory().available, *_left(groups, root)]))


def _left(groups: Path, root: Path) -> Iterator[int]:
    """List the bytes left below each limit. Files that the kernel keeps in memory and may drop count as free."""
    lines = groups.read_text().splitlines() if groups.is_file() else []
    for _, controllers, own in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        kind = "memory" if "memory" in controllers.split(",") else controllers
        if kind not in _NAMES:
            continue
        limit_name, used_name, droppable = _NAMES[kind]
        top = root / kind
        path = Path(own.lstrip("/"))
        for group in dict.fromkeys((path, *path.parents)):
            limit, used, stat = (top / group / name for name in (limit_name, used_name, "memory.stat"))
            if not limit.is_file() or not (text := limit.read_text().strip()).isdigit():  # "max"
                continue
            taken = int(used.read_text()) if used.is_file() else 0
            fields = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
            yield int(text) - max(0, taken - int(fields.get(droppable, 0)))
