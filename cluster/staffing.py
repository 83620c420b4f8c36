"""The coordinator's part that keeps rollout processes at work: one driver for every slot of the pool."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import RayError

from cluster.autoscaling import FILE, Autoscaling
from cluster.bulletin import Bulletin
from cluster.config import Config
from cluster.errors import RunFailed, StageEnded
from cluster.inspection import BadWindow
from cluster.pace import Pace
from cluster.pool import ActorLost, NotStarted, Pool, Superseded
from cluster.publication import WeightShelf
from cluster.ray_metrics import RayMetrics
from cluster.rollout_process import Delivery
from cluster.supply import Dispatch, Supply
from cluster.workload import Workload

_LOST_IN_A_ROW = 5
"""Processes that one dispatch, or one start, may lose without a sign of life in between: more are no accident."""
_POLL_S = 2.0

_log = logging.getLogger(__name__)


class Staffing(Bulletin):
    """All methods run in the coordinator's event loop.

    A slot's driver takes a dispatch only when its process is there: one that waits for a node holds up nobody.
    """

    shelf: WeightShelf
    supply: Supply | None
    stage: str
    stage_config: Config
    epoch: int

    def __init__(self, config: Config, pool: Pool):
        super().__init__()
        self.config, self.pool = config, pool
        self.workload = Workload(pool.slots)
        self.pace = Pace(config.autoscale.measured_s)
        self.autoscaling = Autoscaling(config, self.pace) if config.autoscale.enabled else None
        self.ray_metrics = RayMetrics()
        self.arrived, self.room = asyncio.Condition(), asyncio.Condition()
        self.leaving: set[int] = set()
        """Slots whose actor goes at its next block: its node drains, or the slot is not wanted any more."""
        self.retiring: set[int] = set()
        """Of these the latter."""
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
        self.pace.begin(windows_per_update)
        if self.autoscaling is not None:
            self.autoscaling.begin()
        for slot in list(self.retiring):
            self._remove(slot)
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
        lost = 0
        while slot in self.pool.slots and slot not in self.pace.running:
            self.workload.starting(slot)
            try:
                await self.pool.begin(slot, self.stage, self.stage_config, self.epoch)
                self.pace.there(slot)
            except Superseded:
                continue
            except ActorLost as loss:
                self._replace(slot, str(loss))
                if slot not in self.pool.slots:
                    return
                # While others work, one without a node may wait for it.
                lost += not (isinstance(loss, NotStarted) and self.pace.running)
                if lost >= _LOST_IN_A_ROW:
                    raise RunFailed(
                        f"{lost} processes in a row were lost as they started: the last one {loss}"
                    ) from loss
            finally:
                self.workload.idle(slot)

    async def _next_dispatch(self, slot: int) -> Dispatch | None:
        """The next dispatch, once there is room for all its windows and weights to make them with.

        None if the slot's process is gone, or has been replaced.
        """
        async with self.room:
            while slot in self.pace.running:
                if self.stage != "ode" and self.shelf.version is None:
                    await self.room.wait()
                    continue
                dispatch = self.supply.next()
                if dispatch is not None:
                    self.room.notify()  # there may be more
                    return dispatch
                with self.pace.finds_no_room():
                    await self.room.wait()
            self.room.notify()  # what woke this one is for another
        return None

    async def _make(self, slot: int, dispatch: Dispatch) -> None:
        """Have one dispatch made; what is missing at the end is given back for another actor to make."""
        windows = sum(len(rollout.windows) for rollout in dispatch.rollouts)
        self.pace.begins(slot, windows, warm=slot in self.workload.running)
        self.workload.busy(slot)
        afresh = False
        try:
            async for delivery in self.pool.stream(slot, self.stage, self.stage_config, self.epoch, dispatch):
                await self._receive(slot, dispatch, delivery)
                self.pace.delivers(slot, delivery.parcel.plain["kind"])
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
            self.pace.ends(slot)
        self.supply.give_back(dispatch, afresh)
        if dispatch.lost >= _LOST_IN_A_ROW:
            raise RunFailed(f"{dispatch.lost} processes in a row were lost on {[r.id for r in dispatch.rollouts]}")
        await self._wake_one(self.room)

    def _replace(self, slot: int, why: str) -> None:
        """End the slot's process. Another takes its place at once, unless the slot is not wanted any more."""
        if slot in self.retiring:
            self._remove(slot)
        elif slot in self.pool.slots:
            self.say(f"rollout actor {slot} {why}; another takes its place")
            self.workload.lost(slot, why)
            self.pace.gone(slot, replaced=True)
            self.leaving.discard(slot)
            self.pool.replace(slot)

    # -- the whole pool -------------------------------------------------------------------------------------------

    async def resize(self, size: int) -> None:
        """Ask for more actors, or have some leave.

        Who waits for a node is given up first, then who waits for room; who is at work leaves at its next block, and
        another actor goes on with its videos. No window is lost or made twice by it.
        """
        wanted = [slot for slot in self.pool.slots if slot not in self.retiring]
        for slot in self.pool.grow(max(0, size - len(wanted))):
            self._start(f"rollout actor {slot}", self._drive, slot)
        wanted.sort(key=lambda slot: (slot in self.pace.running, self.workload.at_work(slot), -slot))
        for slot in wanted[: max(0, len(wanted) - size)]:
            if slot in self.pace.working:
                self.retiring.add(slot)
                self.leaving.add(slot)
            else:
                self._remove(slot)
        self.shelf.wake()
        await self._notify(self.room)

    def _remove(self, slot: int) -> None:
        self.pace.gone(slot, replaced=False)
        self.workload.retired(slot)
        self.leaving.discard(slot)
        self.retiring.discard(slot)
        self.pool.shrink(slot)

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
                draining = await asyncio.to_thread(self.pool.draining)
            except (RayError, RuntimeError, OSError) as error:  # the head is busy or away: the next answer counts
                self.say(f"cannot ask which nodes are draining: {error}")
                draining = set()
            for slot in (draining & self.pace.running) - self.leaving:  # who is beginning is looked at when it is there
                self.say(f"the node of rollout actor {slot} is draining")
                self.leaving.add(slot)
                if slot not in self.pace.working:
                    self._replace(slot, "had nothing to finish there")
            for slot in await self.pool.dead(self._idle):
                if slot in self._idle:  # still
                    self._replace(slot, "died with nothing to do")
            self.shelf.wake()
            if self.pace.replaced:  # their drivers may still wait for room
                await self._notify(self.room)
            await asyncio.sleep(_POLL_S)

    @property
    def _idle(self) -> set[int]:
        """Slots whose actor waits for room, or for the first weights."""
        return self.pace.running - self.pace.working.keys()

    @staticmethod
    async def _notify(condition: asyncio.Condition) -> None:
        async with condition:
            condition.notify_all()

    @staticmethod
    async def _wake_one(condition: asyncio.Condition) -> None:
        """For waiters that wake the next one when there is more: a thousand woken at once would mostly find nothing."""
        async with condition:
            condition.notify()
