"""How large the rollout pool should be: a state machine of what was measured, without processes, clocks or files."""

import math
from dataclasses import dataclass

from cluster.config.autoscale_config import AutoscaleConfig
from cluster.planning.pool_balance import pool_size

_OTHER_COSTS = 1.25
"""Costs whose ratio moved by this factor are others: what was learnt about sizes does not hold for them."""
_ROLLOUTS_SEEN = 2
"""Rollouts' times until a size has shown what it gives: new actors' windows come late in their first rollout."""
_PATIENCE = 3
"""Cool-downs until a growth is not judged any more: where actors are lost all the time no size is ever complete."""
_ADDED = 0.5
"""Actors more on average from which their effect is told from chance."""
_SATURATED = 0.9
"""Of their time that reward processes are at work: from there on more actors would only wait for them."""
_QUIET = ("hold", "measure", "cool")


@dataclass(frozen=True)
class Measurements:
    """Of the pool and the learner over the last `autoscale.measured_s`."""

    size: int
    """Processes that are asked for now, those that wait for a node included."""
    starting: int
    """Of these the ones that are not there yet, now."""
    running: float
    """Processes that were there, on average."""
    idle: float
    """Of these the ones that found no room in the buffer, on average."""
    replacing: float
    """Lost processes whose successors were not there yet, on average."""
    scoring: float
    """Of the reward processes' time: they were at work, on average."""
    waiting_share: float
    """Of the learner's time: it waited for windows."""
    windows_per_s: float
    """That the learner took."""
    actor_s: float | None
    """An actor's seconds per window; None before one has finished a dispatch."""
    learner_s: float | None
    """The learner's seconds per window, its waits not counted; None before its first window."""
    learnt_s: float
    """Seconds that the learner's numbers are of: a whole update at least, where those are long."""
    dispatch_s: float
    """An actor's seconds from the begin of a dispatch to its last window."""
    fits: int
    """Dispatches that the buffer holds at once: more actors would find no room."""
    gpu_hours: float
    """Of the pool, of the whole run."""
    whole: bool
    """Whether there was so much time to measure, of this stage."""
    warm: bool
    """Whether the learner has begun its second update; before, its seconds hold what it does once."""


@dataclass(frozen=True)
class Decision:
    """The size that the pool should have, and why."""

    size: int
    reason: str
    """For people, in a line."""
    kind: str
    """grow, shrink, and what ends in the same size: measure, cool, hold; or what holds the pool, which is told."""
    needed: int | None = None
    """The fewest actors that keep the learner busy, by what both are measured to take."""

    @property
    def worth_telling(self) -> bool:
        """Whether somebody could want to act on it: the size changes, or a bound of the user's holds it."""
        return self.kind not in _QUIET


@dataclass(frozen=True)
class _Before:
    """What the pool gave before it grew."""

    size: int
    running: float
    windows_per_s: float
    learner_s: float


class Controller:
    """Grows a pool that starves its learner, shrinks one that waits for it, within the user's bounds.

    The size comes from the measured costs by `pool_size`, not by trial, so one decision is enough where the costs
    hold. What they do not foresee is learnt: a size that the formula finds large enough and that starves the learner is
    never gone back to, and a size that brought too little for its cost is left again. Both are forgotten when the costs
    change. A lost process is no matter of size: its successor is asked for at once, by whoever lost it.
    """

    def __init__(self, config: AutoscaleConfig, learner_cost: float = 1.0):
        """`learner_cost`: what the learner costs, in actors of the pool: its GPUs over an actor's."""
        self.config, self.learner_cost = config, learner_cost
        self.changed_s: float | None = None
        self.unsettled_s = -math.inf
        """When the size changed last, and when an actor was last missing; nothing is shrunk as a run begins."""
        self.before: _Before | None = None
        self.costs: float | None = None
        """Actors that one learner keeps busy, when floor and ceiling were learnt."""
        self.floor, self.ceiling = config.minimum, config.maximum

    def decide(self, now: float, measured: Measurements) -> Decision:
        """The size from now on; `now` in seconds of any clock that only rises."""
        if self.changed_s is None:
            self.changed_s = now
        if measured.starting:
            self.unsettled_s = now
        decision = self._decision(now, measured)
        if decision.size != measured.size:
            self.changed_s = self.unsettled_s = now
        return decision

    def _decision(self, now: float, m: Measurements) -> Decision:
        low, high, budget = self.config.minimum, self.config.maximum, self.config.gpu_hours
        if budget is not None and m.gpu_hours >= budget:
            spent = f"{m.gpu_hours:.4g} GPU-hours of autoscale.gpu_hours = {budget:g} are spent"
            return Decision(low, f"{spent}; autoscale.minimum = {low} is left", "budget")
        if not low <= m.size <= high:
            return Decision(min(max(m.size, low), high), f"autoscale allows {low} to {high} actors", "bounds")
        if not m.whole or m.actor_s is None or m.learner_s is None:
            return Decision(m.size, "not enough was measured yet", "measure")
        settled = now - self.unsettled_s >= max(self.config.measured_s, m.learnt_s, _ROLLOUTS_SEEN * m.dispatch_s)
        starves = m.waiting_share > self.config.waiting_share
        if settled:
            self._forget(m.actor_s / m.learner_s, judging=starves)
        needed = self._worth_having(m)
        told = (
            f"the learner waits {m.waiting_share:.0%} of its time, {m.idle:.1f} of {m.running:.1f} actors wait for "
            f"room; a window takes an actor {m.actor_s:.3g} s and the learner {m.learner_s:.3g} s"
        )
        if starves:
            return self._grown(now, m, needed, told, settled)
        if m.warm and m.idle >= 1 and m.waiting_share <= self.config.waiting_share / 2:
            return self._shrunk(now, m, needed, told)
        return Decision(m.size, told, "hold", needed)

    def _forget(self, costs: float, judging: bool) -> None:
        """What was learnt under other costs. A growth that is still to be judged keeps those from before it."""
        if not judging:
            self.before = None
        if self.before is None and (self.costs is None or max(costs / self.costs, self.costs / costs) > _OTHER_COSTS):
            self.costs, self.floor, self.ceiling = costs, self.config.minimum, self.config.maximum

    def _worth_having(self, m: Measurements) -> int:
        """`pool_size`, without its last actor where that would not be busy enough to be worth its cost."""
        needed = pool_size(m.actor_s, 1, m.learner_s, 1)
        busy = m.actor_s / m.learner_s - (needed - 1)
        return needed if needed == 1 or busy * self._price(needed - 1) >= self.config.gain else needed - 1

    def _price(self, actors: float) -> float:
        """What the run costs with so many actors, over what they alone cost."""
        return (self.learner_cost + actors) / actors

    def _grown(self, now: float, m: Measurements, needed: int, told: str, settled: bool) -> Decision:
        cool_s, quiet_s = max(self.config.grow_after_s, _ROLLOUTS_SEEN * m.dispatch_s), now - self.changed_s
        unjudged = self.before is not None and not settled
        if quiet_s < cool_s or (unjudged and quiet_s < _PATIENCE * cool_s):
            return Decision(m.size, told, "cool", needed)
        if settled and (brought := self._brought(m)) is not None:
            if brought < self.config.gain:
                return self._undone(m, brought, needed)
            self.before = None
            self._forget(m.actor_s / m.learner_s, judging=False)
        if m.scoring >= _SATURATED:
            scorers = f"reward processes are at work {m.scoring:.0%} of their time: raise cluster.reward_actors"
            return Decision(m.size, f"{told}; more actors would not help, for the {scorers}", "rewards", needed)
        wanted = needed
        unforeseen = settled and m.warm and m.windows_per_s > 0 and m.actor_s <= m.size * m.learner_s
        if unforeseen:  # the formula finds the pool large enough, and the learner does not
            wanted = m.size + 1
        bounds = {
            "autoscale.maximum": self.config.maximum,
            "buffer.windows and buffer.max_age": m.size if m.idle >= 1 else m.fits,
            "autoscale.gain, by what more of them brought": self.ceiling,
        }
        bound = min(bounds, key=bounds.__getitem__)
        size = min(wanted, bounds[bound], math.ceil(m.size * self.config.growth))
        if wanted <= m.size:
            return Decision(m.size, told, "hold", needed)
        if size <= m.size:
            return Decision(m.size, f"{told}; more actors are kept back by {bound}", "bounds", needed)
        self.before = _Before(m.size, m.running, m.windows_per_s, m.learner_s)
        if unforeseen:
            self.floor = size
        return Decision(size, told, "grow", needed)

    def _brought(self, m: Measurements) -> float | None:
        """Updates per GPU-hour of the actors added last, as a share of those there were; None if not known."""
        before = self.before
        if before is None or m.running - before.running < _ADDED or not before.windows_per_s:
            return None
        if max(m.learner_s / before.learner_s, before.learner_s / m.learner_s) > _OTHER_COSTS:
            return None  # it is not the actors whom the change comes from
        added = (m.windows_per_s - before.windows_per_s) / (m.running - before.running)
        return added / before.windows_per_s * before.running * self._price(before.running)

    def _undone(self, m: Measurements, brought: float, needed: int) -> Decision:
        """Back to where a growth came from, and no further than that as long as the costs are the same."""
        size, self.before = max(self.before.size, self.config.minimum), None
        self.ceiling, self.floor = size, min(self.floor, size)
        reason = (
            f"growing from {size} to {m.size} actors brought {brought:.0%} of the updates per GPU-hour that there were;"
            f" autoscale.gain asks for {self.config.gain:.0%}"
        )
        return Decision(size, reason, "gain", needed)

    def _shrunk(self, now: float, m: Measurements, needed: int, told: str) -> Decision:
        """Never below what keeps the learner busy while as many processes as of late are being replaced."""
        size = max(needed + math.ceil(m.replacing), self.floor, self.config.minimum)
        if size >= m.size:
            return Decision(m.size, told, "hold", needed)
        if now - self.changed_s < max(self.config.shrink_after_s, _ROLLOUTS_SEEN * m.dispatch_s):
            return Decision(m.size, told, "cool", needed)
        self.before = None
        return Decision(size, told, "shrink", needed)
