"""The coordinator's part that knows who is in which slot of the pool, and who is to leave it."""

from collections.abc import Collection, Sequence

from cluster.autoscale.meter import Meter
from cluster.config.run_config import Config
from cluster.pool.ray_pool import Pool
from cluster.pool.scale_down import Place, departing
from cluster.pool.status import Bulletin
from cluster.pool.workload import Workload

DRAINING, RETIRING, RECALLED = "its node drains", "it is not wanted any more", "it is wanted again"
"""Why an actor goes at its next block. One that was told to go and is wanted again begins anew, and keeps its node."""


class Roster(Bulletin):
    """Waits for nothing: whoever does is in `Staffing`."""

    def __init__(self, config: Config, pool: Pool):
        super().__init__()
        self.config, self.pool = config, pool
        self.workload = Workload(pool.slots)
        self.meter = Meter(config.autoscale.measured_s, scorers=config.cluster.reward_actors)
        self.places: dict[int, Place] = {}
        """By slot whose process has a node."""
        self.leaving: dict[int, str] = {}
        """By slot whose actor goes at its next block: why."""
        self.told: set[int] = set()
        """Of these the ones who know."""

    @property
    def retiring(self) -> set[int]:
        """Slots that are there until their actor's next block, and not wanted any more."""
        return {slot for slot, why in self.leaving.items() if why == RETIRING}

    @property
    def _idle(self) -> set[int]:
        """Slots whose actor waits for room, or for the first weights."""
        return self.meter.running - self.meter.working.keys()

    # -- one slot -------------------------------------------------------------------------------------------------

    def _placed(self, slot: int, place: Place) -> None:
        """The slot's process has a node."""
        self.places[slot] = place
        self.meter.placed(slot, place.gpus)

    def _replace(self, slot: int, why: str) -> None:
        """End the slot's process. Another takes its place at once, unless the slot is not wanted any more."""
        if slot in self.retiring:
            self._remove(slot)
        elif slot in self.pool.slots:
            self.say(f"rollout actor {slot} {why}; another takes its place")
            self.workload.lost(slot, why)
            self.meter.gone(slot, replaced=True)
            self._stays(slot)
            self.places.pop(slot, None)
            self.pool.replace(slot)

    def _ask_again(self, slot: int, waited: str) -> None:
        """Ask anew for a process that nobody has seen yet: none is lost."""
        self.say(f"rollout actor {slot} {waited}, and is asked for again")
        self.workload.unplaced += 1
        self.pool.replace(slot)

    def _remove(self, slot: int) -> None:
        """End the slot's process, if it has one, and the slot with it."""
        self.meter.gone(slot, replaced=False)
        self.workload.retired(slot)
        self._stays(slot)
        self.places.pop(slot, None)
        self.pool.shrink(slot)

    def _begins_anew(self, slot: int) -> None:
        """An actor that was told to go has ended its stream: its process is told again what to supply."""
        self._stays(slot)
        self.meter.stops(slot)

    def _stays(self, slot: int) -> None:
        """Whoever is in the slot from now on is not asked to go."""
        self.leaving.pop(slot, None)
        self.told.discard(slot)

    # -- the whole pool -------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """A stage begins, and everybody anew with it: who is not wanted is gone at once."""
        for slot, why in list(self.leaving.items()):
            if why == RETIRING:
                self._remove(slot)
            elif why == RECALLED:
                self._stays(slot)

    def _fit(self, size: int) -> list[int]:
        """Have the pool get `size` slots; returns those that are new.

        Who was to leave is called back before anybody is added, so there are never more than the larger of both sizes.
        """
        retiring = self.retiring
        wanted = [slot for slot in self.pool.slots if slot not in retiring]
        more = max(0, size - len(wanted))
        back = sorted(retiring)[:more]
        for slot in back:
            if slot in self.told:
                self.leaving[slot] = RECALLED
            else:
                self._stays(slot)
        added = self.pool.grow(more - len(back))
        for slot in self._departing(wanted, max(0, len(wanted) - size)):
            if slot in self.meter.working:
                self.leaving[slot] = RETIRING
            else:
                self._remove(slot)
        return added

    def _departing(self, slots: Sequence[int], count: int) -> list[int]:
        """Of `slots`, `count` that leave. A node that drains goes away by itself, whoever stays on it."""
        places = {slot: None if self.leaving.get(slot) == DRAINING else self.places.get(slot) for slot in slots}
        return departing(places, count, self.config.cluster.rollout_prefers, self._at_stake)

    def _at_stake(self, slot: int) -> int:
        """Little with a process that still starts, most with one that has a dispatch."""
        return (slot in self.meter.running) + (slot in self.meter.working)

    def _clear(self, nodes: Collection[str]) -> None:
        """Have the actors leave that are on these nodes now: who was replaced while Ray was asked is elsewhere."""
        for slot, place in list(self.places.items()):
            # Who is beginning is looked at when it is there.
            if place.node in nodes and slot in self.meter.running and slot not in self.leaving:
                self.say(f"the node of rollout actor {slot} is draining")
                self.leaving[slot] = DRAINING
                if slot not in self.meter.working:
                    self._replace(slot, "had nothing to finish there")
