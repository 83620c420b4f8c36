"""The actor between learner and rollout pool: it owns the supply and the weights, and keeps the pool busy."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import ray

from cluster.autoscale.loop import Autoscaling, Look
from cluster.autoscale.meter import Meter
from cluster.config.run_config import Config
from cluster.errors import Leaving, RunFailed, StageEnded
from cluster.pool.prometheus import RayMetrics
from cluster.pool.ray_pool import Pool, RayPool
from cluster.pool.reward_pool import RewardPool
from cluster.pool.rollout_process import Delivery
from cluster.pool.slots import Slot, Slots
from cluster.pool.supervisor import StageWork, Supervisor
from cluster.pool.workload import Workload
from cluster.runs.factory import make_supply
from cluster.runs.trace import Reading, Span
from cluster.supply.dispatch import Dispatch
from cluster.supply.supply import State, Supply
from cluster.supply.tensor_bytes import ChecksumMismatch, PackedTensors
from cluster.supply.validation import BadWindow, inspect_values
from cluster.supply.wire import Item, Parcel, take_apart, unwrap, wrap
from cluster.weights.object_store import WeightStore
from models.records import Group, Trajectory, Window

_INLINE_BYTES = 2**17
"""Up to here reading a delivery (about 1 GB/s) takes less than the way to a thread and back (0.1 ms)."""


_log = logging.getLogger(__name__)


class Coordinator:
    """Supplies the learner with windows: one per run, in a process of its own.

    All methods are asynchronous and run in one event loop: no locks around plain state. When its process is lost Ray
    starts it again, empty; the learner then begins again from its checkpoint.

    It wires the parts, which know nothing of it: Slots (states of the pool), Supervisor (drivers), Meter and Workload
    (numbers), Autoscaling (size), WeightStore, RewardPool, and the Supply of the stage.
    """

    def __init__(self, config: Config, pool: Pool | None = None, reward_pool: Callable[..., RewardPool] = RewardPool):
        """`reward_pool` makes the reward pool of a stage, as RewardPool does."""
        self.config, cluster = config, config.cluster
        self.pool = pool or RayPool(config, ray.get_runtime_context().current_actor)
        self.reason: Exception | None = None
        self.shown: tuple[str, int, int, str] | None = None
        self.news: deque[str] = deque(maxlen=1000)
        self.spans: list[Span | Reading] = []
        self.ray_metrics = RayMetrics()
        self.meter = Meter(config.autoscale.measured_s, scorers=cluster.reward_actors)
        self.slots = Slots(self.pool, self.meter, cluster.rollout_prefers, self.say)
        self.workload = Workload(self.slots, self.meter)
        self.supervisor = Supervisor(self.pool, self.slots, cluster.slow_factor, self.say, self._fail)
        self.autoscaling = Autoscaling(config, self.meter) if config.autoscale.enabled else None
        self.arrived = asyncio.Condition()
        """Notified when windows may be complete that ranks wait for."""
        self.failure: str | None = None
        """Why the learner must stop the run."""
        self.supply, self.epoch, self.weights = None, 0, WeightStore()
        self.packed: dict[tuple[int, int], PackedTensors] = {}
        """By rollout and window: the bytes of what waits, as they came."""
        self.parcels: dict[int, list[Parcel]] = {}
        """By number of the request: what the ranks get."""
        self.awaited: set[tuple[str, int]] = set()
        """Plans that ranks wait for: role and number of windows."""
        self.reward_pool = reward_pool
        self.rewards = reward_pool(config, self.say)

    # -- the learner's side ---------------------------------------------------------------------------------------

    async def begin(self, stage: str, config: Config, state: State | None = None, kept: Collection[int] = ()) -> int:
        """Supply `stage`, from a checkpoint's state if there is one; returns the epoch that takes must name."""
        await self.supervisor.stop()
        if self.supply is not None and (given_up := self.supply.buffer.cancel()):
            self.news.append(f"{given_up} windows of stage {self.stage} were given up with it")
        self.epoch += 1
        self.stage, self.failure = stage, None
        before, self.weights = self.weights, WeightStore()
        before.wake()  # who asks for weights of the epoch before learns that it is over
        self.supply = make_supply(stage, config, state, kept)
        self.rewards = self.reward_pool(config, self.say)
        self.packed, self.parcels = {}, {}
        self._start_drivers(stage, config)
        self._fit_rewards()
        await self._wake_ranks()  # ranks that wait for windows of the epoch before learn that it is over
        return self.epoch

    def _start_drivers(self, stage: str, config: Config) -> None:
        epoch = self.epoch
        self.slots.settle()
        self.meter.begin(config.samples_per_update(stage))
        self.supervisor.begin(
            StageWork(
                self.supply,
                self.weights,
                needs_weights=stage != "ode",
                begin=lambda slot: self.pool.begin(slot, stage, config, epoch),
                stream=lambda slot, dispatch: self.pool.stream(slot, stage, config, epoch, dispatch),
                receive=self._receive,
            )
        )
        if self.autoscaling is not None:
            self.autoscaling.begin()
            watch = (self.supply.buffer, stage, lambda: len(self.slots.wanted), self.resize, self._note_look)
            self.supervisor.start("autoscale", self.autoscaling.run, *watch)

    def _note_look(self, look: Look) -> None:
        if look.told is not None:
            self.say(look.told)
        self.spans += look.readings
        self.ray_metrics.show(self.autoscaling.metrics)

    async def resize(self, size: int) -> None:
        """Resize the rollout pool, see Supervisor; the reward processes follow it."""
        await self.supervisor.resize(size)
        self._fit_rewards()

    def _fit_rewards(self) -> None:
        staying = self.slots.wanted
        self.rewards.fit(len(staying), {slot.place.node for slot in staying if slot.place is not None})

    async def publish(self, version: int, source: Any) -> None:
        """Own what the learner offers; actors find it at their next block. The learner does not wait for any actor."""
        supply, store = self._begun(), self.weights
        weights = await store.collect(version, source)
        supply.versions.publish(version, weights.update)
        self.workload.published(weights)
        await self.supervisor.wake()

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
                known = number in self.supply.plans
                plan = self._try(number, role, n)
                if plan is not None:
                    self.meter.taken(0 if known else n)
                    break
                self.awaited.add((role, n))
                await self.supervisor.wake()  # dropped windows are to be made again
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        with self.meter.timed("waiting"):
                            await self.arrived.wait()
                except TimeoutError as error:
                    raise RunFailed(
                        f"no {n} {role} windows within cluster.timeout_s = {self.config.cluster.timeout_s} s: "
                        f"{self.situation()}"
                    ) from error
        await self.supervisor.wake()
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
        sized = {} if self.autoscaling is None else self.autoscaling.metrics
        return ({} if self.supply is None else self.supply.metrics()) | self.workload.metrics() | sized

    async def drain_spans(self) -> list[Span | Reading]:
        """What the actors, the reward processes and the other ranks did since this was last asked."""
        spans, self.spans = self.spans, []
        return spans + self.rewards.drain_spans()

    async def expose(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of an update at Ray's metrics port."""
        self.ray_metrics.show(metrics)

    async def ledger(self) -> list[dict[str, Any]]:
        """Every window taken since this was last asked."""
        return [] if self.supply is None else self.supply.ledger.drain()

    def situation(self) -> str:
        """For people, in a line."""
        if self.supply is None:
            return "no stage has begun"
        waiting, pending = self.supply.buffer.depth, len(self.supply.buffer.pending)
        return f"{waiting} windows wait, {pending} are being made, {self.workload.state()}"

    # -- the actors' side -----------------------------------------------------------------------------------------

    async def newer(self, epoch: int, than: int | None, wait_s: float, slot: int) -> tuple[Any] | None:
        """A reference to weights newer than version `than`, as soon as there are any; None after `wait_s` without.

        Raises Leaving for an actor that must go, and StageEnded for an epoch that is over.
        """

        def leaving() -> bool:
            return slot in self.slots.by_number and self.slots.by_number[slot].leaving

        reference = await self.weights.newer(than, wait_s, lambda: epoch != self.epoch or leaving())
        if epoch != self.epoch:
            raise StageEnded
        if leaving():
            self.slots.by_number[slot].informed = True
            raise Leaving
        if reference is not None:
            self.workload.pulled()
        return reference

    # -- what comes of it -----------------------------------------------------------------------------------------

    async def _receive(self, slot: Slot, dispatch: Dispatch, delivery: Delivery) -> None:
        parcel = delivery.parcel
        small = parcel.tensors.nbytes <= _INLINE_BYTES
        item = _opened(parcel) if small else await asyncio.to_thread(_opened, parcel)
        self.spans += delivery.spans
        self.workload.received(delivery)
        self.slots.received(slot, [span.duration_s for span in delivery.spans if span.name == "block"])
        self.supply.inspect(dispatch, item)
        if isinstance(item, Group):
            with self.meter.timed("scoring"):
                item = await self.rewards.score(item, parcel, self.supply.reference(dispatch, item))
        self.supply.keep(dispatch, item)
        if isinstance(item, Window | Group | Trajectory):
            self.packed[item.rollout, item.index] = parcel.tensors
        if any(self.supply.buffer.complete(*plan) for plan in self.awaited):
            self.awaited.clear()  # who finds another rank's plan says again what it waits for
            await self._wake_ranks()

    async def _fail(self, reason: str) -> None:
        self.failure = reason
        await self._wake_ranks()

    async def _wake_ranks(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    # -- the driver's side ----------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Log a line, and keep it for the driver's terminal."""
        _log.warning(line)
        self.news.append(line)

    async def tell(self, line: str) -> None:
        """Keep a line of another process for the driver's terminal."""
        self.news.append(line)

    async def show(self, stage: str, step: int, steps: int, line: str) -> None:
        """Keep the learner's progress for the display."""
        self.shown = (stage, step, steps, line)

    async def look(self) -> tuple[tuple[str, int, int, str] | None, list[str], str]:
        """Return the learner's last progress, news since the last look, and the state in words, for the display."""
        news = list(self.news)
        self.news.clear()
        return self.shown, news, self.situation()

    async def stopped(self, reason: Exception) -> None:
        """Keep why the learner stopped the run."""
        self.reason = reason

    async def stop_reason(self) -> Exception | None:
        """Return why the run stopped itself, if it did."""
        return self.reason

    async def keep_spans(self, spans: list[Span]) -> None:
        """Keep the spans of another rank than 0."""
        self.spans += spans

    async def clock(self) -> float:
        """Return this machine's time, in which every span is given."""
        return time.time()


def _opened(parcel: Parcel) -> Item:
    """What is in it: everything that reads all of its bytes. Raises BadWindow."""
    try:
        item = unwrap(parcel)
    except ChecksumMismatch as error:
        raise BadWindow("checksum", str(error)) from error
    inspect_values(item)
    return item
