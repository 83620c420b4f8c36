"""How a version gets from the learner to the pool: one copy, owned by the coordinator from the start.

Ray gives an object that an actor's method returns to the caller of that method. So the learner only offers its bytes;
the coordinator calls back into the learner's process, and what comes back lies in the node's store, is the
coordinator's own, and outlives the learner. Handing the bytes over as an argument and storing them again there would be
two copies, and an object put by the learner would be lost with it.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import ray

from cluster.errors import Leaving
from cluster.weights.packed_weights import PackedWeights, unpack
from cluster.weights.prefetch import Fetch
from models.records import Weights

LEAVE = "leave"
"""The coordinator's answer to an actor whose node is about to go away."""
_WAIT_S = 5.0
_CALL_TIMEOUT_S = 60.0

_offered: dict[str, PackedWeights] = {}
"""By ticket: what this process is publishing right now."""


class Publisher:
    """The learner's side. Needs a coordinator with `publish(version, source, ticket)`."""

    def __init__(self, coordinator: ray.actor.ActorHandle, timeout_s: float):
        self.coordinator, self.timeout_s = coordinator, timeout_s
        callable_here = ray.get_runtime_context().get_actor_id() is not None
        self._bearer = None if callable_here else _Bearer.remote()

    def publish(self, packed: PackedWeights) -> None:
        """Hand a version over. Afterwards the coordinator owns it, and its tensors may be written to.

        Raises GetTimeoutError after `timeout_s`, or what the coordinator raised.
        """
        if self._bearer is None:
            _offer(self.coordinator, packed, self.timeout_s)
        else:
            ray.get(self._bearer.offer.remote(self.coordinator, packed, self.timeout_s), timeout=self.timeout_s)


def store_fetch(coordinator: ray.actor.ActorHandle, epoch: int, slot: int) -> Fetch:
    """The actor's side: weights read in place from the node's store.

    Needs a coordinator with `newer(epoch, than, wait_s, slot)`. Raises Leaving when it says LEAVE, what it raised, or
    Ray's errors.
    """

    def fetch(than: int | None) -> Weights | None:
        found = ray.get(coordinator.newer.remote(epoch, than, _WAIT_S, slot), timeout=_WAIT_S + _CALL_TIMEOUT_S)
        if found == LEAVE:
            raise Leaving
        return None if found is None else unpack(ray.get(found[0], timeout=_CALL_TIMEOUT_S))

    return fetch


class WeightShelf:
    """The coordinator's side: the newest version, and the actors that wait for a newer one. For one event loop."""

    def __init__(self):
        self.version: int | None = None
        self.reference: ray.ObjectRef | None = None
        self._packed: PackedWeights | None = None
        self._arrived = asyncio.Event()

    async def collect(self, version: int, source: ray.actor.ActorHandle, ticket: str) -> PackedWeights:
        """Fetch an offered version from the learner's process, serve it from then on, and return it.

        Raises ValueError for a version that is not newer, and Ray's error if the learner died on the way.
        """
        if self.version is not None and version <= self.version:
            raise ValueError(f"version {version} was published after version {self.version}; versions only grow")
        reference = source.__ray_call__.remote(_hand_over, ticket)
        # The view is kept: it pins the bytes in this node's store, where they survive the learner's node too.
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            packed = await reference
        self.show(version, reference, packed)
        return packed

    def show(self, version: int, reference: Any, packed: PackedWeights) -> None:
        """Serve a version from now on, and tell everybody who waits."""
        self.version, self.reference, self._packed = version, reference, packed
        self.wake()

    def wake(self) -> None:
        """Have everybody who waits look whether it still should."""
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def newer(
        self, than: int | None, wait_s: float, in_vain: Callable[[], bool] = lambda: False
    ) -> tuple[ray.ObjectRef] | None:
        """A reference to weights newer than version `than`, or None if none came within `wait_s` or it is `in_vain`.

        In a tuple, because Ray would resolve a bare reference.
        """
        try:
            async with asyncio.timeout(wait_s):
                while self.version is None or (than is not None and self.version <= than):
                    if in_vain():
                        return None
                    await self._arrived.wait()
        except TimeoutError:
            return None
        return (self.reference,)


def _offer(coordinator: ray.actor.ActorHandle, packed: PackedWeights, timeout_s: float) -> None:
    ticket = uuid.uuid4().hex
    _offered[ticket] = packed
    try:
        me = ray.get_runtime_context().current_actor
        ray.get(coordinator.publish.remote(packed.version, me, ticket), timeout=timeout_s)
    finally:
        del _offered[ticket]


def _hand_over(process: Any, ticket: str) -> PackedWeights:
    """Runs in the learner's process, beside its training."""
    return _offered[ticket]


@ray.remote(num_cpus=0, max_concurrency=2)
class _Bearer:
    """Publishes for a process that nobody can call, such as a driver: at the price of one more copy."""

    def offer(self, coordinator: ray.actor.ActorHandle, packed: PackedWeights, timeout_s: float) -> None:
        _offer(coordinator, packed, timeout_s)
