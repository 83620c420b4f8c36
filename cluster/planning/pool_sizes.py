"""Choose the rollout pool to rent for a learner: simulate sizes, and find the cheapest."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.config.cluster_config import ClusterConfig
from cluster.config.plan_config import PlanConfig
from cluster.planning import placement
from cluster.planning.pool_balance import pool_size
from cluster.planning.run_shape import RunShape
from cluster.planning.simulator import Pace, Rates, Simulation
from models.errors import ConfigError

_DAY_S = 86400
_AROUND = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
"""Sizes to simulate where none are named, as shares of the balanced pool."""
_AT_ONCE = 8
"""Number of sizes simulated around the cheapest before the cheapest is chosen anew."""
_SETTLED = 2.0
"""Number of dispatches per actor after which rollouts no longer begin together."""


Play = Callable[[int, int], Simulation]
"""Simulates a number of actors for a number of updates."""


@dataclass(frozen=True)
class Size:
    """Holds one pool next to the learner, and their simulated stage."""

    rollout_gpus: int
    learner_gpus: int
    seen: Simulation
    steps: int
    """Updates of the whole stage."""
    rates: Rates
    """Rates of the simulation after its warm-up."""

    def seconds_of(self, updates: int) -> float:
        """Return the time from the first published weights to the end of update `updates`, counted from 1."""
        ended_s = self.seen.ended_s
        if updates <= len(ended_s):
            return ended_s[updates - 1]
        return ended_s[-1] + (updates - len(ended_s)) / self.rates.updates_per_s

    @property
    def gpu_days(self) -> float:
        """Return the cost of the whole stage; a GPU that waits is paid too."""
        return (self.rollout_gpus + self.learner_gpus) * self.seconds_of(self.steps) / _DAY_S

    def updates_in(self, gpu_days: float) -> int:
        """Count the updates that `gpu_days` buy, from the first published weights on."""
        seconds, ended_s = gpu_days * _DAY_S / (self.rollout_gpus + self.learner_gpus), self.seen.ended_s
        if seconds < ended_s[-1]:
            return bisect_right(ended_s, seconds)
        return len(ended_s) + int((seconds - ended_s[-1]) * self.rates.updates_per_s)


def dispatch_s(work: RunShape, pace: Pace) -> float:
    """Average the seconds of one dispatch where its actor never waits."""
    blocks = work.made_share * work.rollout.frames / work.student.block_frames
    cuts = work.rollout.batch * work.rollout.windows
    return blocks * pace.block_s + cuts * pace.cut_s


def balanced_gpus(work: RunShape, pace: Pace) -> int:
    """Count the GPUs of the smallest pool that is as fast as the learner."""
    dmd, rollout = work.dmd, work.rollout
    actors = pool_size(
        dispatch_s(work, pace),
        rollout.batch * rollout.windows,
        pace.update_s(dmd.critic_updates),
        dmd.batch_size * (1 + dmd.critic_updates),
    )
    return max(1, math.ceil(actors / placement.processes_per_gpu(placement.rollout(work.cluster)) - 1e-9))


def actors_of(cluster: ClusterConfig, rollout_gpus: int) -> int:
    """Count the rollout processes that `rollout_gpus` hold. Raises ConfigError where there are none."""
    actors = int(rollout_gpus * placement.processes_per_gpu(placement.rollout(cluster)) + 1e-9)
    if actors < 1:
        raise ConfigError(
            "plan.rollout_gpus",
            rollout_gpus,
            f"one rollout process takes cluster.actor_gpus={cluster.actor_gpus:g}",
            f"write {math.ceil(cluster.actor_gpus)} or more",
        )
    return actors


def pool_excess(cluster: ClusterConfig, stages: Sequence[str], rollout_gpus: int) -> str | None:
    """Explain why the cluster, as configured, can never hold such a pool; return None if it can.

    Processes that score are never more than actors: the others would not be busy.
    """
    actors = actors_of(cluster, rollout_gpus)
    scorers = min(actors, cluster.reward_actors) if "grpo" in stages else 0
    wanted = (
        placement.learner(cluster),
        replace(placement.rollout(cluster), processes=actors),
        replace(placement.reward(cluster), processes=scorers),
        placement.relay(cluster),
    )
    return placement.excess(cluster, [role for role in wanted if role.processes])


def largest_pool(cluster: ClusterConfig, stages: Sequence[str]) -> int | None:
    """Count the most rollout GPUs that the cluster has next to the learner; None if unbounded.

    Raises ConfigError where it has no room for a single actor.
    """
    if cluster.gpus is None:
        return None
    smallest = max(1, math.ceil(cluster.actor_gpus))
    if (why := pool_excess(cluster, stages, smallest)) is not None:
        raise ConfigError("cluster.gpus", cluster.gpus, why, "lower plan.learner_gpus, or choose a larger cluster=")
    if not cluster.actor_gpus:
        return None
    pools = range(smallest, max(smallest, cluster.gpus) + 1)
    return smallest - 1 + bisect_left(pools, True, key=lambda gpus: pool_excess(cluster, stages, gpus) is not None)


def size_up(work: RunShape, pace: Pace, plan: PlanConfig, play: Play, rollout_gpus: int) -> Size:
    """Simulate the stage with the actors that `rollout_gpus` hold.

    Raises ConfigError where that is none.
    """
    actors = actors_of(work.cluster, rollout_gpus)
    # A growing horizon would make the rest of the stage slower than the simulated part.
    played = work.dmd.steps if work.rollout.curriculum else min(plan.updates, work.dmd.steps)
    seen = play(actors, played)
    settled = bisect_left(seen.ended_s, _SETTLED * dispatch_s(work, pace)) + 1
    warm_up = min(settled, len(seen.ended_s) // 2)
    return Size(rollout_gpus, work.cluster.learner_ranks, seen, work.dmd.steps, seen.settled(warm_up))


def sizes(work: RunShape, pace: Pace, plan: PlanConfig, play: Play, progress: Callable[[str], None]) -> list[Size]:
    """Simulate plan.rollout_gpus, else some pools around the balance and ever more around the cheapest; smallest first.

    `play` simulates so many actors for so many updates; `progress` gets a line before each. Raises ConfigError, before
    the first, where the cluster could not hold one of plan.rollout_gpus, or none at all.
    """
    simulated: dict[int, Size] = {}

    def look(wanted: Iterable[int]) -> None:
        for gpus in sorted(set(wanted) - simulated.keys()):
            progress(f"{gpus} rollout GPUs")
            simulated[gpus] = size_up(work, pace, plan, play, gpus)

    largest = largest_pool(work.cluster, work.stages)
    if plan.rollout_gpus:
        for gpus in (gpus for gpus in plan.rollout_gpus if largest is not None and gpus > largest):
            raise ConfigError(
                "plan.rollout_gpus",
                gpus,
                str(pool_excess(work.cluster, work.stages, gpus)),
                "lower it, or choose a larger cluster=",
            )
        look(plan.rollout_gpus)
    else:
        balanced, smallest = balanced_gpus(work, pace), max(1, math.ceil(work.cluster.actor_gpus))
        top = math.inf if largest is None else largest
        look(min(max(smallest, round(share * balanced)), top) for share in _AROUND)
        while True:  # simulate sizes between the cheapest and its neighbours, a few at a time
            best = cheapest(list(simulated.values())).rollout_gpus
            below = max((other for other in simulated if other < best), default=smallest - 1)
            above = min((other for other in simulated if other > best), default=min(best + 1, top) + 1)
            between = [*range(below + 1, best), *range(best + 1, above)]
            if not between:
                break
            look(between[:: math.ceil(len(between) / _AT_ONCE)])
    return [simulated[gpus] for gpus in sorted(simulated)]


def cheapest(candidates: list[Size]) -> Size:
    """Return the size whose stage takes the fewest GPU-days; the smaller of equal ones."""
    return min(candidates, key=lambda size: (round(size.gpu_days, 9), size.rollout_gpus))
