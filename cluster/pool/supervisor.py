"""Keep rollout processes busy: one driver task in the coordinator's event loop per slot."""

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
"""Number of processes lost in a row, on one dispatch or at one start, that stops the run."""
_POLL_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageWork:
    """Holds the stage's parts that the drivers use."""

    supply: Supply
    weights: WeightStore
    needs_weights: bool
    """True if actors roll out the student, and so wait for its first version."""
    begin: Callable[[int], Awaitable[None]]
    """Call that starts the stage in the process of a slot, as `RayPool.begin`."""
    make: Callable[[Slot, Dispatch], Awaitable[None]]
    """Call that runs a dispatch in a slot and keeps its stream. Raises ActorLost and BadWindow."""


class Supervisor:
    """Gives dispatches to idle slots and replaces processes that are lost.

    A slot's driver takes a dispatch only when its process is up, so a process that waits for a node delays no other.
    """

    def __init__(
        self,
        pool: RayPool,
        slots: Slots,
        say: Callable[[str], None],
        fail: Callable[[str], Awaitable[None]],
    ):
        """Wire the pool; `say` takes a line for the terminal, `fail` the reason to stop the run."""
        self.pool, self.slots, self.say, self.fail = pool, slots, say, fail
        self.stage: StageWork | None = None
        self.room = asyncio.Condition()
        """Condition that is notified when an idle driver may find a dispatch."""
        self.drivers: list[asyncio.Task] = []
        self.dispatches: dict[int, Dispatch] = {}
        """Dispatches in progress, by slot number."""

    async def stop(self) -> None:
        """Cancel all drivers at the end of a stage."""
        for driver in self.drivers:
            driver.cancel()
        await asyncio.gather(*self.drivers, return_exceptions=True)
        self.drivers = []

    def begin(self, stage: StageWork) -> None:
        """Start a driver for every slot, and the pool's health check. Call `Slots.settle` before."""
        self.stage = stage
        for slot in self.slots:
            self.start(f"rollout actor {slot.number}", self._drive, slot)
        self.start("the watch over the pool", self._watch)

    def start(self, name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run `work` until the stage is over; its exceptions stop the run, with `name` in the message."""

        async def guard() -> None:
            try:
                await work(*arguments)
            except StageEnded:
                return
            except Exception as error:  # the learner raises the reason, which stops the run
                _log.exception("rollout pool failed")
                await self.fail(str(error) if isinstance(error, RunFailed) else f"{name} failed: {error}")

        self.drivers = [driver for driver in self.drivers if not driver.done()]
        self.drivers.append(asyncio.create_task(guard()))

    async def wake(self) -> None:
        """Wake one idle driver to look for a dispatch; it wakes the next one in turn.

        Of a thousand drivers woken at once most would find no dispatch.
        """
        async with self.room:
            self.room.notify()

    async def resize(self, size: int) -> None:
        """Grow or shrink the pool to `size` actors.

        Retiring slots are recalled before any is added, so there are never more actors than the larger of both sizes.
        `departing` picks processes that wait for a node first, then whole nodes; a working actor leaves at its next
        block, and another one continues its videos. No window is lost or made twice.
        """
        for slot in self.slots.fit(size):
            self.start(f"rollout actor {slot.number}", self._drive, slot)
        self.stage.weights.wake()
        async with self.room:
            self.room.notify_all()

    # -- one slot -------------------------------------------------------------------------------------------------

    async def _drive(self, slot: Slot) -> None:
        """Keep one actor busy until its slot is gone, while the buffer has room and the stage has work."""
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
                self.room.notify()  # there may be more dispatches, or this one may be for another driver
            if dispatch is None:  # the process has ended, or has been replaced
                await asyncio.sleep(0)  # yield to the event loop after every change of state
            else:
                await self._make(slot, dispatch)

    async def _bring_up(self, slot: Slot) -> None:
        """Start processes in the slot until one supplies the stage. Raises RunFailed after too many losses."""
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
                self.say(f"rollout actor {slot.number} {none} ({waited_s:.0f} s so far); requesting it again")
                self.slots.unplaced += 1
                self.pool.replace(slot.number)
                in_vain += not meter.levels["running"]  # while other actors work, this one may wait
                if in_vain >= _LOST_IN_A_ROW:
                    raise RunFailed(
                        f"rollout actor {slot.number} {none}, nor in {waited_s:.0f} s of waiting, and no other actor "
                        "is running; add nodes, or free nodes that other runs use"
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
        """Run one dispatch on the slot's actor; give its missing windows back for another actor."""
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
            # The actor was informed that it must leave, and may stay: the same process begins the stage again.
            self.slots.change(slot, state=SlotState.STARTING, informed=False)
        elif slot.leaving:
            self.slots.replace(slot, "left")
        supply.give_back(dispatch, afresh)
        if dispatch.lost >= _LOST_IN_A_ROW:
            raise RunFailed(f"{dispatch.lost} processes in a row were lost on {[r.id for r in dispatch.rollouts]}")
        await self.wake()

    async def _watch(self) -> None:
        """Move actors off draining nodes, and replace idle processes that died.

        Windows and blocks in the store of a draining node are copied, so delivered windows stay valid.
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
            except (RayError, RuntimeError, OSError) as error:  # the head is busy or unreachable: poll again
                self.say(f"cannot read which nodes are draining: {error}")
            idle = {slot.number: slot for slot in self.slots if slot.state is SlotState.IDLE}
            for number in await self.pool.dead(idle.keys()):
                if idle[number].state is SlotState.IDLE:  # it may have changed during the query
                    self.slots.replace(idle[number], "died with nothing to do")
            self.stage.weights.wake()
            if self.slots.meter.levels["replacing"]:  # drivers of replaced processes may still wait for room
                async with self.room:
                    self.room.notify_all()
            await asyncio.sleep(_POLL_S)
