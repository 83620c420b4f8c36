"""The processes that a test has started, told from everybody else's."""

import os
from pathlib import Path


def own_processes(title: str) -> list[int]:
    """Process ids whose title begins like this, among the descendants of this process."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked

    def ours(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    return [pid for pid in titles if titles[pid].startswith(title) and ours(pid)]
