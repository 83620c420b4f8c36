"""Run the rollout pool on Ray: one process per slot, replaced when it is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.experimental import get_local_object_locations

from cluster.config.cluster_config import ClusterConfig
from cluster.planning import placement
from cluster.planning.memory_check import out_of_memory
from cluster.planning.run_shape import RunShape
from cluster.pool.rollout_process import Delivery, RolloutProcess
from cluster.pool.scale_down import Place
from cluster.run_errors import RunFailed
from cluster.runs.stage_spec import ActorSpec
from cluster.supply.dispatch import Dispatch
from cluster.supply.wire import BadWindow
from cluster.weights.collective import WeightRelay
from models.errors import ConfigError
from models.wan.device_faults import gpu_fault, kernel_fault

_SEND_TIMEOUT_S = 60.0
_COPY_TIMEOUT_S = 10.0
_PAYLOAD_POLL_S = 0.002
_ANSWER_TIMEOUT_S = 2.0
"""Seconds that one health check waits. Short, because it delays the check for drains; the next poll repeats it."""


class ActorLost(Exception):
    """Reports a rollout process that died or stopped responding; the message gives the cause."""


class NoNode(Exception):
    """Reports that no node had room for a rollout process in time. No work is lost."""


class Superseded(Exception):
    """Reports that the called process no longer belongs to its slot; its answer is ignored."""


class RayPool:
    """Starts, ends and calls the rollout processes, by slot. The coordinator owns them: they end with it.

    A process without a node makes Ray's autoscaler request one: `grow` only requests it, and `place` waits for it.
    Methods that wait for a process raise Superseded when it was replaced or removed meanwhile.
    """

    def __init__(self, cluster: ClusterConfig, coordinator: ray.actor.ActorHandle, work: RunShape | None = None):
        """Request the processes, which compare their GPU with the bytes of `work`, if that is given."""
        self.cluster, self.coordinator, self.work = cluster, coordinator, work
        self.slots = list(range(cluster.rollout_actors))
        """Slots with a requested process; the same list object for the life of the pool."""
        self.next_slot = len(self.slots)
        self.actors = {slot: self._new(slot) for slot in self.slots}
        self.relay: tuple[int, ray.actor.ActorHandle] | None = None
        """Epoch and sender of its weights, with cluster.weight_transport=collective."""

    def _new(self, slot: int) -> ray.actor.ActorHandle:
        options = placement.options(placement.rollout(self.cluster))
        return RolloutProcess.options(**options).remote(self.coordinator, slot, self.cluster, self.work)

    def grow(self, count: int) -> list[int]:
        """Request `count` more processes, which start when nodes have room; returns their new slots."""
        added = list(range(self.next_slot, self.next_slot + count))
        self.next_slot += count
        self.actors |= {slot: self._new(slot) for slot in added}
        self.slots += added
        return added

    def shrink(self, slot: int) -> None:
        """Kill the process in `slot` and drop the slot; Ray withdraws a pending request for a node."""
        self.slots.remove(slot)
        ray.kill(self.actors.pop(slot))

    def replace(self, slot: int) -> None:
        """Kill the process in `slot`, even a hung one, and start another."""
        ray.kill(self.actors[slot])
        self.actors[slot] = self._new(slot)

    async def place(self, slot: int) -> Place:
        """Wait until the process in `slot` has a node and answers. Raises NoNode or ActorLost."""
        timeout_s = self.cluster.start_timeout_s
        none = NoNode(f"never got a node within cluster.start_timeout_s = {timeout_s:g} s")
        return await self._answer(slot, self.actors[slot].place.remote(), none)

    async def begin(self, slot: int, spec: ActorSpec, epoch: int) -> None:
        """Wait until the placed process in `slot` supplies a stage. Raises ActorLost or its own exception."""
        if self.cluster.weight_transport == "collective" and (self.relay is None or self.relay[0] != epoch):
            if self.relay is not None:
                ray.kill(self.relay[1])
            device = "cuda" if self.cluster.actor_gpus else "cpu"
            options = placement.options(placement.relay(self.cluster))
            relay = WeightRelay.options(**options).remote(self.coordinator, epoch, device, _SEND_TIMEOUT_S)
            self.relay = (epoch, relay)
        relay = None if self.relay is None else self.relay[1]
        timeout_s = self.cluster.start_timeout_s
        late = ActorLost(f"did not start within cluster.start_timeout_s = {timeout_s:g} s")
        await self._answer(slot, self.actors[slot].begin.remote(spec, epoch, relay), late)

    async def _answer(self, slot: int, answer: Awaitable[Any], late: Exception) -> Any:
        """Return the answer of the actor in `slot`. Raises `late` after cluster.start_timeout_s."""
        actor = self.actors[slot]
        try:
            async with asyncio.timeout(self.cluster.start_timeout_s):
                result = await answer
        except (TimeoutError, RayError) as error:
            if self.actors.get(slot) is not actor:
                raise Superseded from error
            if isinstance(error, TimeoutError):
                raise late from error
            raise _loss(error, self.work) from error
        if self.actors.get(slot) is not actor:  # killing is asynchronous: an answer may be on its way
            raise Superseded
        return result

    async def stream(self, slot: int, epoch: int, dispatch: Dispatch) -> AsyncIterator[Delivery]:
        """Yield the deliveries of `dispatch` from the process in `slot`, payloads by reference. Raises ActorLost.

        This process owns the returned values: they survive the actor's process, but not its node.
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
                            while not items.next_ready():  # waiting in `anext` would fetch it into this process
                                await asyncio.sleep(_PAYLOAD_POLL_S)
                            payload = await anext(items)
                            if payload == items.completed():
                                await payload  # raises the reason why the stream ended between header and payload
                            delivery = replace(delivery, header=replace(delivery.header, payload=payload))
                except StopAsyncIteration:
                    return
                yield delivery
        except TimeoutError as error:
            raise ActorLost(
                f"made no block within cluster.progress_timeout_s = {self.cluster.progress_timeout_s} s"
            ) from error
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, BadWindow):
                raise error.cause from None
            raise _loss(error, self.work) from error

    async def dead(self, slots: Collection[int]) -> set[int]:
        """Return the idle `slots` whose processes are lost. A late answer is no loss: the actor may be busy."""
        checked = {slot: self.actors[slot] for slot in slots}
        if not checked:
            return set()
        answers = {asyncio.ensure_future(actor.__ray_ready__.remote()): slot for slot, actor in checked.items()}
        done, late = await asyncio.wait(answers, timeout=_ANSWER_TIMEOUT_S)
        for answer in late:
            answer.cancel()
        dead = set()
        for answer in done:
            try:
                answer.result()
            except RayActorError:
                dead.add(answers[answer])
        return {slot for slot in dead if self.actors.get(slot) is checked[slot]}

    def draining(self) -> Collection[str]:
        """Return the nodes that Ray is draining (preemption, scale-down). Called in a thread."""
        from ray._private.state import state  # the call that Ray Train and Serve use; there is no public one in 2.60

        return state.get_draining_nodes().keys()

    def copy_from(self, nodes: Collection[str], payloads: Sequence[ray.ObjectRef]) -> None:
        """Copy `payloads` stored only on `nodes` to the store of this node. Called in a thread.

        They are fetched without reading; Ray uses the copy after the loss of the node. The next poll repeats late
        copies. `get_object_locations` would deadlock here, waiting for this very process.
        """
        places = get_local_object_locations(list(payloads))
        doomed = [payload for payload, place in places.items() if place["node_ids"] and nodes >= {*place["node_ids"]}]
        if doomed:
            ray.wait(doomed, num_returns=len(doomed), timeout=_COPY_TIMEOUT_S)


def _loss(error: RayError, work: RunShape | None) -> Exception:
    """Return ActorLost for the end of a process or of its GPU, else the exception that its code raised.

    RunFailed for what every replacement would meet as well: a mistake of the user's, too little memory, a wrong GPU.
    """
    if not isinstance(error, RayTaskError):
        return ActorLost(f"{type(error).__name__}")
    if isinstance(error.cause, torch.OutOfMemoryError) and work is not None:
        return out_of_memory(work, None, error.cause)
    if isinstance(error.cause, ConfigError | RunFailed):
        return RunFailed(str(error.cause))
    if (unknown := kernel_fault(error.cause)) is not None:
        return RunFailed(f"rollout: {unknown}")
    fault = gpu_fault(error.cause)
    return error if fault is None else ActorLost(f"has lost its GPU ({fault})")
