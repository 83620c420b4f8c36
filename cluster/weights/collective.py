"""Send weights by torch.distributed to pools of fixed size: NCCL between GPUs, Gloo between CPUs.

A relay on the learner's node reads each version in place from its node's store and sends it to every actor on request.
Every actor has a process group of two of its own with the relay: a member that dies, hangs or is replaced affects
no other actor, and nothing is rebuilt when the pool changes. The learner is not a member. An actor with a failed
transport logs it and continues through the object store.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import ray
import torch
from ray.exceptions import RayError
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup, ProcessGroupGloo, TCPStore

from cluster.run_errors import Leaving, StageEnded
from cluster.weights.object_store import WAIT_S, ObjectStoreWeights
from cluster.weights.version import WeightsVersion

_SENDS_AT_ONCE = 64
_POLL_S = 0.001
_OUTLIVES_PEERS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "100",
}
"""Environment of a process that continues without its NCCL peer.

By default torch's watchdog ends it a minute after a peer is lost, or its monitor eight minutes later, in spite of the
fallback; and the group's destructor waits for both of them, in the relay's event loop.
"""

_log = logging.getLogger(__name__)

Layout = list[tuple[str, torch.dtype, tuple[int, ...]]]
"""Name, dtype and shape of each tensor, in the order in which they are sent."""


class TransportFailed(RuntimeError):
    """Reports a relay, or a connection to it, that is lost or too slow."""


@ray.remote(num_cpus=0)
class WeightRelay:
    """Sends versions to actors. Needs a coordinator with `newer(epoch, than, wait_s, slot)`.

    A GPU as `device` needs num_gpus in options.
    """

    def __init__(self, coordinator: ray.actor.ActorHandle, epoch: int, device: str, timeout_s: float):
        self.coordinator, self.epoch = coordinator, epoch
        self.device, self.timeout_s = torch.device(device), timeout_s
        self.host = ray.util.get_node_ip_address()
        # Bound by us to one address: torch's own server would listen on all of them.
        listening = socket.create_server((self.host, 0))
        self.port = listening.getsockname()[1]
        self.store = TCPStore(
            self.host, self.port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        self.groups: dict[int, ProcessGroup] = {}
        self.promised: dict[int, WeightsVersion] = {}
        self.newest: WeightsVersion | None = None
        self.threads = ThreadPoolExecutor(_SENDS_AT_ONCE)

    async def address(self) -> tuple[str, int]:
        """Return host and port where actors meet the relay."""
        return self.host, self.port

    async def connect(self, slot: int, name: str) -> None:
        """Form the group `name` with an actor, in place of the one that `slot` had before."""
        self.groups.pop(slot, None)
        group = (self.store, name, 0, self.device, self.host, self.timeout_s)
        self.groups[slot] = await asyncio.get_running_loop().run_in_executor(self.threads, _join, *group)

    async def announce(self, slot: int, than: int | None, wait_s: float) -> tuple[WeightsVersion, Layout] | None:
        """Announce weights newer than version `than` to an actor: the version without tensors, and their layout.

        None if the coordinator has none within `wait_s`. Raises the coordinator's exceptions.
        """
        async with asyncio.timeout(wait_s + self.timeout_s):
            answer = await self.coordinator.newer.remote(self.epoch, than, wait_s, slot)
            if answer is None:
                return None
            weights = await answer[0]
        if self.newest is None or weights.version > self.newest.version:
            tensors = {name: tensor.to(self.device) for name, tensor in weights.tensors.items()}
            self.newest = replace(weights, tensors=tensors)
        self.promised[slot] = promised = self.newest
        layout = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in promised.tensors.items()]
        return replace(promised, tensors={}), layout

    async def send(self, slot: int) -> None:
        """Send the announced version. Raises TransportFailed when the actor is lost or does not receive in time."""
        group, weights = self.groups[slot], self.promised.pop(slot)

        def send_all() -> None:
            deadline = time.monotonic() + self.timeout_s
            for tensor in weights.tensors.values():
                _finish(group.send, tensor.contiguous().flatten().view(torch.uint8), 1, deadline)

        await asyncio.get_running_loop().run_in_executor(self.threads, send_all)


class CollectiveWeights:
    """Fetches newer weights for one rollout process, straight onto its device, and by `fallback` after a failure.

    The process that takes over a slot of the pool takes over its connection.
    """

    def __init__(
        self, relay: ray.actor.ActorHandle, slot: int, device: str, timeout_s: float, fallback: ObjectStoreWeights
    ):
        self.relay, self.slot, self.device, self.timeout_s = relay, slot, torch.device(device), timeout_s
        self.fallback, self.failed = fallback, False
        self.group: ProcessGroup | None = None

    def fetch(self, than: int | None) -> WeightsVersion | None:
        """Return weights newer than version `than`, or None after some seconds without.

        Raises the coordinator's exceptions (Leaving, StageEnded), or Ray's errors of the fallback.
        """
        if not self.failed:
            try:
                if self.group is None:
                    self.connect()
                return self._receive(than)
            except TransportFailed as error:
                self.group = None
                weights = self.fallback.fetch(than)  # raises StageEnded where the relay has ended with its stage
                self.failed = True
                _log.warning("weights come through the object store from now on, for slot %d: %s", self.slot, error)
                return weights
        return self.fallback.fetch(than)

    def connect(self) -> None:
        """Form the group with the relay. Raises TransportFailed."""
        try:
            host, port = ray.get(self.relay.address.remote(), timeout=self.timeout_s)
            name = uuid.uuid4().hex
            connection = self.relay.connect.remote(self.slot, name)
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=self.timeout_s))
            group = _join(store, name, 1, self.device, ray.util.get_node_ip_address(), self.timeout_s)
            ray.get(connection, timeout=self.timeout_s)
        except (RayError, RuntimeError) as error:
            raise TransportFailed(f"no connection to the relay: {type(error).__name__}") from error
        self.group = group

    def _receive(self, than: int | None) -> WeightsVersion | None:
        try:
            announced = self.relay.announce.remote(self.slot, than, WAIT_S)
            announcement = ray.get(announced, timeout=WAIT_S + self.timeout_s)
            if announcement is None:
                return None
            sending = self.relay.send.remote(self.slot)
            header, layout = announcement
            deadline = time.monotonic() + self.timeout_s
            tensors = {name: torch.empty(shape, dtype=dtype, device=self.device) for name, dtype, shape in layout}
            for tensor in tensors.values():
                _finish(self.group.recv, tensor.flatten().view(torch.uint8), 0, deadline)
            ray.get(sending, timeout=self.timeout_s)
        except (Leaving, StageEnded):
            raise
        except (RayError, RuntimeError) as error:
            raise TransportFailed(f"nothing received from the relay: {type(error).__name__}") from error
        return replace(header, tensors=tensors)


def _join(store: TCPStore, name: str, rank: int, device: torch.device, host: str, timeout_s: float) -> ProcessGroup:
    """Make a process group of relay (rank 0) and actor (rank 1)."""
    meeting = PrefixStore(name, store)
    timeout = timedelta(seconds=timeout_s)
    if device.type == "cuda":
        os.environ |= _OUTLIVES_PEERS
        options = torch.distributed.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return torch.distributed.ProcessGroupNCCL(meeting, rank, 2, options)
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = timeout
    return ProcessGroupGloo(meeting, rank, 2, options)


def _finish(operation, data: Tensor, peer: int, deadline: float) -> None:
    """Send or receive one tensor; raises TransportFailed after the deadline, RuntimeError for a lost peer."""
    if data.numel() == 0:
        return
    work = operation([data], peer, 0)
    if data.device.type == "cpu":
        work.wait(timedelta(seconds=max(deadline - time.monotonic(), _POLL_S)))
        return
    # NCCL's own wait would block the stream for ever if the peer died: poll, and leave the group to its abort.
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise TransportFailed("a tensor did not pass in time")
        time.sleep(_POLL_S)
