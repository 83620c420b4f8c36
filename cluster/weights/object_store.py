"""Send weights through Ray's object store: one copy, owned by the coordinator from the start.

    learner                      coordinator                          rollout process
    Handover(make)    --(1)-->   WeightStore.collect
       _offered       <-(2)--      calls back
       version N      --(3)-->   WeightStore: reference to N  <-(4)--  ObjectStoreWeights.fetch(than=N-1)
       wait()                                                 --(5)->  reads N in place, in its node's store

Ray gives an object that an actor's method returns to the caller of that method. So the learner only offers its
tensors (1), the coordinator calls back into the learner's process (2), and the answer (3) lies in the node's store, is
owned by the coordinator, and outlives the learner. Passing the bytes as an argument and storing them again there
would be two copies, and an object put by the learner would be lost with it. The learner trains meanwhile: Ray
calls it back in another thread, which takes the fingerprint too.

Example: the learner publishes version 7 while an actor rolls out with 6. The actor's `fetch(6)` waits in
`WeightStore.newer`, is answered with a reference to 7 when `collect` returns, and reads the tensors without a copy.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import ray

from cluster.weights.version import WeightsVersion

WAIT_S = 5.0
"""Seconds that an actor's request for newer weights stays open at the coordinator."""
_CALL_TIMEOUT_S = 60.0

_POLL_S = 0.1

_offered: dict[int, tuple[Callable[[], WeightsVersion], threading.Event]] = {}
"""Makes each version that this process is publishing, by number; the event is set once the coordinator collects it."""


class Handover:
    """Hands a version to a coordinator, which owns it afterwards.

    Nothing may write to the tensors before `wait` has returned. A process that Ray cannot call, such as a driver, puts
    the version itself and must outlive its use.
    """

    def __init__(
        self,
        offer: Callable[[ray.actor.ActorHandle | list], ray.ObjectRef],
        version: int,
        make: Callable[[], WeightsVersion],
        timeout_s: float,
    ):
        """Offer the version that `make` returns, and wait until the coordinator knows its number and collects it.

        `offer` calls the coordinator's `publish` with a source for `WeightStore.collect`. Ray may run the calls of a
        process in another order than it made them: the next one must find the number known. `wait` raises a failure.
        """
        context, self.version, self.deadline = ray.get_runtime_context(), version, time.monotonic() + timeout_s
        callable_process, collects = context.get_actor_id() is not None, threading.Event()
        source = context.current_actor if callable_process else [ray.put(make())]
        _offered[version] = make, collects
        self.answer = offer(source)
        while time.monotonic() < self.deadline and not collects.wait(_POLL_S):
            if ray.wait([self.answer], timeout=0)[0]:  # done, or failed before the call back
                return

    def wait(self) -> None:
        """Wait until it is done. Raises GetTimeoutError `timeout_s` after the offer, or the coordinator's exception."""
        try:
            ray.get(self.answer, timeout=max(0.0, self.deadline - time.monotonic()))
        finally:
            del _offered[self.version]


def _hand_over(process: Any, version: int) -> WeightsVersion:
    """Return an offered version, in the learner's process, next to its training."""
    make, collects = _offered[version]
    collects.set()
    return make()


class WeightStore:
    """Holds the coordinator's newest version for the actors that wait for one. For one event loop."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.reference: Awaitable[WeightsVersion] | None = None
        self._weights: WeightsVersion | None = None
        self._change = asyncio.Event()

    async def collect(self, version: int, source: ray.actor.ActorHandle | list) -> WeightsVersion:
        """Fetch an offered version, serve it from then on, and return it.

        `source` is the learner's process, or holds the reference itself. Raises ValueError for a version that is not
        newer, KeyError for one that is no longer offered, and Ray's error if the learner died meanwhile.
        """
        if self.version is not None and version <= self.version:
            raise ValueError(f"version {version} was published after version {self.version}; versions only grow")
        reference = source[0] if isinstance(source, list) else source.__ray_call__.remote(_hand_over, version)
        # The tensors are kept: they pin the bytes in this node's store, where they survive the learner's node too.
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            self._weights = await reference
        self.version, self.reference = version, reference
        self.wake()
        return self._weights

    def wake(self) -> None:
        """Wake all waiting requests of actors to check their conditions again."""
        self._change.set()
        self._change = asyncio.Event()

    async def newer(
        self, than: int | None, wait_s: float, in_vain: Callable[[], bool] = lambda: False
    ) -> tuple[Awaitable[WeightsVersion]] | None:
        """Return a reference to weights newer than `than`, or None if none came within `wait_s` or it is `in_vain`.

        In a tuple, because Ray would resolve a bare reference.
        """
        try:
            async with asyncio.timeout(wait_s):
                while self.version is None or (than is not None and self.version <= than):
                    if in_vain():
                        return None
                    await self._change.wait()
        except TimeoutError:
            return None
        return (self.reference,)


class ObjectStoreWeights:
    """Fetches newer weights for one rollout process, in place from its node's store."""

    def __init__(self, coordinator: ray.actor.ActorHandle, epoch: int, slot: int):
        """Fetch for the actor in a slot; `coordinator` has `newer(epoch, than, wait_s, slot)`."""
        self.coordinator, self.epoch, self.slot = coordinator, epoch, slot

    def fetch(self, than: int | None) -> WeightsVersion | None:
        """Return weights newer than version `than`, or None after some seconds without.

        Raises the coordinator's exceptions (Leaving, StageEnded), or Ray's errors.
        """
        newer = self.coordinator.newer.remote(self.epoch, than, WAIT_S, self.slot)
        answer = ray.get(newer, timeout=WAIT_S + _CALL_TIMEOUT_S)
        return None if answer is None else ray.get(answer[0], timeout=_CALL_TIMEOUT_S)
