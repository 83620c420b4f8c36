"""Compare the room of Ray's object stores, and of the memory behind them, with the needs of a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import ray

from cluster.run_errors import CannotStart

_SHARED_MEMORY = Path("/dev/shm")
_ON_DISK_BYTES = 10**10
"""Largest store that Ray puts on disk by itself (REQUIRE_SHM_SIZE_THRESHOLD)."""


def shared_memory_note(store_bytes: int, folder: Path = _SHARED_MEMORY) -> str | None:
    """Write that shared memory is too small for an object store of a Ray that starts here, or return None.

    A container has 64 MB of it where nobody gave it more. Ray puts a store of up to 10 GB on disk then, with a warning
    in a log: every window and every version of the weights goes there. With a larger one it does not start.
    Raises CannotStart for those.
    """
    try:
        room = os.statvfs(folder)
    except OSError:
        free = 0
    else:
        free = room.f_frsize * room.f_bavail
    if free >= store_bytes:
        return None
    problem = f"{folder} has {free / 1e9:.1f} GB free, and Ray's object store takes {store_bytes / 1e9:.1f}"
    cure = (
        f"start the container with --shm-size={1.1 * store_bytes / 1e9:.1f}g (in Kubernetes an emptyDir of medium "
        "Memory), or lower buffer.windows"
    )
    if store_bytes > _ON_DISK_BYTES:
        raise CannotStart(f"cluster.address=null: {problem}. Fix: {cure}, or join a cluster.")
    return f"note: {problem}: Ray puts it on disk, which is slow; {cure}"


def store_notes(driver_bytes: int, other_bytes: int) -> Iterator[str]:
    """Yield a line for the smallest store of the joined cluster, of the driver's node and of the others, if too small.

    Windows wait on the driver's node, where the coordinator is; versions of the weights are on every node, once for all
    of its processes.
    """
    own = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    for needed, kind, nodes in (
        (driver_bytes, "the driver's node", [node for node in alive if node["NodeID"] == own]),
        (other_bytes, "a node", [node for node in alive if node["NodeID"] != own]),
    ):
        rooms = ((node["Resources"].get("object_store_memory", 0.0), node["NodeManagerAddress"]) for node in nodes)
        room, address = min(rooms, default=(needed, ""))
        if room < needed:
            yield (
                f"note: the object store of {kind} ({address}) has {room / 1e9:.1f} GB, and the run may need "
                f"{needed / 1e9:.1f} there: the rest is spilled to disk; ray start --object-store-memory={needed}, and "
                "as much of /dev/shm"
            )
