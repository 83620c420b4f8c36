"""Keeps rollout processes at work: one driver, a task of the coordinator's event loop, for every slot of the pool."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ray.exceptions import RayError

from cluster.pool.ray_pool import ActorLost, NoNode, RayPool, Superseded
from cluster.pool.slots import Slot, Slots, SlotState
from cluster.run_errors import RunFailed, StageEnded
from cluster.supply.dispatch import Dispatch
from cluster.supply.supply import Supply
from cluster.supply.wire import LOST, BadWindow
from cluster.weights.object_store import WeightStore

_LOST_IN_A_ROW = 5
"""Processes that one dispatch, or one start, may lose without a sign of life in between: more are no accident."""
_POLL_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageWork:
    """What the drivers need of the stage that the pool supplies."""

    supply: Supply
    weights: WeightStore
    needs_weights: bool
    """Whether actors roll out the student, and so wait for its first version."""
    begin: Callable[[int], Awaitable[None]]
    """Have the process in a slot supply the stage, as `RayPool.begin`."""
    make: Callable[[Slot, Dispatch], Awaitable[None]]
    """Have the process in a slot make a dispatch, and keep what it streams. Raises ActorLost and BadWindow."""


class Supervisor:
    """Gives dispatches to idle slots and replaces processes that are lost.

    A slot's driver takes a dispatch only when its process is up: one that waits for a node holds up no other.
    """

    def __init__(
        self,
        pool: RayPool,
        slots: Slots,
        say: Callable[[str], None],
        fail: Callable[[str], Awaitable[None]],
    ):
        """`say` takes a line for the terminal, `fail` the reason for which the run must stop."""
        self.pool, self.slots, self.say, self.fail = pool, slots, say, fail
        self.stage: StageWork | None = None
        self.room = asyncio.Condition()
        """Notified when an idle driver may find a dispatch."""
        self.drivers: list[asyncio.Task] = []
        self.dispatches: dict[int, Dispatch] = {}
        """Those that actors make, by slot."""

    async def stop(self) -> None:
        """End all drivers: a stage is over."""
        for driver in self.drivers:
            driver.cancel()
        await asyncio.gather(*self.drivers, return_exceptions=True)
        self.drivers = []

    def begin(self, stage: StageWork) -> None:
        """Start a driver for every slot, and the watch over the pool; `Slots.settle` comes before."""
        self.stage = stage
        for slot in self.slots:
            self.start(f"rollout actor {slot.number}", self._drive, slot)
        self.start("the watch over the pool", self._watch)

    def start(self, name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run `work` until the stage is over; what it raises stops the run, with `name`."""

        async def guard() -> None:
            try:
                await work(*arguments)
            except StageEnded:
                return
            except Exception as error:  # the learner raises it and so stops the run
                _log.exception("rollout pool failed")
                await self.fail(str(error) if isinstance(error, RunFailed) else f"{name} failed: {error}")

        self.drivers = [driver for driver in self.drivers if not driver.done()]
        self.drivers.append(asyncio.create_task(guard()))

    async def wake(self) -> None:
        """Have one idle driver look for a dispatch; it wakes the next one when there is more.

        A thousand woken at once would mostly find nothing.
        """
        async with self.room:
            self.room.notify()

    async def resize(self, size: int) -> None:
        """Ask for more actors, or have some leave.

        Slots that were to leave are called back before any is added: there are never more actors than the larger of
        both sizes. Processes that wait for a node are given up first, then whole nodes are left, by `departing`; an
        actor at work leaves at its next block, and another one continues its videos. No window is lost or made twice.
        """
        for slot in self.slots.fit(size):
            self.start(f"rollout actor {slot.number}", self._drive, slot)
        self.stage.weights.wake()
        async with self.room:
            self.room.notify_all()

    # -- one slot -------------------------------------------------------------------------------------------------

    async def _drive(self, slot: Slot) -> None:
        """Keep one actor busy, as long as it is wanted, the buffer has room and the stage asks for more."""
        while slot.state is not SlotState.GONE:
            await self._bring_up(slot)
            dispatch = None
            async with self.room:
                while dispatch is None and slot.state is SlotState.IDLE:
                    if self.stage.needs_weights and self.stage.weights.version is None:
                        await self.room.wait()
                    elif (dispatch := self.stage.supply.next()) is None:
                        with self.slots.meter.time("idle"):
                            await self.room.wait()
                self.room.notify()  # there may be more; or what woke this driver is for another
            if dispatch is None:  # the process is gone, or has been replaced
                await asyncio.sleep(0)  # never hold the event loop, whatever has changed the state
            else:
                await self._make(slot, dispatch)

    async def _bring_up(self, slot: Slot) -> None:
        """Wait until the slot's process supplies the stage, however many processes that takes."""
        meter = self.slots.meter
        in_vain, asked_s = 0, meter.clock()
        while slot.state is SlotState.STARTING:
            try:
                if slot.place is None:
                    place = await self.pool.place(slot.number)
                    if slot.state is not SlotState.STARTING:
                        return
                    self.slots.change(slot, place=place)
                await self.stage.begin(slot.number)
                if slot.state is SlotState.STARTING:
                    self.slots.change(slot, state=SlotState.IDLE, replacing=False)
            except Superseded:
                continue
            except NoNode as none:
                waited_s = meter.clock() - asked_s
                self.say(f"rollout actor {slot.number} {none} ({waited_s:.0f} s so far), and is asked for again")
                self.slots.unplaced += 1
                self.pool.replace(slot.number)
                in_vain += not meter.levels["running"]  # while others work it may wait
                if in_vain >= _LOST_IN_A_ROW:
                    raise RunFailed(
                        f"rollout actor {slot.number} {none}, nor in the {waited_s:.0f} s that it has waited, and no "
                        "other is at work; add nodes, or free those that other runs use"
                    ) from none
            except ActorLost as loss:
                self.slots.replace(slot, str(loss))
                if slot.state is SlotState.GONE:
                    return
                in_vain, asked_s = in_vain + 1, meter.clock()
                if in_vain >= _LOST_IN_A_ROW:
                    raise RunFailed(
                        f"{in_vain} processes in a row were lost as they started: the last one {loss}"
                    ) from loss

    async def _make(self, slot: Slot, dispatch: Dispatch) -> None:
        """Have one dispatch made; windows that are missing at the end are given back for another actor to make."""
        supply, afresh = self.stage.supply, False
        self.dispatches[slot.number] = dispatch
        self.slots.assign(slot, sum(len(rollout.windows) for rollout in dispatch.rollouts))
        try:
            await self.stage.make(slot, dispatch)
            if not slot.leaving and dispatch.missing(supply.buffer)[1]:
                self.slots.replace(slot, "left")
        except ActorLost as loss:
            self.slots.replace(slot, str(loss))
        except BadWindow as bad:
            afresh = True
            if bad.reason == LOST:
                self.say(f"rollout actor {slot.number}: {bad}; its videos are made again")
            else:
                self.say(f"rollout actor {slot.number}: {bad}; refused, and the actor replaced")
                self.slots.replace(slot, f"made a bad window ({bad.reason})")
            supply.refuse(bad)
        finally:
            self.slots.finish(slot)
            del self.dispatches[slot.number]
        if slot.state is SlotState.RECALLED:
            # The same process is told again what to supply: its actor knew that it must leave, and may stay.
            self.slots.change(slot, state=SlotState.STARTING, informed=False)
        elif slot.leaving:
            self.slots.replace(slot, "left")
        supply.give_back(dispatch, afresh)
        if dispatch.lost >= _LOST_IN_A_ROW:
            raise RunFailed(f"{dispatch.lost} processes in a row were lost on {[r.id for r in dispatch.rollouts]}")
        await self.wake()

    async def _watch(self) -> None:
        """Ask actors on draining nodes to leave at their next block; replace those that died with nothing to do.

        What a draining node holds of windows and blocks is copied: delivered windows stay valid when it goes.
        """
        supply = self.stage.supply
        while True:
            try:
                draining = await asyncio.to_thread(self.pool.draining)
                self.slots.clear(draining)
                if draining:
                    self.stage.weights.wake()
                    dispatches = [*self.dispatches.values(), *supply.returned]
                    blocks = [block for dispatch in dispatches for block in (*dispatch.made, *dispatch.first)]
                    headers = chain(supply.buffer.waiting.values(), *supply.plans.values(), blocks)
                    payloads = [header.payload for header in headers if header.layout]
                    await asyncio.to_thread(self.pool.copy_from, set(draining), payloads)
            except (RayError, RuntimeError, OSError) as error:  # the head is busy or away: the next answer counts
                self.say(f"cannot ask which nodes are draining: {error}")
            idle = {slot.number: slot for slot in self.slots if slot.state is SlotState.IDLE}
            for number in await self.pool.dead(idle.keys()):
                if idle[number].state is SlotState.IDLE:  # still
                    self.slots.replace(idle[number], "died with nothing to do")
            self.stage.weights.wake()
            if self.slots.meter.levels["replacing"]:  # their drivers may still wait for room
                async with self.room:
                    self.room.notify_all()
            await asyncio.sleep(_POLL_S)
