"""Decide how large the rollout pool should be, from measurements: no processes, clocks or files."""

import math
from dataclasses import dataclass

from cluster.config.autoscale_config import AutoscaleConfig
from cluster.planning.pool_balance import pool_size

_OTHER_COSTS = 1.25
"""Factor of change in a cost ratio from which learnt bounds of the pool size are discarded."""
_ROLLOUTS_SEEN = 2
"""Number of rollouts before a size is evaluated: new actors' first windows come late in a rollout."""
_PATIENCE = 3
"""Number of cool-downs after which a scale-up is no longer evaluated: actors may keep dying."""
_ADDED = 0.5
"""Smallest average number of added actors for which a scale-up is evaluated: fewer drown in noise."""
_SATURATED = 0.9
"""Busy share of the reward processes from which more actors would only wait for scores."""
QUIET = ("hold", "measure", "cool")
"""Kinds of decisions without a line for the terminal. The size stays, and no bound of the user limits it."""


@dataclass(frozen=True)
class Measurements:
    """Holds measurements of pool and learner over the last `autoscale.measured_s` seconds."""

    size: int
    """Number of processes requested now, with those that wait for a node."""
    starting: int
    """Number of them that are not up yet."""
    running: float
    """Average number of processes that were up."""
    idle: float
    """Average number of running actors that waited for room in the buffer."""
    replacing: float
    """Average number of lost processes whose replacements were not up yet."""
    scoring: float
    """Share of their time that reward processes were at work."""
    waiting_share: float
    """Share of its time that the learner waited for windows."""
    windows_per_s: float
    """Windows that the learner took per second."""
    actor_s: float | None
    """Seconds per window of one actor; None before one has finished a dispatch."""
    learner_s: float | None
    """Seconds per window of the learner, without waits; None before its first window."""
    learnt_s: float
    """Seconds over which the learner was measured: a whole update at least, where updates are long."""
    dispatch_s: float
    """An actor's seconds from the beginning of a dispatch to its last window."""
    fits: int
    """Dispatches that the buffer holds at once: more actors would find no room."""
    gpu_hours: float
    """GPU-hours of the pool in the whole run."""
    whole: bool
    """True once this stage has lasted as long as the span of the measurements."""
    warm: bool
    """True once the learner has begun its second update; in the first it loads and compiles."""


@dataclass(frozen=True)
class Decision:
    """Holds a size for the pool and its reason."""

    size: int
    reason: str
    """Line for the terminal."""
    kind: str
    """Kind of decision: grow, shrink; measure, cool or hold for no change; or the bound that limits the pool."""
    needed: int | None = None
    """Fewest actors that keep the learner busy, by the measured costs of both."""


@dataclass(frozen=True)
class _Before:
    """Holds measurements from before the pool grew."""

    size: int
    running: float
    windows_per_s: float
    learner_s: float


class Controller:
    """Grows a pool that starves its learner, and shrinks one that waits for it, within the user's bounds.

    The size comes from the measured costs by `pool_size`, not by trial, so one decision is enough where the costs
    hold. Effects that they do not foresee are learnt: a size that the formula finds large enough and that starves the
    learner is never gone back to, and a size that brought too little for its cost is left again. Both are forgotten
    when the costs change. A lost process is no matter of size: the supervisor replaces it at once.
    """

    def __init__(self, config: AutoscaleConfig, learner_cost: float = 1.0):
        """Start without history; `learner_cost` is the learner's GPUs over those of one actor."""
        self.config, self.learner_cost = config, learner_cost
        self.changed_s: float | None = None
        self.unsettled_s = -math.inf
        """Times of the last change of size, and of the last missing actor; a run never begins by shrinking."""
        self.before: _Before | None = None
        self.costs: float | None = None
        """Cost ratio (actors that keep one learner busy) under which floor and ceiling were learnt."""
        self.floor, self.ceiling = config.minimum, config.maximum

    def decide(self, now: float, measured: Measurements) -> Decision:
        """Decide the size from now on; `now` in seconds of any clock that only rises."""
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
        needed = pool_size(m.actor_s, 1, m.learner_s, 1)
        last_busy = m.actor_s / m.learner_s - (needed - 1)
        if needed > 1 and last_busy * ((self.learner_cost + (needed - 1)) / (needed - 1)) < self.config.gain:
            needed -= 1  # the last actor would not be busy enough to be worth its cost
        line = (
            f"the learner waits {m.waiting_share:.0%} of its time, {m.idle:.1f} of {m.running:.1f} actors wait for "
            f"room; a window takes an actor {m.actor_s:.3g} s and the learner {m.learner_s:.3g} s"
        )
        if starves:
            return self._grow(now, m, needed, line, settled)
        # Enough to keep the learner busy while as many processes as of late are being replaced.
        size = max(needed + math.ceil(m.replacing), self.floor, self.config.minimum)
        if not m.warm or m.idle < 1 or m.waiting_share > self.config.waiting_share / 2 or size >= m.size:
            return Decision(m.size, line, "hold", needed)
        if now - self.changed_s < max(self.config.shrink_after_s, _ROLLOUTS_SEEN * m.dispatch_s):
            return Decision(m.size, line, "cool", needed)
        self.before = None
        return Decision(size, line, "shrink", needed)

    def _forget(self, costs: float, judging: bool) -> None:
        """Discard bounds learnt under other costs; during an evaluation the costs before it stay."""
        if not judging:
            self.before = None
        if self.before is None and (self.costs is None or max(costs / self.costs, self.costs / costs) > _OTHER_COSTS):
            self.costs, self.floor, self.ceiling = costs, self.config.minimum, self.config.maximum

    def _grow(self, now: float, m: Measurements, needed: int, line: str, settled: bool) -> Decision:
        cool_s, quiet_s = max(self.config.grow_after_s, _ROLLOUTS_SEEN * m.dispatch_s), now - self.changed_s
        unjudged = self.before is not None and not settled
        if quiet_s < cool_s or (unjudged and quiet_s < _PATIENCE * cool_s):
            return Decision(m.size, line, "cool", needed)
        if settled and (gain := self._gain(m)) is not None:
            if gain < self.config.gain:
                # Back to the size before, and never beyond it as long as the costs are the same.
                size, self.before = max(self.before.size, self.config.minimum), None
                self.ceiling, self.floor = size, min(self.floor, size)
                reason = (
                    f"growing from {size} to {m.size} actors brought {gain:.0%} of the updates per GPU-hour that there "
                    f"were; autoscale.gain asks for {self.config.gain:.0%}"
                )
                return Decision(size, reason, "gain", needed)
            self.before = None
            self._forget(m.actor_s / m.learner_s, judging=False)
        if m.scoring >= _SATURATED:
            scorers = f"reward processes are at work {m.scoring:.0%} of their time: raise cluster.reward_actors"
            return Decision(m.size, f"{line}; more actors would not help, for the {scorers}", "rewards", needed)
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
            return Decision(m.size, line, "hold", needed)
        if size <= m.size:
            return Decision(m.size, f"{line}; more actors are kept back by {bound}", "bounds", needed)
        self.before = _Before(m.size, m.running, m.windows_per_s, m.learner_s)
        if unforeseen:
            self.floor = size
        return Decision(size, line, "grow", needed)

    def _gain(self, m: Measurements) -> float | None:
        """Return updates per GPU-hour of the actors added last, as a share of those before; None if not known."""
        before = self.before
        if before is None or m.running - before.running < _ADDED or not before.windows_per_s:
            return None
        if max(m.learner_s / before.learner_s, before.learner_s / m.learner_s) > _OTHER_COSTS:
            return None  # the change comes from the learner
        added = (m.windows_per_s - before.windows_per_s) / (m.running - before.running)
        price = (self.learner_cost + before.running) / before.running  # of the run, over that of its actors alone
        return added / before.windows_per_s * before.running * price
