"""Form the learner ranks' process group, reachable at their nodes' own addresses only.

Ray Train lets torch open the store in which the ranks meet. It then listens on all interfaces and accepts every
connection, on a local Ray too, which otherwise keeps to the loopback; and Gloo listens wherever the host's name leads.
"""

import os
import socket
from collections.abc import MutableMapping
from datetime import timedelta

import psutil
import ray
import torch
from torch import distributed
from torch.distributed import Store, TCPStore
from torch.distributed.distributed_c10d import _get_default_store

from cluster.bootstrap.ray_environment import settle_allocator
from cluster.run_errors import RunFailed


def interface_of(address: str) -> str | None:
    """Return the network interface that holds the address; None if none does (a node behind address translation)."""
    names = (name for name, held in psutil.net_if_addrs().items() if address in {each.address for each in held})
    return next(names, None)


def check_own_gpu() -> None:
    """Check that this rank's GPU is no other rank's (a collective). Raises RunFailed.

    NCCL would report it at the first collective only, on some of the ranks, and Train would start them all again.
    """
    if not distributed.is_initialized() or distributed.get_backend() != "nccl":
        return
    own = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    sharing = ranks_on_gpu(own, _get_default_store(), distributed.get_rank(), distributed.get_world_size())
    if len(sharing) > 1:
        raise RunFailed(
            f"cluster.rank_gpus=1: ranks {', '.join(map(str, sharing))} compute on the same GPU {own}. Fix: unset "
            "CUDA_VISIBLE_DEVICES and RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES where the nodes' Ray starts."
        )


def ranks_on_gpu(own: str, store: Store, rank: int, size: int) -> list[int]:
    """Return the ranks whose GPU has the name `own` (a collective: every rank waits for the names of all)."""
    store.set(f"longtake/gpu/{rank}", own)
    return [other for other in range(size) if store.get(f"longtake/gpu/{other}").decode() == own]


def settle_nccl(environment: MutableMapping[str, str]) -> None:
    """Let a rank that waits for a lost NCCL peer raise: neither hang, as with 0, nor abort, as with Ray's 1.

    With 2 torch's watchdog aborts the communicators only. The operation that waited ends with invalid values, and the
    next collective raises DistBackendError; there is one before anything is saved or published. An abort would take
    the threads along that write a checkpoint. torch's heartbeat monitor still ends a rank that does not raise.
    """
    if "TORCH_NCCL_BLOCKING_WAIT" not in environment:
        environment.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")


def listen() -> tuple[str, int, int]:
    """Open in rank 0 the socket where the ranks meet; return its address, its port and its file descriptor.

    Open from now on, so that no other process gets the port before the store has it.
    """
    host = ray.util.get_node_ip_address()
    listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    return host, listening.getsockname()[1], listening.detach()


def join_group(
    rank: int, listening: int | None, host: str, port: int, size: int, timeout: timedelta, backend: str
) -> None:  # fmt: skip
    """Join the group on this rank; Gloo listens at this node's address only."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
    settle_nccl(os.environ)
    settle_allocator()
    # Gloo takes the name of an interface, and of that the first address. Without a name it is left to itself.
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    store = TCPStore(host, port, size, rank == 0, timeout, master_listen_fd=listening)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
