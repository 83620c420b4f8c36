"""The rollout pool on Ray: one process per slot, replaced when it is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.experimental import get_local_object_locations

from cluster.config.cluster_config import ClusterConfig
from cluster.planning import placement
from cluster.pool.rollout_process import Delivery, RolloutProcess
from cluster.pool.scale_down import Place
from cluster.runs.stage_spec import ActorSpec
from cluster.supply.dispatch import Dispatch
from cluster.supply.wire import BadWindow
from cluster.weights.collective import WeightRelay

_SEND_TIMEOUT_S = 60.0
_COPY_TIMEOUT_S = 10.0
_PAYLOAD_POLL_S = 0.002
_ANSWER_TIMEOUT_S = 2.0
"""Short, because drains are asked for behind it: who does not answer is asked again."""


class ActorLost(Exception):
    """A rollout process is gone, or as good as gone; the message says how."""


class NoNode(Exception):
    """No node has had room for a rollout process in time. Nothing is lost by it."""


class Superseded(Exception):
    """The process that was asked is not its slot's any more: what it answers counts for nobody."""


class Pool(Protocol):
    """Processes that roll out, by slot. Starting one is only asked for here: `place` waits for it.

    Who waits for a process whose slot was given to another meanwhile, or to none, gets Superseded.
    """

    slots: list[int]
    """Those asked for, the same list as long as the pool exists."""

    async def place(self, slot: int) -> Place:
        """Wait until the process in `slot` has a node. Raises NoNode or ActorLost."""

    async def begin(self, slot: int, spec: ActorSpec, epoch: int) -> None:
        """Have the process in `slot`, which has a node, supply a stage. Raises ActorLost, or what it raised."""

    def stream(self, slot: int, epoch: int, dispatch: Dispatch) -> AsyncIterator[Delivery]:
        """What the process in `slot`, which has begun, makes of `dispatch`. Raises ActorLost."""

    def replace(self, slot: int) -> None:
        """End the process in `slot` and ask for another."""

    def grow(self, count: int) -> list[int]:
        """Ask for more processes; returns their slots, which no process had before."""

    def shrink(self, slot: int) -> None:
        """End the process in `slot`, or ask for it no more: the slot is gone."""

    async def dead(self, slots: Collection[int]) -> set[int]:
        """Which of these slots, whose processes have nothing to do, have lost them."""

    def draining(self) -> Collection[str]:
        """Nodes that are about to go away. Called in a thread."""

    def copy_from(self, nodes: Collection[str], payloads: Sequence[Any]) -> None:
        """Copy those of `payloads` that lie on `nodes` alone to where the coordinator is. Called in a thread."""


class RayPool:
    """Actors that the coordinator owns: they end with it. Those that wait for a node ask Ray's autoscaler for one."""

    def __init__(self, cluster: ClusterConfig, coordinator: ray.actor.ActorHandle):
        self.cluster, self.coordinator = cluster, coordinator
        self.slots = list(range(cluster.rollout_actors))
        self.following = len(self.slots)
        self.actors = {slot: self._new(slot) for slot in self.slots}
        self.relay: tuple[int, ray.actor.ActorHandle] | None = None
        """With cluster.weight_transport=collective: what sends the weights of an epoch."""

    def _relay_of(self, epoch: int) -> ray.actor.ActorHandle | None:
        if self.cluster.weight_transport != "collective":
            return None
        if self.relay is None or self.relay[0] != epoch:
            if self.relay is not None:
                ray.kill(self.relay[1])
            device = "cuda" if self.cluster.actor_gpus else "cpu"
            options = placement.options(placement.relay(self.cluster))
            made = WeightRelay.options(**options).remote(self.coordinator, epoch, device, _SEND_TIMEOUT_S)
            self.relay = (epoch, made)
        return self.relay[1]

    def _new(self, slot: int) -> ray.actor.ActorHandle:
        options = placement.options(placement.rollout(self.cluster))
        return RolloutProcess.options(**options).remote(self.coordinator, slot, self.cluster)

    def grow(self, count: int) -> list[int]:
        """Ask Ray for more; they come when there is a place for them, and the others go on meanwhile."""
        added = list(range(self.following, self.following + count))
        self.following += count
        self.actors |= {slot: self._new(slot) for slot in added}
        self.slots += added
        return added

    def shrink(self, slot: int) -> None:
        """Kill; one that still waits for a node is given up, and Ray asks for that node no more."""
        self.slots.remove(slot)
        ray.kill(self.actors.pop(slot))

    def replace(self, slot: int) -> None:
        """Kill without asking first (a hung process would not answer) and start another."""
        ray.kill(self.actors[slot])
        self.actors[slot] = self._new(slot)

    async def place(self, slot: int) -> Place:
        """Wait until an actor answers, which it does as soon as its node has started its process."""
        timeout_s = self.cluster.start_timeout_s
        none = NoNode(f"never got a node within cluster.start_timeout_s = {timeout_s:g} s")
        return await self._answer(slot, self.actors[slot].place.remote(), none)

    async def begin(self, slot: int, spec: ActorSpec, epoch: int) -> None:
        """Tell an actor which stage it supplies, and wait until it does."""
        timeout_s = self.cluster.start_timeout_s
        late = ActorLost(f"did not start within cluster.start_timeout_s = {timeout_s:g} s")
        await self._answer(slot, self.actors[slot].begin.remote(spec, epoch, self._relay_of(epoch)), late)

    async def _answer(self, slot: int, answer: Awaitable[Any], late: Exception) -> Any:
        """What the actor in `slot` answers. Raises `late` after cluster.start_timeout_s."""
        actor = self.actors[slot]
        try:
            async with asyncio.timeout(self.cluster.start_timeout_s):
                found = await answer
        except TimeoutError as error:
            self._require(slot, actor)
            raise late from error
        except RayTaskError:
            self._require(slot, actor)
            raise  # the actor's own exception is no loss of it
        except RayError as error:
            self._require(slot, actor)
            raise ActorLost(f"{type(error).__name__}") from error
        self._require(slot, actor)
        return found

    def _require(self, slot: int, actor: ray.actor.ActorHandle) -> None:
        if self.actors.get(slot) is not actor:  # killing is asynchronous: an answer may be on its way
            raise Superseded

    async def stream(self, slot: int, epoch: int, dispatch: Dispatch) -> AsyncIterator[Delivery]:
        """Deliveries as they are made, payloads by reference.

        A value that an actor returns is owned here and survives its process, but not its node.
        """
        actor = self.actors[slot]
        try:
            stream = actor.windows.options(num_returns="streaming")
            items = stream.remote(dispatch.rollouts, list(dispatch.made), list(dispatch.first))
            while True:
                try:
                    async with asyncio.timeout(self.cluster.progress_timeout_s):
                        delivery: Delivery = await (await anext(items))
                        if delivery.header.layout:
                            payload = await self._payload(items)
                            delivery = replace(delivery, header=replace(delivery.header, payload=payload))
                except StopAsyncIteration:
                    return
                yield delivery
        except TimeoutError as error:
            raise ActorLost(
                f"made no block within cluster.progress_timeout_s = {self.cluster.progress_timeout_s} s"
            ) from error
        except RayTaskError as error:  # the actor's own exception is no loss of it
            if isinstance(error.cause, BadWindow):
                raise error.cause from None
            raise
        except RayError as error:
            raise ActorLost(f"{type(error).__name__}") from error

    @staticmethod
    async def _payload(items: ray.ObjectRefGenerator) -> ray.ObjectRef:
        """The reference to the next item of a stream, which follows at once.

        Waiting for it by `anext` would fetch it into this process.
        """
        while not items.next_ready():
            await asyncio.sleep(_PAYLOAD_POLL_S)
        reference = await anext(items)
        if reference == items.completed():
            await reference  # raises why the stream ended between the two
        return reference

    async def dead(self, slots: Collection[int]) -> set[int]:
        """Ask them for a sign of life. No answer in time is no sign of death: an actor may have begun to work."""
        asked = {asyncio.ensure_future(_lives(self.actors[slot])): (slot, self.actors[slot]) for slot in slots}
        if not asked:
            return set()
        done, late = await asyncio.wait(asked, timeout=_ANSWER_TIMEOUT_S)
        for task in late:
            task.cancel()
        found = {asked[task] for task in done if not task.result()}
        return {slot for slot, actor in found if self.actors.get(slot) is actor}

    def draining(self) -> Collection[str]:
        """Nodes that Ray is draining (preemption, scale-down)."""
        from ray._private.state import state  # the call that Ray Train and Serve use; there is no public one in 2.60

        return state.get_draining_nodes().keys()

    def copy_from(self, nodes: Collection[str], payloads: Sequence[ray.ObjectRef]) -> None:
        """Fetch into the store of this node, without reading; Ray uses the copy when the node is gone.

        The next poll asks again for what is late. `get_object_locations` would wait here for this very process.
        """
        places = get_local_object_locations(list(payloads))
        doomed = [payload for payload, place in places.items() if place["node_ids"] and nodes >= {*place["node_ids"]}]
        if doomed:
            ray.wait(doomed, num_returns=len(doomed), timeout=_COPY_TIMEOUT_S)


async def _lives(actor: ray.actor.ActorHandle) -> bool:
    """Whether an actor lives."""
    try:
        await actor.__ray_ready__.remote()
    except RayActorError:
        return False
    return True
