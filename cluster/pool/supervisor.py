"""The coordinator's part that keeps rollout processes at work: one driver for every slot of the pool."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import RayError

from cluster.autoscale.loop import FILE, Autoscaling
from cluster.config.run_config import Config
from cluster.errors import RunFailed, StageEnded
from cluster.pool.prometheus import RayMetrics
from cluster.pool.ray_pool import ActorLost, NoNode, Pool, Superseded
from cluster.pool.rollout_process import Delivery
from cluster.pool.slots import RECALLED, Roster
from cluster.supply.dispatch import Dispatch
from cluster.supply.supply import Supply
from cluster.supply.validation import BadWindow
from cluster.weights.object_store import WeightStore

_LOST_IN_A_ROW = 5
"""Processes that one dispatch, or one start, may lose without a sign of life in between: more are no accident."""
_POLL_S = 2.0

_log = logging.getLogger(__name__)


class Staffing(Roster):
    """All methods run in the coordinator's event loop.

    A slot's driver takes a dispatch only when its process is there: one that waits for a node holds up nobody.
    """

    weights: WeightStore
    supply: Supply | None
    stage: str
    stage_config: Config
    epoch: int

    def __init__(self, config: Config, pool: Pool):
        super().__init__(config, pool)
        self.autoscaling = Autoscaling(config, self.meter) if config.autoscale.enabled else None
        self.ray_metrics = RayMetrics()
        self.arrived, self.room = asyncio.Condition(), asyncio.Condition()
        self.failure: str | None = None
        self.drivers: list[asyncio.Task] = []

    async def _receive(self, slot: int, dispatch: Dispatch, delivery: Delivery) -> None:
        raise NotImplementedError

    # -- one stage ------------------------------------------------------------------------------------------------

    async def _stop_drivers(self) -> None:
        for driver in self.drivers:
            driver.cancel()
        await asyncio.gather(*self.drivers, return_exceptions=True)
        self.drivers = []

    def _start_drivers(self, windows_per_update: int) -> None:
        self.meter.begin(windows_per_update)
        if self.autoscaling is not None:
            self.autoscaling.begin()
        self._settle()
        for slot in self.pool.slots:
            self._start(f"rollout actor {slot}", self._drive, slot)
        self._start("the watch over the pool", self._watch)
        if self.autoscaling is not None:
            self._start("autoscale", self._autoscale, self.autoscaling)

    def _start(self, name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self.drivers = [driver for driver in self.drivers if not driver.done()]
        self.drivers.append(asyncio.create_task(self._guarded(name, work, *arguments)))

    async def _guarded(self, name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            await work(*arguments)
        except StageEnded:
            return
        except Exception as error:  # hand it to the learner, who stops the run with it
            _log.exception("rollout pool failed")
            self.failure = str(error) if isinstance(error, RunFailed) else f"{name} failed: {error}"
            await self._notify(self.arrived)

    # -- one slot -------------------------------------------------------------------------------------------------

    async def _drive(self, slot: int) -> None:
        """Keep one actor busy, as long as it is wanted, the buffer has room and the stage asks for more."""
        while slot in self.pool.slots:
            await self._have_begun(slot)
            dispatch = await self._next_dispatch(slot)
            if dispatch is not None:
                await self._make(slot, dispatch)

    async def _have_begun(self, slot: int) -> None:
        """Wait until the slot's process supplies the stage, however often it takes another one."""
        in_vain, asked_s = 0, self.meter.clock()
        while slot in self.pool.slots and slot not in self.meter.running:
            self.workload.starting(slot)
            try:
                if slot not in self.places:
                    self._placed(slot, await self.pool.place(slot))
                await self.pool.begin(slot, self.stage, self.stage_config, self.epoch)
                self.meter.there(slot)
            except Superseded:
                continue
            except NoNode as none:
                waited_s = self.meter.clock() - asked_s
                self._ask_again(slot, f"{none} ({waited_s:.0f} s so far)")
                in_vain += not self.meter.running  # while others work it may wait
                if in_vain >= _LOST_IN_A_ROW:
                    raise RunFailed(
                        f"rollout actor {slot} {none}, nor in the {waited_s:.0f} s that it has waited, and no other is "
                        "at work; add nodes, or see who uses those that are there"
                    ) from none
            except ActorLost as loss:
                self._replace(slot, str(loss))
                if slot not in self.pool.slots:
                    return
                in_vain, asked_s = in_vain + 1, self.meter.clock()
                if in_vain >= _LOST_IN_A_ROW:
                    raise RunFailed(
                        f"{in_vain} processes in a row were lost as they started: the last one {loss}"
                    ) from loss
            finally:
                self.workload.idle(slot)

    async def _next_dispatch(self, slot: int) -> Dispatch | None:
        """The next dispatch, once there is room for all its windows and weights to make them with.

        None if the slot's process is gone, or has been replaced.
        """
        async with self.room:
            while slot in self.meter.running:
                if self.stage != "ode" and self.weights.version is None:
                    await self.room.wait()
                    continue
                dispatch = self.supply.next()
                if dispatch is not None:
                    self.room.notify()  # there may be more
                    return dispatch
                with self.meter.finds_no_room():
                    await self.room.wait()
            self.room.notify()  # what woke this one is for another
        return None

    async def _make(self, slot: int, dispatch: Dispatch) -> None:
        """Have one dispatch made; what is missing at the end is given back for another actor to make."""
        windows = sum(len(rollout.windows) for rollout in dispatch.rollouts)
        self.meter.begins(slot, windows, warm=slot in self.workload.running)
        self.workload.busy(slot)
        afresh = False
        try:
            async for delivery in self.pool.stream(slot, self.stage, self.stage_config, self.epoch, dispatch):
                await self._receive(slot, dispatch, delivery)
                self.meter.delivers(slot, delivery.parcel.plain["kind"])
                if delivery.spans and self.workload.too_slow(slot, self.config.cluster.slow_factor):
                    raise ActorLost("is slower than the pool's median by more than cluster.slow_factor")
            if self.leaving.get(slot) == RECALLED:
                self._begins_anew(slot)
            elif slot in self.leaving or self.supply.missing(dispatch):
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
            self.meter.ends(slot)
        self.supply.give_back(dispatch, afresh)
        if dispatch.lost >= _LOST_IN_A_ROW:
            raise RunFailed(f"{dispatch.lost} processes in a row were lost on {[r.id for r in dispatch.rollouts]}")
        await self._wake_one(self.room)

    # -- the whole pool -------------------------------------------------------------------------------------------

    async def resize(self, size: int) -> None:
        """Ask for more actors, or have some leave.

        Who was to leave is called back before anybody is added: there are never more actors than the larger of both
        sizes. Who waits for a node is given up first, then whole nodes are left, by `departing`; who is at work leaves
        at its next block, and another actor goes on with its videos. No window is lost or made twice by it.
        """
        for slot in self._fit(size):
            self._start(f"rollout actor {slot}", self._drive, slot)
        self.weights.wake()
        await self._notify(self.room)

    async def _autoscale(self, autoscaling: Autoscaling) -> None:
        """Look at the pool again and again, and give it the size that its controller decides."""
        while True:
            await asyncio.sleep(self.config.autoscale.every_s)
            size = len(self.pool.slots) - len(self.retiring)
            look = autoscaling.look(size, self.supply.buffer, self.stage)
            if look.told is not None:
                self.say(look.told)
            self.spans += look.readings
            self.ray_metrics.show(autoscaling.metrics)
            if look.size != size:
                await self.resize(look.size)
            try:
                await asyncio.to_thread(autoscaling.write, look.entry)  # shared storage may hang
            except OSError as error:  # a look that nobody can read later is no reason to stop a run
                self.say(f"{FILE} of the run cannot be written ({error.strerror or error}); the pool goes on")

    async def _watch(self) -> None:
        """Ask actors on draining nodes to leave at their next block; replace those that died with nothing to do."""
        while True:
            try:
                self._clear(await asyncio.to_thread(self.pool.draining))
            except (RayError, RuntimeError, OSError) as error:  # the head is busy or away: the next answer counts
                self.say(f"cannot ask which nodes are draining: {error}")
            for slot in await self.pool.dead(self._idle):
                if slot in self._idle:  # still
                    self._replace(slot, "died with nothing to do")
            self.weights.wake()
            if self.meter.replaced:  # their drivers may still wait for room
                await self._notify(self.room)
            await asyncio.sleep(_POLL_S)

    @staticmethod
    async def _notify(condition: asyncio.Condition) -> None:
        async with condition:
            condition.notify_all()

    @staticmethod
    async def _wake_one(condition: asyncio.Condition) -> None:
        """For waiters that wake the next one when there is more: a thousand woken at once would mostly find nothing."""
        async with condition:
            condition.notify()
