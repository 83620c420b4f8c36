"""The rollout pool on Ray: one process per slot, replaced when it is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from cluster import placement
from cluster.collective_weights import WeightRelay
from cluster.config import Config
from cluster.parcels import Parcel, wrap
from cluster.rollout_process import Delivery, RolloutProcess
from cluster.supply import Dispatch

_SEND_TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)


class ActorLost(Exception):
    """A rollout process is gone, or as good as gone; the message says how."""


class Pool(Protocol):
    """Processes that roll out, by slot."""

    slots: list[int]

    def stream(self, slot: int, stage: str, config: Config, epoch: int, dispatch: Dispatch) -> AsyncIterator[Delivery]:
        """What the process in `slot` makes of `dispatch`. Raises ActorLost."""

    def replace(self, slot: int) -> None:
        """End the process in `slot` and start another."""

    def draining(self) -> set[int]:
        """Slots whose node is about to go away."""


class RayPool:
    """Actors that the coordinator owns: they end with it."""

    def __init__(self, config: Config, coordinator: ray.actor.ActorHandle):
        self.config, self.cluster, self.coordinator = config, config.cluster, coordinator
        self.slots = list(range(config.cluster.rollout_actors))
        self.actors = {slot: self._new(slot) for slot in self.slots}
        self.begun: dict[int, int] = {}
        self.nodes: dict[int, str] = {}
        self.relay: tuple[int, ray.actor.ActorHandle] | None = None
        """With cluster.weight_transport=collective: what sends the weights of an epoch."""

    def _relay_of(self, epoch: int) -> ray.actor.ActorHandle | None:
        if self.cluster.weight_transport != "collective":
            return None
        if self.relay is None or self.relay[0] != epoch:
            if self.relay is not None:
                ray.kill(self.relay[1])
            device = "cuda" if self.cluster.actor_gpus else "cpu"
            options = placement.options(placement.relay(self.config))
            made = WeightRelay.options(**options).remote(self.coordinator, epoch, device, _SEND_TIMEOUT_S)
            self.relay = (epoch, made)
        return self.relay[1]

    def _new(self, slot: int) -> ray.actor.ActorHandle:
        options = placement.options(placement.rollout(self.config))
        return RolloutProcess.options(**options).remote(self.coordinator, slot, self.cluster)

    def replace(self, slot: int) -> None:
        """Kill without asking first (a hung process would not answer) and start another."""
        ray.kill(self.actors[slot])
        self.actors[slot] = self._new(slot)
        self.begun.pop(slot, None)
        self.nodes.pop(slot, None)

    async def stream(
        self, slot: int, stage: str, config: Config, epoch: int, dispatch: Dispatch
    ) -> AsyncIterator[Delivery]:
        """Deliveries as they are made. A value that an actor returns is owned here and survives its process."""
        actor = self.actors[slot]
        try:
            await self._begin(slot, stage, config, epoch)
            made: list[Parcel] = [wrap(block) for block in dispatch.made]
            items = actor.windows.options(num_returns="streaming").remote(dispatch.rollouts, made)
            while True:
                try:
                    async with asyncio.timeout(self.cluster.progress_timeout_s):
                        reference = await anext(items)
                        delivery = await reference
                except StopAsyncIteration:
                    return
                yield delivery
        except TimeoutError as error:
            raise ActorLost(
                f"made no block within cluster.progress_timeout_s = {self.cluster.progress_timeout_s} s"
            ) from error
        except RayTaskError:
            raise  # the actor's own exception is no loss of it
        except RayError as error:
            raise ActorLost(f"{type(error).__name__}") from error

    async def _begin(self, slot: int, stage: str, config: Config, epoch: int) -> None:
        """Tell an actor which stage it supplies, once."""
        if self.begun.get(slot) == epoch:
            return
        try:
            async with asyncio.timeout(self.cluster.start_timeout_s):
                self.nodes[slot] = await self.actors[slot].begin.remote(stage, config, epoch, self._relay_of(epoch))
        except TimeoutError as error:
            raise ActorLost(
                f"did not start within cluster.start_timeout_s = {self.cluster.start_timeout_s} s"
            ) from error
        self.begun[slot] = epoch

    def draining(self) -> set[int]:
        """Slots on nodes that Ray is draining (preemption, scale-down)."""
        from ray._private.state import state  # the call that Ray Train and Serve use; there is no public one in 2.60

        leaving = state.get_draining_nodes()
        return {slot for slot, node in list(self.nodes.items()) if node in leaving}  # called in a thread
