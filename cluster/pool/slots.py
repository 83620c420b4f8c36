"""Track the slots of the rollout pool: their processes and states.

A slot is a place in the pool. It keeps its number while one process follows another in it:

    grow
     |        node, then begins         a dispatch
     v        the stage                 begins
    STARTING -------------------> IDLE ------------> WORKING --- ends --> IDLE
     ^  ^                           |                  |  |
     |  |                           |    node drains   |  |   the pool shrinks
     |  '---- process lost, --------'          .-------'  '-------.
     |        replaced (any state)             v                  v
     |                                      DRAINING           RETIRING --- wanted again, informed --> RECALLED
     |  leaves at its next block               |                  |                                      |
     '---- another process in its place <------'                 GONE                                    |
     '---- the same process begins anew <------------------------ at its next block ---------------------'

An actor that must leave is informed when it polls for newer weights, between two blocks; its dispatch is then given
back, and another actor continues its videos. A slot that is wanted again before its actor is informed is WORKING again.
An idle slot that is no longer wanted is GONE at once, and the process of an idle slot on a draining node is replaced.

Example, `resize(2)` and then `resize(3)` of a pool whose slots 0, 1 and 2 are WORKING:
    fit(2)  slot 2 becomes RETIRING; the pool still has three processes
            slot 2 polls for weights, and Leaving is raised in it: it is informed
    fit(3)  slot 2 becomes RECALLED: no new process is started
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
"""Number of blocks in the median of an actor's speed, so that one outlier does not count."""
_BLOCKS_COMPILED = 8
"""Number of a process's first blocks that are not judged: each may compile a graph for its length of history."""
_SAMPLES = ("Window", "Group", "Trajectory")


class SlotState(Enum):
    """Names the states of a slot; the module docstring draws their transitions."""

    STARTING = auto()
    """The process waits for a node, or begins the stage."""
    IDLE = auto()
    """The actor waits for room in the buffer, or for the first weights."""
    WORKING = auto()
    """The actor makes a dispatch, as in the next three states."""
    DRAINING = auto()
    """The actor's node is draining."""
    RETIRING = auto()
    """The slot is to be removed."""
    RECALLED = auto()
    """The slot is to stay after all, and its actor was already informed that it must leave."""
    GONE = auto()
    """The slot is removed from the pool."""


@dataclass(eq=False)
class Slot:
    """Holds the state of one place in the pool and of its process."""

    number: int
    state: SlotState = SlotState.STARTING
    place: Place | None = None
    """Node and GPUs of the process; None before it has a node."""
    informed: bool = False
    """True once the actor knows that it must leave at its next block."""
    replacing: bool = False
    """True from the loss of a process until its replacement is up."""
    warm: bool = False
    """True once the process has delivered."""
    block_s: deque[float] = field(default_factory=lambda: deque(maxlen=_BLOCKS_JUDGED))
    """Durations of the process's last blocks."""
    blocks: int = 0
    """Number of blocks that the process has made."""
    median_s: float | None = None
    """Median of `block_s`; None before there are enough."""
    since_s: float | None = None
    """Start of the dispatch on the meter's clock. A new process counts from its first delivery, because loading and
    compiling happen once."""
    windows: int = 0
    """Number of windows delivered of the dispatch."""

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
        """Return the slot's contribution to the levels that a Meter integrates over time."""
        busy = self.at_work and self.warm
        starting = self.state is SlotState.STARTING or (self.at_work and not self.warm)
        return {"running": self.running, "replacing": self.replacing, "busy": busy, "starting": starting}


class Slots:
    """Changes the states of slots, and keeps pool and meter consistent. Never waits: Supervisor does."""

    def __init__(self, pool: RayPool, meter: Meter, prefers: Mapping[str, str], say: Callable[[str], None]):
        """Add a slot for each process of `pool`; `prefers` are labels of nodes to leave last."""
        self.pool, self.meter, self.prefers, self.say = pool, meter, prefers, say
        self.by_number: dict[int, Slot] = {}
        self.lost = self.unplaced = 0
        """Numbers of processes that were lost, and that got no node in time."""
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
        """Record that the actor starts a dispatch of `windows` windows."""
        self.meter.dispatch(windows)
        self.change(slot, state=SlotState.WORKING, since_s=self.meter.clock() if slot.warm else None, windows=0)

    def receive(self, slot: Slot, block_s: Sequence[float]) -> None:
        """Record a delivery and the durations of its blocks."""
        if not slot.warm:
            self.change(slot, warm=True)
        slot.block_s.extend(block_s[max(0, _BLOCKS_COMPILED - slot.blocks) :])
        slot.blocks += len(block_s)
        if len(slot.block_s) == _BLOCKS_JUDGED:
            slot.median_s = statistics.median(slot.block_s)
            self._fastest_s = min(self._fastest_s, slot.median_s)

    def accept(self, slot: Slot, kind: str) -> None:
        """Count a delivery that was accepted."""
        if slot.since_s is None:
            slot.since_s = self.meter.clock()
        slot.windows += kind in _SAMPLES

    def finish(self, slot: Slot) -> None:
        """Record the end of the dispatch, whatever its outcome."""
        if slot.since_s is not None:
            self.meter.end(slot.windows, self.meter.clock() - slot.since_s)
        if slot.state is SlotState.WORKING:  # the end of a stage interrupts dispatches in every state
            self.change(slot, state=SlotState.IDLE)

    def replace(self, slot: Slot, why: str) -> None:
        """End the process, and start another unless the slot is retiring."""
        if slot.state is SlotState.RETIRING:
            self.remove(slot)
        elif slot.state is not SlotState.GONE:
            self.say(f"rollout actor {slot.number} {why}; another takes its place")
            self.lost += 1
            self._without_process(slot, state=SlotState.STARTING, replacing=True)
            self.pool.replace(slot.number)

    def remove(self, slot: Slot) -> None:
        """Remove the slot, and end its process."""
        del self.by_number[slot.number]
        self._without_process(slot, state=SlotState.GONE, replacing=False)
        self.pool.shrink(slot.number)

    def too_slow(self, slot: Slot, factor: float) -> bool:
        """Return whether an actor is slower than the pool's median by more than `factor`; a single actor never is."""
        # Runs at every delivery. An actor close to the fastest is close to the median, so the sort is skipped.
        if slot.median_s is None or slot.median_s <= factor * self._fastest_s:
            return False
        medians = {other: other.median_s for other in self.by_number.values() if other.median_s is not None}
        self._fastest_s = min(medians.values())
        if slot.median_s <= factor * self._fastest_s:
            return False
        return slot.median_s > factor * statistics.median(s for other, s in medians.items() if other is not slot)

    # -- the whole pool -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Reset all slots for a new stage, and remove retiring ones."""
        for slot in self:
            if slot.state is SlotState.RETIRING:
                self.remove(slot)
            else:
                self.change(slot, state=SlotState.STARTING, informed=False, replacing=False)

    def fit(self, size: int) -> list[Slot]:
        """Grow or shrink the pool to `size` slots; return the new ones.

        Retiring slots are recalled before any is added, so there are never more than the larger of both sizes.
        """
        kept = self.without_retiring
        retiring = sorted(self.by_number.keys() - {slot.number for slot in kept})
        back = retiring[: max(0, size - len(kept))]
        for slot in map(self.by_number.__getitem__, back):
            self.change(slot, state=SlotState.RECALLED if slot.informed else SlotState.WORKING)
        added = self._add(self.pool.grow(max(0, size - len(kept)) - len(back)))
        # A draining node ends by itself: never count its actors as resources to free.
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
        """Move actors off `nodes`, which are draining; starting processes are checked once they are up."""
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
        """Set fields of a slot, and update the meter's levels."""
        before = slot.levels()
        for name, value in fields.items():
            setattr(slot, name, value)
        changes = {name: level - before[name] for name, level in slot.levels().items()}
        if "place" in fields:  # held GPUs: shared ones count once, and a process without a GPU counts as one
            held = [slot.place.gpus for slot in self.by_number.values() if slot.place is not None]
            gpus = len(set().union(*held)) + sum(not gpus for gpus in held)
            changes["held"] = gpus - self.meter.levels["held"]
        self.meter.change(changes)

    def _without_process(self, slot: Slot, **fields: Any) -> None:
        self.change(slot, place=None, informed=False, warm=False, blocks=0, median_s=None, **fields)
        slot.block_s.clear()
