"""The slots of the rollout pool: which process each one has, and in what state.

A slot is a place in the pool. It keeps its number while one process follows another in it:

    grow
     |        node, then told           a dispatch
     v        which stage               begins
    STARTING -------------------> IDLE ------------> WORKING --- ends --> IDLE
     ^  ^                           |                  |  |
     |  |                           |    node drains   |  |   the pool shrinks
     |  '---- process lost, --------'          .-------'  '-------.
     |        replaced (any state)             v                  v
     |                                      DRAINING           RETIRING --- wanted again, informed --> RECALLED
     |  leaves at its next block               |                  |                                      |
     '---- another process in its place <------'                 GONE                                    |
     '---- the same process begins anew <------------------------ at its next block ---------------------'

An actor that is asked to leave learns so when it asks for newer weights, between two blocks (`informed`); its dispatch
is then given back, and another actor continues its videos. One that is wanted again before it is informed is WORKING
again. An idle slot that is not wanted any more is GONE at once, and an idle one whose node drains is replaced at once.

Example, `resize(2)` and then `resize(3)` of a pool whose slots 0, 1 and 2 are WORKING:
    fit(2)  slot 2 becomes RETIRING; the pool still has three processes
            slot 2 asks for weights, and Leaving is raised in it: it is informed
    fit(3)  slot 2 becomes RECALLED: no new process is asked for
            its stream ends; it is STARTING, keeps its node, and begins anew
"""

import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from cluster.autoscale.meter import Meter
from cluster.pool.ray_pool import RayPool
from cluster.pool.scale_down import Place, departing

_BLOCKS_JUDGED = 5
"""Blocks whose median is an actor's speed, so that one hiccup does not count."""
_SAMPLES = ("Window", "Group", "Trajectory")


class SlotState(Enum):
    """The states of a slot; the module draws how one follows another."""

    STARTING = auto()
    """Its process waits for a node, or is being told what to supply."""
    IDLE = auto()
    """Its actor waits for room in the buffer, or for the first weights."""
    WORKING = auto()
    """Its actor makes a dispatch, as it does in the next three states."""
    DRAINING = auto()
    """Its node is about to go away."""
    RETIRING = auto()
    """The slot is not wanted any more."""
    RECALLED = auto()
    """The slot is wanted again, and its actor already knew that it was not."""
    GONE = auto()
    """The slot is not in the pool any more."""


@dataclass(eq=False)
class Slot:
    """A place in the pool, and all that is known of the process in it."""

    number: int
    state: SlotState = SlotState.STARTING
    place: Place | None = None
    """Node and GPUs of the process; None before it has a node."""
    informed: bool = False
    """The actor was told to leave at its next block."""
    replacing: bool = False
    """The slot's last process was lost, and this one is not up yet."""
    warm: bool = False
    """The process has delivered something."""
    block_s: deque[float] = field(default_factory=lambda: deque(maxlen=_BLOCKS_JUDGED))
    """Durations of the process's last blocks."""
    median_s: float | None = None
    """Their median; None before there are enough."""
    since_s: float | None = None
    """The meter's time from which the dispatch counts: a new process counts from its first delivery on, because what it
    loads and compiles before, it does once."""
    windows: int = 0
    """Windows of the dispatch that were delivered."""

    @property
    def running(self) -> bool:
        """Return whether the process supplies the stage."""
        return self.state not in (SlotState.STARTING, SlotState.GONE)

    @property
    def at_work(self) -> bool:
        """Return whether the actor makes a dispatch."""
        return self.running and self.state is not SlotState.IDLE

    @property
    def leaving(self) -> bool:
        """Return whether the actor must leave at its next block."""
        return self.at_work and self.state is not SlotState.WORKING

    def levels(self) -> dict[str, int]:
        """Return what the slot adds to the levels that a Meter integrates over time."""
        busy = self.at_work and self.warm
        starting = self.state is SlotState.STARTING or (self.at_work and not self.warm)
        return {"running": self.running, "replacing": self.replacing, "busy": busy, "starting": starting}


class Slots:
    """Moves slots from state to state, and keeps pool and meter in step. Waits for nothing: Supervisor does."""

    def __init__(self, pool: RayPool, meter: Meter, prefers: Mapping[str, str], say: Callable[[str], None]):
        """`prefers`: labels of the nodes that are left last; `say` takes a line for the terminal."""
        self.pool, self.meter, self.prefers, self.say = pool, meter, prefers, say
        self.by_number: dict[int, Slot] = {}
        self.lost = self.unplaced = 0
        """Processes that were lost; processes that got no node in time."""
        self._fastest_s = 0.0
        self._add(pool.slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(list(self.by_number.values()))

    def __len__(self) -> int:
        return len(self.by_number)

    @property
    def without_retiring(self) -> list[Slot]:
        """Return the slots that stay."""
        return [slot for slot in self.by_number.values() if slot.state is not SlotState.RETIRING]

    # -- one slot -------------------------------------------------------------------------------------------------

    def assign(self, slot: Slot, windows: int) -> None:
        """Note that the actor is given a dispatch of so many windows."""
        self.meter.dispatch(windows)
        self.change(slot, state=SlotState.WORKING, since_s=self.meter.clock() if slot.warm else None, windows=0)

    def receive(self, slot: Slot, block_s: Sequence[float]) -> None:
        """Note a delivery and the durations of the blocks that came with it."""
        if not slot.warm:
            self.change(slot, warm=True)
        slot.block_s.extend(block_s)
        if len(slot.block_s) == _BLOCKS_JUDGED:
            slot.median_s = statistics.median(slot.block_s)
            self._fastest_s = min(self._fastest_s, slot.median_s)

    def accept(self, slot: Slot, kind: str) -> None:
        """Count a delivery that was accepted."""
        if slot.since_s is None:
            slot.since_s = self.meter.clock()
        slot.windows += kind in _SAMPLES

    def finish(self, slot: Slot) -> None:
        """Note that the dispatch is over, however it ended."""
        if slot.since_s is not None:
            self.meter.end(slot.windows, self.meter.clock() - slot.since_s)
        if slot.state is SlotState.WORKING:  # the end of a stage interrupts dispatches in every state
            self.change(slot, state=SlotState.IDLE)

    def replace(self, slot: Slot, why: str) -> None:
        """End the process. Another takes its place at once, unless the slot is not wanted any more."""
        if slot.state is SlotState.RETIRING:
            self.remove(slot)
        elif slot.state is not SlotState.GONE:
            self.say(f"rollout actor {slot.number} {why}; another takes its place")
            self.lost += 1
            self._without_process(slot, state=SlotState.STARTING, replacing=True)
            self.pool.replace(slot.number)

    def remove(self, slot: Slot) -> None:
        """End the process, if there is one, and the slot with it."""
        del self.by_number[slot.number]
        self._without_process(slot, state=SlotState.GONE, replacing=False)
        self.pool.shrink(slot.number)

    def too_slow(self, slot: Slot, factor: float) -> bool:
        """Return whether an actor is slower than the pool's median by more than `factor`; one alone never is."""
        # Asked at every delivery. An actor that keeps up with the fastest keeps up with the median, which costs a sort.
        if slot.median_s is None or slot.median_s <= factor * self._fastest_s:
            return False
        medians = {other: other.median_s for other in self.by_number.values() if other.median_s is not None}
        self._fastest_s = min(medians.values())
        if slot.median_s <= factor * self._fastest_s:
            return False
        return slot.median_s > factor * statistics.median(s for other, s in medians.items() if other is not slot)

    # -- the whole pool -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Begin a stage: every process is told anew what to supply, and a slot that is not wanted is gone at once."""
        for slot in self:
            if slot.state is SlotState.RETIRING:
                self.remove(slot)
            else:
                self.change(slot, state=SlotState.STARTING, informed=False, replacing=False)

    def fit(self, size: int) -> list[Slot]:
        """Have the pool get `size` slots; returns those that are new.

        Slots that were to leave are called back before any is added, so there are never more than the larger of both
        sizes.
        """
        kept = self.without_retiring
        retiring = sorted(self.by_number.keys() - {slot.number for slot in kept})
        back = retiring[: max(0, size - len(kept))]
        for slot in map(self.by_number.__getitem__, back):
            self.change(slot, state=SlotState.RECALLED if slot.informed else SlotState.WORKING)
        added = self._add(self.pool.grow(max(0, size - len(kept)) - len(back)))
        # A draining node goes away by itself, whichever actors stay on it.
        places = {slot.number: None if slot.state is SlotState.DRAINING else slot.place for slot in kept}
        at_stake = {slot.number: slot.running + slot.at_work for slot in kept}
        for number in departing(places, max(0, len(kept) - size), self.prefers, at_stake.__getitem__):
            slot = self.by_number[number]
            if slot.at_work:
                self.change(slot, state=SlotState.RETIRING)
            else:
                self.remove(slot)
        return added

    def clear(self, nodes: Collection[str]) -> None:
        """Have actors leave the nodes that they are on now; a process that is starting is looked at once it is up."""
        for slot in self:
            if slot.place is None or slot.place.node not in nodes:
                continue
            if slot.state in (SlotState.IDLE, SlotState.WORKING):
                self.say(f"the node of rollout actor {slot.number} is draining")
                if slot.state is SlotState.WORKING:
                    self.change(slot, state=SlotState.DRAINING)
                else:
                    self.replace(slot, "had nothing to finish there")

    def _add(self, numbers: Sequence[int]) -> list[Slot]:
        added = [Slot(number) for number in numbers]
        for slot in added:
            self.by_number[slot.number] = slot
            self.meter.change(slot.levels())
        return added

    def change(self, slot: Slot, **fields: Any) -> None:
        """Set fields of a slot, and tell the meter what that changes."""
        before = slot.levels()
        for name, value in fields.items():
            setattr(slot, name, value)
        changes = {name: level - before[name] for name, level in slot.levels().items()}
        if "place" in fields:  # what is held: whole GPUs, shared ones once, and processes without a GPU as one each
            held = [slot.place.gpus for slot in self.by_number.values() if slot.place is not None]
            gpus = len(set().union(*held)) + sum(not gpus for gpus in held)
            changes["held"] = gpus - self.meter.levels["held"]
        self.meter.change(changes)

    def _without_process(self, slot: Slot, **fields: Any) -> None:
        self.change(slot, place=None, informed=False, warm=False, median_s=None, **fields)
        slot.block_s.clear()
