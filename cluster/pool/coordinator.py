"""Connect learner and rollout pool: one process owns supply and weights, and keeps the pool busy."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import ray

from cluster.autoscale.loop import Autoscaling, Look
from cluster.autoscale.meter import Meter
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.planning import placement
from cluster.planning.run_shape import RunShape
from cluster.pool.learner_progress import LearnerProgress, Shown
from cluster.pool.prometheus import RayMetrics
from cluster.pool.ray_pool import ActorLost, RayPool
from cluster.pool.reward_pool import RewardPool
from cluster.pool.rollout_process import Delivery
from cluster.pool.slots import Slot, Slots
from cluster.pool.supervisor import StageWork, Supervisor
from cluster.pool.training_evaluation import TrainingEvaluation
from cluster.pool.workload import Workload
from cluster.run_errors import Leaving, RunFailed, StageEnded
from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import StageSpec
from cluster.runs.trace import Reading, Span
from cluster.supply.dispatch import Dispatch
from cluster.supply.supply import Attempt
from cluster.supply.supply_state import SupplyState
from cluster.supply.wire import BadWindow, Header
from cluster.weights.object_store import WeightStore

_log = logging.getLogger(__name__)


class Coordinator:
    """Supplies the learner with windows: one per run, in a process of its own.

    All methods run in one event loop: no locks around plain state. Ray restarts a lost process of it, empty; the
    learner then begins again from its checkpoint. It wires the parts, which have no reference to it: Slots (states),
    Supervisor (drivers), Meter and Workload (numbers), Autoscaling (size), WeightStore, RewardPool, Supply and
    TrainingEvaluation.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        autoscale: AutoscaleConfig,
        run_dir: str,
        pool: RayPool | None = None,
        reward_pool: Callable[..., RewardPool] = RewardPool,
        work: RunShape | None = None,
    ):
        """Wire the parts; `reward_pool` builds the reward pool of a stage, as RewardPool does; `work`: see RayPool."""
        self.cluster, self.pool = cluster, pool or RayPool(cluster, ray.get_runtime_context().current_actor, work)
        self.reason: Exception | None = None
        self.learner = LearnerProgress()
        self.news: deque[str] = deque(maxlen=1000)
        self.spans: list[Span | Reading] = []
        self.ray_metrics = RayMetrics()
        self.meter = Meter(autoscale.measured_s, scorers=cluster.reward_actors)
        self.slots = Slots(self.pool, self.meter, cluster.rollout_prefers, self.say)
        self.workload = Workload(self.slots, self.meter)
        self.supervisor = Supervisor(self.pool, self.slots, self.say, self._fail)
        self.autoscaling = None
        if autoscale.enabled:
            actors_per_gpu = placement.processes_per_gpu(placement.rollout(cluster))
            learner_cost = cluster.learner_ranks * (cluster.rank_gpus * actors_per_gpu or 1)
            self.autoscaling = Autoscaling(autoscale, self.meter, run_dir, learner_cost)
        self.arrived = asyncio.Condition()  # notified when a plan that ranks wait for may be complete
        self.failure: str | None = None  # reason for which the learner must stop the run
        self.supply, self.epoch, self.weights = None, 0, WeightStore()
        self.awaited: set[tuple[str, int]] = set()  # plans that ranks wait for: role and number of windows
        self.reward_pool, self.rewards = reward_pool, None
        self.evaluation = TrainingEvaluation(cluster, self.say)

    # -- the learner's side ---------------------------------------------------------------------------------------

    async def begin(self, spec: StageSpec, state: SupplyState | None = None, kept: Collection[int] = ()) -> int:
        """Start supplying a stage, from a checkpoint's state if given; returns the epoch for `take`."""
        await self.supervisor.stop()
        if self.supply is not None and (given_up := self.supply.buffer.cancel()):
            self.news.append(f"stage {self.stage} has ended; its {given_up} unused windows are dropped")
        self.epoch += 1
        self.stage, self.failure = spec.name, None
        before, self.weights = self.weights, WeightStore()
        before.wake()  # actors that wait for weights of the epoch before learn that it is over
        self.supply = make_supply(spec, state, kept)
        self.rewards = self.reward_pool(self.cluster, spec.scorer, self.say)
        self.slots.settle()
        self.meter.begin(spec.samples_per_update)
        self.supervisor.begin(
            StageWork(
                self.supply,
                self.weights,
                needs_weights=spec.name != "ode",
                begin=lambda slot: self.pool.begin(slot, spec.actor, self.epoch),
                make=lambda slot, dispatch: self._collect(
                    slot, dispatch, self.pool.stream(slot.number, self.epoch, dispatch)
                ),
            )
        )
        if self.autoscaling is not None:
            self.autoscaling.begin()
            looked_at = self.supply.buffer, spec.name, lambda: len(self.slots.without_retiring)
            self.supervisor.start("autoscale", self.autoscaling.run, *looked_at, self.resize, self._note_look)
        self._fit_rewards()
        self.evaluation.begin(spec.evaluation)
        await self._wake_ranks()  # ranks that wait for windows of the epoch before learn that it is over
        return self.epoch

    def _note_look(self, look: Look) -> None:
        if look.line is not None:
            self.say(look.line)
        self.spans += look.readings
        self.ray_metrics.show(self.autoscaling.metrics)

    async def resize(self, size: int) -> None:
        """Resize the rollout pool (see Supervisor), and the reward pool with it."""
        await self.supervisor.resize(size)
        self._fit_rewards()

    def _fit_rewards(self) -> None:
        staying = self.slots.without_retiring
        self.rewards.fit(len(staying), {slot.place.node for slot in staying if slot.place is not None})

    async def publish(self, epoch: int, version: int, update: int, source: Any) -> None:
        """Collect a version from the learner, without waiting for any actor to load it."""
        if epoch != self.epoch:  # a lost learner's call, or Ray has restarted this process
            raise StageEnded
        self.supply.versions.publish(version, update)  # first: the learner's next take counts the ages with it
        weights = await (store := self.weights).collect(version, source)
        if epoch == self.epoch:
            self.evaluation.offer(update, store.reference)
        self.workload.versions += 1
        self.workload.weight_bytes = sum(tensor.nbytes for tensor in weights.tensors.values())
        await self.supervisor.wake()

    async def take(self, epoch: int, number: int, role: str, n: int, rank: int, ranks: int) -> list[Header]:
        """Return a rank's share of the `number`-th request of an epoch, once all its samples exist.

        A repeated call gives the same. The rank opens the payloads, passes bad ones to `withdraw`, and calls again.
        """
        timeout_s = self.cluster.timeout_s
        deadline = time.monotonic() + timeout_s
        async with self.arrived:
            while True:
                if epoch != self.epoch:
                    raise StageEnded
                planned = number in self.supply.plans
                if not planned and self.failure is not None:
                    raise RunFailed(self.failure)  # a plan that one rank has goes to every rank, despite a failure
                try:
                    plan = self.supply.take(number, role, n)
                except RunFailed as stop:
                    self.failure = str(stop)  # for the other ranks
                    raise
                if plan is not None:
                    self.meter.take(0 if planned else n)
                    break
                self.awaited.add((role, n))
                await self.supervisor.wake()  # an idle actor makes dropped windows again
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        with self.meter.time("waiting"):
                            await self.arrived.wait()
                except TimeoutError as error:
                    raise RunFailed(
                        f"no {n} {role} windows within cluster.timeout_s = {timeout_s} s: {self.situation()}"
                    ) from error
        await self.supervisor.wake()
        share = n // ranks
        headers = plan[rank * share : (rank + 1) * share]
        self.workload.bytes_out += sum(header.nbytes for header in headers)
        return headers

    async def withdraw(self, epoch: int, number: int, bad: Mapping[Attempt, BadWindow]) -> None:
        """Request again the samples that a rank could not open. Raises TooManyBad."""
        if epoch != self.epoch:
            raise StageEnded
        for reason in bad.values():
            self.say(f"{reason}; it is made again")
        try:
            self.meter.take(-self.supply.withdraw(number, bad))
        except RunFailed as stop:
            self.failure = str(stop)  # for the other ranks
            raise
        await self.supervisor.wake()

    async def state(self) -> SupplyState:
        """Return the supply's state for a checkpoint, with the payloads of waiting samples by reference."""
        if self.supply is None:
            raise StageEnded
        return self.supply.state()

    async def metrics(self) -> dict[str, Any]:
        """Return the metrics of the supply, and of the pool since the last call."""
        sized = {} if self.autoscaling is None else self.autoscaling.metrics
        supplied = {} if self.supply is None else self.supply.metrics()
        return supplied | self.workload.metrics() | sized | self.evaluation.metrics()

    async def report(self, metrics: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Span | Reading]]:
        """Show an update's metrics at Ray's metrics port; return windows taken and spans since the last call."""
        self.ray_metrics.show(metrics)
        spans, self.spans = self.spans + ([] if self.rewards is None else self.rewards.drain_spans()), []
        return [] if self.supply is None else self.supply.ledger.drain(), spans

    def situation(self) -> str:
        """Describe learner, supply and pool in a line, for the terminal."""
        if self.supply is None:
            return self.learner.state()
        waiting, pending = self.supply.buffer.depth, len(self.supply.buffer.pending)
        return f"{self.learner.state()}; {waiting} windows wait, {pending} are being made, {self.workload.state()}"

    # -- the actors' side -----------------------------------------------------------------------------------------

    async def newer(self, epoch: int, than: int | None, wait_s: float, slot: int) -> tuple[Any] | None:
        """Return a reference to weights newer than version `than`, once they exist; None after `wait_s`.

        Raises Leaving for an actor that must leave, and StageEnded for an epoch that has ended.
        """
        # Numbers are never used again, so an unknown slot stays unknown.
        asker = self.slots.by_number.get(slot, Slot(slot))
        reference = await self.weights.newer(than, wait_s, lambda: epoch != self.epoch or asker.leaving)
        if epoch != self.epoch:
            raise StageEnded
        if asker.leaving:
            asker.informed = True
            raise Leaving
        if reference is not None:
            self.workload.pulls += 1
        return reference

    async def _collect(self, slot: Slot, dispatch: Dispatch, deliveries: AsyncIterator[Delivery]) -> None:
        """Validate, score and keep the deliveries of a rollout process. Raises ActorLost and BadWindow."""
        async for delivery in deliveries:
            header = delivery.header
            self.spans += delivery.spans
            self.workload.receive(delivery)
            self.slots.receive(slot, [span.duration_s for span in delivery.spans if span.name == "block"])
            self.supply.validate(dispatch, header)
            if header.kind == "Group":
                with self.meter.time("scoring"):
                    header = await self.rewards.score(header, self.supply.reference(dispatch, header))
            self.supply.keep(dispatch, header)
            if any(self.supply.buffer.complete(*plan) for plan in self.awaited):
                self.awaited.clear()  # a rank whose plan is still incomplete adds it again
                await self._wake_ranks()
            self.slots.accept(slot, header.kind)
            if delivery.spans and self.slots.too_slow(slot, self.cluster.slow_factor):
                raise ActorLost("is slower than the pool's median by more than cluster.slow_factor")

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

    async def show(self, phase: str, shown: Shown | None = None) -> None:
        """Keep the work that the learner begins, and its progress if there is any, for the display."""
        self.learner.note(phase, shown)

    async def look(self) -> tuple[Shown | None, list[str], str]:
        """Return the learner's last progress, news since the last look, and the state in words, for the display."""
        news = list(self.news)
        self.news.clear()
        return self.learner.shown, news, self.situation()

    async def stopped(self, reason: Exception) -> None:
        """Keep the reason for which the learner stopped the run."""
        self.reason = reason

    async def stop_reason(self) -> Exception | None:
        """Return the reason for which the run stopped itself, or None."""
        return self.reason

    async def keep_spans(self, spans: list[Span]) -> None:
        """Keep the spans of another rank than 0."""
        self.spans += spans

    async def clock(self) -> float:
        """Return this machine's time, the clock of every span."""
        return time.time()
