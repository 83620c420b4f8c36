"""The actor between learner and rollout pool: it owns the buffer and the weights, and keeps the pool busy."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import ray
from ray.exceptions import ObjectLostError, RayActorError

from cluster.buffer import WindowBuffer
from cluster.config import Config
from cluster.crew import make_dispatcher
from cluster.rollout_process import RolloutProcess, StageEnded
from cluster.weights import PackedWeights
from models.rollout import Rollout, Trajectory, Window

_ATTEMPTS = 5
"""Times a rollout is asked for before the run stops: more deaths in a row are no accident."""

_log = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=0)
class Coordinator:
    """One per run. All methods are asynchronous and run in one event loop: no locks around plain state."""

    def __init__(self, config: Config):
        self.config = config
        self.buffer = WindowBuffer(config.cluster.buffer_windows, config.seed)
        self.changed = asyncio.Condition()
        self.epoch = 0
        self.weights: tuple[int, ray.ObjectRef] | None = None
        self.failure: str | None = None
        self.reason: str | None = None
        self.shown: tuple[str, int, int, str] | None = None
        self.waited_s = 0.0
        self.deaths = 0
        self.drivers: list[asyncio.Task] = []
        me = ray.get_runtime_context().current_actor
        self.actors = [self._new_actor(me) for _ in range(config.cluster.rollout_actors)]
        self.begun: list[int | None] = [None] * len(self.actors)

    async def begin(self, stage: str, config: Config, next_rollout: int = 0) -> None:
        """Supply `stage` from rollout `next_rollout` on; what is left of the stage before is cancelled."""
        for driver in self.drivers:
            driver.cancel()
        await asyncio.gather(*self.drivers, return_exceptions=True)
        self.epoch += 1
        self.stage, self.stage_config, self.next_rollout = stage, config, next_rollout
        self.weights = None
        self.buffer.cancel()
        self.dispatcher = make_dispatcher(stage, config)
        self.drivers = [asyncio.create_task(self._drive(slot)) for slot in range(len(self.actors))]

    async def publish(self, packed: PackedWeights) -> None:
        """Own the newest weights; actors find them at their next block. The learner does not wait for any actor."""
        self.weights = (packed.version, ray.put(packed))
        await self._notify()

    async def newer(self, epoch: int, than: int | None) -> tuple[ray.ObjectRef] | None:
        """For actors: a reference to weights newer than version `than`, if there are any."""
        if epoch != self.epoch:
            raise StageEnded
        if self.weights is None or (than is not None and self.weights[0] <= than):
            return None
        return (self.weights[1],)

    async def take(self, role: str, n: int) -> Sequence[Window | Trajectory]:
        """`n` samples of a role, as soon as there are so many. Raises when the pool has failed or the time is over."""
        started = time.monotonic()
        async with self.changed:
            try:
                await asyncio.wait_for(self._until_ready(role, n), self.config.cluster.timeout_s)
            except TimeoutError as error:
                raise RuntimeError(
                    f"no {n} {role} windows within cluster.timeout_s = {self.config.cluster.timeout_s} s: "
                    f"{self.buffer.depth} wait, {len(self.buffer.pending)} are being made"
                ) from error
            taken, self.taken = self.taken, None
            self.changed.notify_all()  # there is room again
        self.waited_s += time.monotonic() - started
        return taken

    async def _until_ready(self, role: str, n: int) -> None:
        while True:
            if self.failure is not None:
                raise RuntimeError(self.failure)
            self.taken = self.buffer.take(role, n)
            if self.taken is not None:
                return
            await self.changed.wait()

    async def position(self) -> dict[str, int]:
        """Where the supply stands, for a checkpoint."""
        return {"next_rollout": self.next_rollout}

    async def metrics(self) -> dict[str, object]:
        """The state of the supply."""
        return {"cluster/waited_s": self.waited_s, "cluster/actor_deaths": self.deaths} | self.buffer.metrics()

    async def show(self, stage: str, step: int, steps: int, line: str) -> None:
        """The learner's progress, kept for whoever displays it."""
        self.shown = (stage, step, steps, line)

    async def shown_last(self) -> tuple[str, int, int, str] | None:
        """For the display."""
        return self.shown

    async def stopped(self, reason: str) -> None:
        """Why the learner stopped the run on purpose."""
        self.reason = reason

    async def stop_reason(self) -> str | None:
        """For the driver."""
        return self.reason

    def _new_actor(self, me: ray.actor.ActorHandle) -> ray.actor.ActorHandle:
        return RolloutProcess.remote(me, self.config.cluster.threads)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _drive(self, slot: int) -> None:
        """Keep one actor busy, as long as the buffer has room and the stage asks for more."""
        try:
            while rollouts := await self._dispatch():
                await self._collect(slot, rollouts)
        except StageEnded:
            return
        except Exception as error:  # hand it to the learner, who stops the run with it
            _log.exception("rollout pool failed")
            self.failure = f"rollout actor {slot} failed: {error}"
            await self._notify()

    async def _dispatch(self) -> list[Rollout]:
        """The next rollouts, once there is room for all their windows and weights to make them with."""
        async with self.changed:
            while True:
                rollouts = self.dispatcher.rollouts(self.next_rollout)
                if self.buffer.has_room(rollouts) and (self.stage == "ode" or self.weights is not None):
                    break
                await self.changed.wait()
            if rollouts:
                self.next_rollout += len(rollouts)
                self.buffer.expect(rollouts)
        return rollouts

    async def _collect(self, slot: int, rollouts: list[Rollout]) -> None:
        """Buffer the windows of `rollouts`; after a death ask another process for those that are missing."""
        for attempt in range(_ATTEMPTS):
            tried = [replace(rollout, attempt=attempt) for rollout in rollouts]
            try:
                await self._ready(slot)
                stream = self.actors[slot].windows.options(num_returns="streaming").remote(tried)
                async for reference in stream:
                    sample = await reference
                    if (sample.rollout, sample.index) in self.buffer.pending:
                        self.buffer.put(sample)
                        await self._notify()
                return
            except (RayActorError, ObjectLostError):
                self.deaths += 1
                _log.warning("rollout actor %d or what it made was lost; starting another", slot)
                self.actors[slot] = self._new_actor(ray.get_runtime_context().current_actor)
                self.begun[slot] = None
        raise RuntimeError(f"{_ATTEMPTS} processes died on rollouts {[rollout.id for rollout in rollouts]}")

    async def _ready(self, slot: int) -> None:
        """Tell an actor which stage it supplies, once."""
        if self.begun[slot] != self.epoch:
            await self.actors[slot].begin.remote(self.stage, self.stage_config, self.epoch)
            self.begun[slot] = self.epoch
