"""Weights over torch.distributed, for pools of fixed size: NCCL between GPUs, Gloo between CPUs.

A relay beside the learner reads each version in place from its node's store and sends it to whoever asks. Every actor
has a process group of its own with the relay, of two members: whoever dies, hangs or is replaced concerns nobody else,
and nothing is rebuilt when the pool changes. The learner takes no part. An actor whose transport fails says so and goes
on through the object store.
"""

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import ray
import torch
from ray.exceptions import RayError
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup, ProcessGroupGloo, TCPStore

from cluster.errors import Leaving, StageEnded
from cluster.weights.object_store import LEAVE
from cluster.weights.packed_weights import unpack
from cluster.weights.prefetch import Fetch
from models.fingerprint import PublishedWeights
from models.records import Weights

_WAIT_S = 5.0
_SENDS_AT_ONCE = 64
_POLL_S = 0.001

_log = logging.getLogger(__name__)


class TransportFailed(RuntimeError):
    """The relay or the connection to it is gone, or too slow."""


@dataclass(frozen=True)
class Announcement:
    """What the relay is about to send."""

    version: int
    fingerprint: int
    layout: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
    """Name, dtype and shape of each tensor, in the order in which they are sent."""


@ray.remote(num_cpus=0)
class WeightRelay:
    """Needs a coordinator with `newer(epoch, than, wait_s, slot)`; a GPU as `device` needs num_gpus in options."""

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
        self.promised: dict[int, PublishedWeights] = {}
        self.newest: PublishedWeights | None = None
        self.threads = ThreadPoolExecutor(_SENDS_AT_ONCE)

    async def address(self) -> tuple[str, int]:
        """Where actors meet the relay."""
        return self.host, self.port

    async def connect(self, slot: int, name: str) -> None:
        """Form the group `name` with an actor, in place of the one that `slot` had before."""
        self.groups.pop(slot, None)
        make = (self.store, name, 0, self.device, self.host, self.timeout_s)
        self.groups[slot] = await self._in_thread(_join, *make)

    async def announce(self, slot: int, than: int | None, wait_s: float) -> Announcement | str | None:
        """Promise weights newer than version `than` to an actor; otherwise what the coordinator answered."""
        async with asyncio.timeout(wait_s + self.timeout_s):
            found = await self.coordinator.newer.remote(self.epoch, than, wait_s, slot)
            if found is None or found == LEAVE:
                return found
            weights = unpack(await found[0])
        if self.newest is None or weights.version > self.newest.version:
            self.newest = PublishedWeights(weights.version, _on(self.device, weights.tensors), weights.fingerprint)
        self.promised[slot] = promised = self.newest
        layout = tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in promised.tensors.items())
        return Announcement(promised.version, promised.fingerprint, layout)

    async def send(self, slot: int) -> None:
        """Send what was promised. Raises TransportFailed when the actor is gone or does not receive in time."""
        await self._in_thread(self._send, self.groups[slot], self.promised.pop(slot))

    def _send(self, group: ProcessGroup, weights: PublishedWeights) -> None:
        deadline = time.monotonic() + self.timeout_s
        for tensor in weights.tensors.values():
            _finish(group.send, tensor.contiguous().flatten().view(torch.uint8), 1, deadline)

    async def _in_thread(self, call, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, *arguments)


def collective_fetch(relay: ray.actor.ActorHandle, slot: int, device: str, timeout_s: float, fallback: Fetch) -> Fetch:
    """The actor's side: weights received straight onto its device, and `fallback` from the first failure on.

    Whoever takes over `slot` of the pool takes over its connection. Raises Leaving when the coordinator says LEAVE.
    """
    group: ProcessGroup | None = None
    failed = False

    def fetch(than: int | None) -> Weights | None:
        nonlocal group, failed
        if failed:
            return fallback(than)
        try:
            if group is None:
                group = _meet(relay, slot, torch.device(device), timeout_s)
            return _receive(relay, slot, group, torch.device(device), timeout_s, than)
        except TransportFailed as error:
            failed, group = True, None
            _log.warning("weights come through the object store from now on, for slot %d: %s", slot, error)
            return fallback(than)

    return fetch


def _meet(relay: ray.actor.ActorHandle, slot: int, device: torch.device, timeout_s: float) -> ProcessGroup:
    try:
        host, port = ray.get(relay.address.remote(), timeout=timeout_s)
        name = uuid.uuid4().hex
        connecting = relay.connect.remote(slot, name)
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))
        group = _join(store, name, 1, device, ray.util.get_node_ip_address(), timeout_s)
        ray.get(connecting, timeout=timeout_s)
    except (RayError, RuntimeError) as error:
        raise TransportFailed(f"no connection to the relay: {_first_line(error)}") from error
    return group


def _receive(
    relay: ray.actor.ActorHandle, slot: int, group: ProcessGroup, device: torch.device, timeout_s: float,
    than: int | None,
) -> Weights | None:  # fmt: skip
    try:
        announced = ray.get(relay.announce.remote(slot, than, _WAIT_S), timeout=_WAIT_S + timeout_s)
        if announced is None:
            return None
        if announced == LEAVE:
            raise Leaving
        sending = relay.send.remote(slot)
        deadline = time.monotonic() + timeout_s
        tensors = {name: torch.empty(shape, dtype=dtype, device=device) for name, dtype, shape in announced.layout}
        for tensor in tensors.values():
            _finish(group.recv, tensor.flatten().view(torch.uint8), 0, deadline)
        ray.get(sending, timeout=timeout_s)
    except StageEnded:
        raise
    except (RayError, RuntimeError) as error:
        raise TransportFailed(f"nothing received from the relay: {_first_line(error)}") from error
    return PublishedWeights(announced.version, tensors, announced.fingerprint)


def _join(store: TCPStore, name: str, rank: int, device: torch.device, host: str, timeout_s: float) -> ProcessGroup:
    """A process group of relay (rank 0) and actor (rank 1)."""
    meeting = PrefixStore(name, store)
    timeout = timedelta(seconds=timeout_s)
    if device.type == "cuda":
        options = torch.distributed.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return torch.distributed.ProcessGroupNCCL(meeting, rank, 2, options)
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = timeout
    return ProcessGroupGloo(meeting, rank, 2, options)


def _finish(operation, data: Tensor, peer: int, deadline: float) -> None:
    """Send or receive one tensor; raises TransportFailed after the deadline, RuntimeError when the peer is gone."""
    if data.numel() == 0:
        return
    work = operation([data], peer, 0)
    if data.device.type == "cpu":
        work.wait(timedelta(seconds=max(deadline - time.monotonic(), _POLL_S)))
        return
    # NCCL's own wait would block the stream for ever if the peer died: look, and leave the group to its abort.
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise TransportFailed("a tensor did not pass in time")
        time.sleep(_POLL_S)


def _on(device: torch.device, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
