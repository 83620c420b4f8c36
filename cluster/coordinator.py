"""The actor between learner and rollout pool: it owns the supply and the weights, and keeps the pool busy."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.bulletin import Bulletin
from cluster.config import Config
from cluster.errors import RunFailed, StageEnded
from cluster.inspection import BadWindow
from cluster.packing import ChecksumMismatch, PackedTensors
from cluster.parcels import Parcel, take_apart, unwrap, wrap
from cluster.pool import ActorLost, Pool, RayPool
from cluster.publication import LEAVE, WeightShelf
from cluster.ray_metrics import RayMetrics
from cluster.reward_pool import RewardPool
from cluster.rollout_process import Delivery
from cluster.supply import Dispatch, State, Supply
from cluster.trace import Span
from cluster.workload import Workload
from models.rollout import Group, Trajectory, Window

_LOST_IN_A_ROW = 5
"""Processes that one dispatch may lose without a block made in between: more are no accident."""
_DRAIN_POLL_S = 2.0
_INLINE_BYTES = 2**17
"""Up to here a checksum (about 1 GB/s) takes less than the way to a thread and back (0.1 ms)."""

_log = logging.getLogger(__name__)


class Coordinator(Bulletin):
    """One per run. All methods are asynchronous and run in one event loop: no locks around plain state.

    When its process is lost Ray starts it again, empty; the learner then begins again from its checkpoint.
    """

    def __init__(self, config: Config, pool: Pool | None = None, reward_pool: Callable[..., RewardPool] = RewardPool):
        """`reward_pool` makes the reward pool of a stage, as RewardPool does."""
        super().__init__()
        self.config = config
        self.pool = pool or RayPool(config, ray.get_runtime_context().current_actor)
        self.supply: Supply | None = None
        self.epoch = 0
        self.shelf = self._new_shelf()
        self.arrived, self.room = asyncio.Condition(), asyncio.Condition()
        self.packed: dict[tuple[int, int], PackedTensors] = {}
        """By rollout and window: the bytes of what waits, as they came."""
        self.parcels: dict[int, list[Parcel]] = {}
        """By number of the request: what the ranks get."""
        self.awaited: set[tuple[str, int]] = set()
        """Plans that ranks wait for: role and number of windows."""
        self.workload = Workload(self.pool.slots)
        self.reward_pool = reward_pool
        self.rewards = reward_pool(config, self.say)
        self.ray_metrics = RayMetrics()
        self.leaving: set[int] = set()
        self.failure: str | None = None
        self.drivers: list[asyncio.Task] = []

    # -- the learner's side ---------------------------------------------------------------------------------------

    async def begin(self, stage: str, config: Config, state: State | None = None, kept: Collection[int] = ()) -> int:
        """Supply `stage`, from a checkpoint's state if there is one; returns the epoch that takes must name."""
        for driver in self.drivers:
            driver.cancel()
        await asyncio.gather(*self.drivers, return_exceptions=True)
        if self.supply is not None and (given_up := self.supply.buffer.cancel()):
            self.news.append(f"{given_up} windows of stage {self.stage} were given up with it")
        self.epoch += 1
        self.stage, self.stage_config, self.failure = stage, config, None
        before, self.shelf = self.shelf, self._new_shelf()
        before.wake()  # who asks for weights of the epoch before learns that it is over
        self.supply = Supply(stage, config, state, kept)
        self.rewards = self.reward_pool(config, self.say)
        self.packed, self.parcels = {}, {}
        self.drivers = [asyncio.create_task(self._drive(slot)) for slot in self.pool.slots]
        self.drivers.append(asyncio.create_task(self._watch_nodes()))
        await self._notify(self.arrived)  # who waits for windows of the epoch before learns that it is over
        return self.epoch

    def _new_shelf(self) -> WeightShelf:
        return WeightShelf()

    async def publish(self, version: int, source: Any, ticket: str) -> None:
        """Own what the learner offers; actors find it at their next block. The learner does not wait for any actor."""
        supply, shelf = self._begun(), self.shelf
        packed = await shelf.collect(version, source, ticket)
        supply.lineage.publish(version, packed.update)
        self.workload.published(packed)
        await self._wake_one(self.room)

    async def take(self, epoch: int, number: int, role: str, n: int, rank: int, ranks: int) -> list[Parcel]:
        """Rank `rank`'s share of the `number`-th request of an epoch. Asking twice gives the same."""
        plan = await self._plan(epoch, number, role, n)
        if number not in self.parcels:
            self.parcels = {kept: self.parcels[kept] for kept in self.parcels if kept in self.supply.plans}
            self.parcels[number] = [self._repacked(sample) for sample in plan]
        share = n // ranks
        parcels = self.parcels[number][rank * share : (rank + 1) * share]
        self.workload.handed_out(parcels)
        return parcels

    def _repacked(self, sample: Any) -> Parcel:
        """Its bytes and their checksum are those of the actor; what came with a checkpoint is packed now."""
        packed = self.packed.pop((sample.rollout, sample.index), None)
        return wrap(sample) if packed is None else Parcel(take_apart(sample)[0], packed)

    async def _plan(self, epoch: int, number: int, role: str, n: int) -> list[Any]:
        """The whole request, as soon as it can be met."""
        deadline = time.monotonic() + self.config.cluster.timeout_s
        async with self.arrived:
            while True:
                if epoch != self.epoch:
                    raise StageEnded
                plan = self._try(number, role, n)
                if plan is not None:
                    break
                self.awaited.add((role, n))
                await self._wake_one(self.room)  # dropped windows are to be made again
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self.arrived.wait()
                except TimeoutError as error:
                    raise RunFailed(
                        f"no {n} {role} windows within cluster.timeout_s = {self.config.cluster.timeout_s} s: "
                        f"{self.situation()}"
                    ) from error
        await self._wake_one(self.room)
        return plan

    def _try(self, number: int, role: str, n: int) -> list[Any] | None:
        """The request if it can be met. A plan that one rank has is every rank's, whatever has failed since."""
        if number not in self.supply.plans and self.failure is not None:
            raise RunFailed(self.failure)
        try:
            return self.supply.take(number, role, n)
        except RunFailed as stop:
            self.failure = str(stop)  # for the other ranks
            raise

    def _begun(self) -> Supply:
        """The supply. Raises StageEnded in a process that Ray has started again, before the learner begins again."""
        if self.supply is None:
            raise StageEnded
        return self.supply

    async def state(self) -> State:
        """Everything about the supply that a checkpoint needs."""
        return self._begun().state()

    async def metrics(self) -> dict[str, Any]:
        """The supply, and what the pool did since this was last asked."""
        return ({} if self.supply is None else self.supply.metrics()) | self.workload.metrics()

    async def drain_spans(self) -> list[Span]:
        """What the actors, the reward processes and the other ranks did since this was last asked."""
        return await super().drain_spans() + self.rewards.drain_spans()

    async def expose(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of an update at Ray's metrics port."""
        self.ray_metrics.show(metrics)

    async def ledger(self) -> list[dict[str, Any]]:
        """Every window taken since this was last asked."""
        return [] if self.supply is None else self.supply.consumption.ledger()

    def situation(self) -> str:
        """For people, in a line."""
        if self.supply is None:
            return "no stage has begun"
        waiting, pending = self.supply.buffer.depth, len(self.supply.buffer.pending)
        return f"{waiting} windows wait, {pending} are being made, {self.workload.state()}"

    # -- the actors' side -----------------------------------------------------------------------------------------

    async def newer(self, epoch: int, than: int | None, wait_s: float, slot: int) -> tuple[Any] | str | None:
        """A reference to weights newer than version `than`, as soon as there are any; None after `wait_s` without.

        LEAVE to an actor whose node is about to go away. Raises StageEnded for an epoch that is over.
        """
        found = await self.shelf.newer(than, wait_s, lambda: epoch != self.epoch or slot in self.leaving)
        if epoch != self.epoch:
            raise StageEnded
        if slot in self.leaving:
            return LEAVE
        if found is not None:
            self.workload.pulled()
        return found

    # -- keeping the pool busy ------------------------------------------------------------------------------------

    async def _drive(self, slot: int) -> None:
        """Keep one actor busy, as long as the buffer has room and the stage asks for more."""
        try:
            while True:
                dispatch = await self._next_dispatch()
                await self._make(slot, dispatch)
        except StageEnded:
            return
        except Exception as error:  # hand it to the learner, who stops the run with it
            _log.exception("rollout pool failed")
            self.failure = str(error) if isinstance(error, RunFailed) else f"rollout actor {slot} failed: {error}"
            await self._notify(self.arrived)

    async def _next_dispatch(self) -> Dispatch:
        """The next dispatch, once there is room for all its windows and weights to make them with."""
        async with self.room:
            while True:
                if self.stage == "ode" or self.shelf.version is not None:
                    dispatch = self.supply.next()
                    if dispatch is not None:
                        self.room.notify()  # there may be more
                        return dispatch
                await self.room.wait()

    async def _make(self, slot: int, dispatch: Dispatch) -> None:
        """Have one dispatch made; what is missing at the end is given back for another actor to make."""
        self.workload.busy(slot)
        afresh = False
        try:
            async for delivery in self.pool.stream(slot, self.stage, self.stage_config, self.epoch, dispatch):
                await self._receive(slot, dispatch, delivery)
                if delivery.spans and self.workload.too_slow(slot, self.config.cluster.slow_factor):
                    raise ActorLost("is slower than the pool's median by more than cluster.slow_factor")
            if slot in self.leaving or self.supply.missing(dispatch):
                self._replace(slot, "left")
        except ActorLost as loss:
            self._replace(slot, str(loss))
        except BadWindow as bad:
            self.say(f"rollout actor {slot}: {bad}; refused, and the actor replaced")
            self._replace(slot, f"made a bad window ({bad.reason})")
            self.supply.refuse(bad)
            afresh = True
        finally:
            self.workload.idle(slot)
        self.supply.give_back(dispatch, afresh)
        if dispatch.lost >= _LOST_IN_A_ROW:
            raise RunFailed(f"{dispatch.lost} processes in a row were lost on {[r.id for r in dispatch.rollouts]}")
        await self._wake_one(self.room)

    async def _receive(self, slot: int, dispatch: Dispatch, delivery: Delivery) -> None:
        parcel = delivery.parcel
        try:
            small = parcel.tensors.nbytes <= _INLINE_BYTES
            item = unwrap(parcel) if small else await asyncio.to_thread(unwrap, parcel)
        except ChecksumMismatch as error:
            raise BadWindow("checksum", str(error)) from error
        self.spans += delivery.spans
        self.workload.received(slot, delivery)
        self.supply.inspect(dispatch, item)
        if isinstance(item, Group):
            item = await self.rewards.score(item, parcel, self.supply.reference(dispatch, item))
        self.supply.keep(dispatch, item)
        if isinstance(item, Window | Group | Trajectory):
            self.packed[item.rollout, item.index] = parcel.tensors
        if any(self.supply.buffer.complete(*plan) for plan in self.awaited):
            self.awaited.clear()  # who finds another rank's plan says again what it waits for
            await self._notify(self.arrived)

    def _replace(self, slot: int, why: str) -> None:
        self.say(f"rollout actor {slot} {why}; another takes its place")
        self.workload.lost(slot, why)
        self.leaving.discard(slot)
        self.pool.replace(slot)

    async def _watch_nodes(self) -> None:
        """Ask actors on draining nodes to leave at their next block."""
        while True:
            try:
                leaving = await asyncio.to_thread(self.pool.draining)
            except (RayError, RuntimeError, OSError) as error:  # the head is busy or away: the next answer counts
                self.say(f"cannot ask which nodes are draining: {error}")
                leaving = set()
            for slot in leaving - self.leaving:
                self.say(f"the node of rollout actor {slot} is draining")
                self.leaving.add(slot)
                if not self.workload.at_work(slot):
                    self._replace(slot, "had nothing to finish there")
            self.shelf.wake()
            await asyncio.sleep(_DRAIN_POLL_S)

    @staticmethod
    async def _notify(condition: asyncio.Condition) -> None:
        async with condition:
            condition.notify_all()

    @staticmethod
    async def _wake_one(condition: asyncio.Condition) -> None:
        """For waiters that wake the next one when there is more: a thousand woken at once would mostly find nothing."""
        async with condition:
            condition.notify()
