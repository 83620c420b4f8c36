"""Which rollout pool to rent for a learner: what each size would do, and the cheapest of them."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cluster.config.plan_config import PlanConfig
from cluster.planning import placement
from cluster.planning.pool_balance import pool_size
from cluster.planning.run_shape import RunShape
from cluster.planning.simulator import Pace, Simulation
from models.errors import ConfigError

_DAY_S = 86400
_AROUND = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
"""Shares of the balanced pool that are looked at where none are named."""
_AT_ONCE = 8
"""Sizes beside the cheapest that are looked at before it is asked again which that is."""
_SETTLED = 2.0
"""Dispatches of an actor after which rollouts no longer begin together."""


Play = Callable[[int, int], Simulation]
"""Simulates a number of actors for a number of updates."""


@dataclass(frozen=True)
class Size:
    """One pool beside the learner, and the stage that they make."""

    rollout_gpus: int
    learner_gpus: int
    seen: Simulation
    warm_up: int
    """Updates that are left out of rates and shares."""
    steps: int

    @property
    def gpus(self) -> int:
        return self.rollout_gpus + self.learner_gpus

    @property
    def updates_per_s(self) -> float:
        return self.seen.updates_per_s(self.warm_up)

    @property
    def windows_per_s(self) -> float:
        return self.seen.windows_per_s(self.warm_up)

    @property
    def learner_idle_share(self) -> float:
        return self.seen.learner_idle_share(self.warm_up)

    @property
    def rollout_idle_share(self) -> float:
        return self.seen.rollout_idle_share(self.warm_up)

    @property
    def mean_age(self) -> float:
        return self.seen.mean_age(self.warm_up)

    def seconds_of(self, updates: int) -> float:
        """From the first published weights to the end of update number `updates`, counted from 1."""
        ended_s = self.seen.ended_s
        if updates <= len(ended_s):
            return ended_s[updates - 1]
        return ended_s[-1] + (updates - len(ended_s)) / self.updates_per_s

    @property
    def stage_s(self) -> float:
        """Of all updates of the stage."""
        return self.seconds_of(self.steps)

    @property
    def gpu_days(self) -> float:
        """Of the whole stage; a GPU that waits is paid too."""
        return self.gpus * self.stage_s / _DAY_S

    def updates_in(self, gpu_days: float) -> int:
        """Updates that so many GPU-days buy, from the first published weights on."""
        seconds, ended_s = gpu_days * _DAY_S / self.gpus, self.seen.ended_s
        if seconds < ended_s[-1]:
            return bisect_right(ended_s, seconds)
        return len(ended_s) + int((seconds - ended_s[-1]) * self.updates_per_s)


def dispatch_s(work: RunShape, pace: Pace) -> float:
    """Mean seconds of one dispatch where its actor never waits."""
    blocks = work.made_share * work.rollout.frames / work.student.block_frames
    cuts = work.rollout.batch * work.rollout.windows
    return blocks * pace.block_s + cuts * pace.cut_s


def balanced_gpus(work: RunShape, pace: Pace) -> int:
    """GPUs of the smallest pool whose rate is that of the learner."""
    dmd, rollout = work.dmd, work.rollout
    actors = pool_size(
        dispatch_s(work, pace),
        rollout.batch * rollout.windows,
        pace.update_s(dmd.critic_updates),
        work.dmd_windows,
    )
    return max(1, math.ceil(actors / placement.processes_per_gpu(placement.rollout(work.cluster)) - 1e-9))


def actors_of(work: RunShape, rollout_gpus: int) -> int:
    """Rollout processes that `rollout_gpus` hold. Raises ValueError where that is none."""
    actors = int(rollout_gpus * placement.processes_per_gpu(placement.rollout(work.cluster)) + 1e-9)
    if actors < 1:
        raise ConfigError(
            "plan.rollout_gpus",
            rollout_gpus,
            f"one rollout process takes cluster.actor_gpus={work.cluster.actor_gpus:g}",
            f"write {math.ceil(work.cluster.actor_gpus)} or more",
        )
    return actors


def pool_excess(work: RunShape, rollout_gpus: int) -> str | None:
    """Explain why the cluster of the run could never hold such a pool, as far as the keys say; None where it could.

    Processes that score are never more than actors: the others would not be busy.
    """
    cluster, actors = work.cluster, actors_of(work, rollout_gpus)
    scorers = min(actors, cluster.reward_actors) if "grpo" in work.stages else 0
    wanted = placement.present(
        placement.learner(cluster),
        replace(placement.rollout(cluster), processes=actors),
        replace(placement.reward(cluster), processes=scorers),
        placement.relay(cluster),
    )
    return placement.excess(cluster, wanted)


def largest_pool(work: RunShape) -> int | None:
    """The most rollout GPUs that the cluster can have beside the learner; None where the keys set no bound.

    Raises ValueError where it has no room for a single actor.
    """
    if work.cluster.gpus is None:
        return None
    smallest = _smallest(work)
    if (why := pool_excess(work, smallest)) is not None:
        raise ConfigError(
            "cluster.gpus", work.cluster.gpus, why, "lower plan.learner_gpus, or choose a larger cluster="
        )
    if not work.cluster.actor_gpus:
        return None
    pools = range(smallest, max(smallest, work.cluster.gpus) + 1)
    return smallest - 1 + bisect_left(pools, True, key=lambda gpus: pool_excess(work, gpus) is not None)


def _smallest(work: RunShape) -> int:
    return max(1, math.ceil(work.cluster.actor_gpus))


def size_up(work: RunShape, pace: Pace, plan: PlanConfig, play: Play, rollout_gpus: int) -> Size:
    """Play the stage through with the actors that `rollout_gpus` hold.

    Raises ValueError where that is none.
    """
    actors = actors_of(work, rollout_gpus)
    # A horizon that is still to grow would make the rest of the stage slower than what was seen.
    played = work.dmd.steps if work.rollout.curriculum else min(plan.updates, work.dmd.steps)
    seen = play(actors, played)
    settled = bisect_left(seen.ended_s, _SETTLED * dispatch_s(work, pace)) + 1
    warm_up = min(settled, len(seen.ended_s) // 2)
    return Size(rollout_gpus, work.cluster.learner_ranks, seen, warm_up, work.dmd.steps)


def sizes(work: RunShape, pace: Pace, plan: PlanConfig, play: Play, progress: Callable[[str], None]) -> list[Size]:
    """Simulate plan.rollout_gpus, else some pools around the balance and ever more around the cheapest; smallest first.

    `play` simulates so many actors for so many updates; `progress` gets a line before each. Raises ConfigError, before
    the first, where the cluster could not hold one of plan.rollout_gpus, or none at all.
    """
    known: dict[int, Size] = {}

    def look(wanted: Iterable[int]) -> None:
        for gpus in sorted(set(wanted) - known.keys()):
            progress(f"{gpus} rollout GPUs")
            known[gpus] = size_up(work, pace, plan, play, gpus)

    largest = largest_pool(work)
    if plan.rollout_gpus:
        for gpus in (gpus for gpus in plan.rollout_gpus if largest is not None and gpus > largest):
            raise ConfigError(
                "plan.rollout_gpus", gpus, str(pool_excess(work, gpus)), "lower it, or choose a larger cluster="
            )
        look(plan.rollout_gpus)
    else:
        balanced, smallest = balanced_gpus(work, pace), _smallest(work)
        top = math.inf if largest is None else largest
        look(min(max(smallest, round(share * balanced)), top) for share in _AROUND)
        while between := _around_best(list(known.values()), smallest, top):
            look(between)
    return [known[gpus] for gpus in sorted(known)]


def _around_best(found: list[Size], smallest: int, largest: float) -> list[int]:
    """Sizes between the cheapest and its neighbours, a few at a time; none where there are none left."""
    best, gpus = cheapest(found).rollout_gpus, sorted(size.rollout_gpus for size in found)
    below = max((other for other in gpus if other < best), default=smallest - 1)
    above = min((other for other in gpus if other > best), default=min(best + 1, largest) + 1)
    between = [*range(below + 1, best), *range(best + 1, above)]
    return between[:: math.ceil(len(between) / _AT_ONCE)] if between else []


def cheapest(found: list[Size]) -> Size:
    """The size whose stage takes the fewest GPU-days; the smaller of equal ones."""
    return min(found, key=lambda size: (round(size.gpu_days, 9), size.rollout_gpus))
