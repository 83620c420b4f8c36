"""Which pool is looked at, and which is the cheapest."""

import re
from dataclasses import replace

import pytest

import settings
from cluster.config.plan_config import PlanConfig
from cluster.planning import placement, pool_sizes
from cluster.planning.pool_sizes import balanced_gpus, cheapest, largest_pool, pool_excess
from cluster.planning.run_shape import run_shape_of
from cluster.planning.simulator import Pace, simulate
from models.errors import ConfigError
from tests.fakes.commands import replaced

PACE = Pace(block_s=0.5, cut_s=0.1, student_s=3.0, critic_s=1.5, publish_s=0.1)


def wan(*arguments):
    return settings.load(replaced(["preset=wan_1_3b", "cluster.learner_ranks=8", "dmd.steps=60"], *arguments))


def sizes(config, pace, plan, progress):
    play = lambda actors, updates: simulate(config, pace, actors, updates)  # noqa: E731
    return pool_sizes.sizes(run_shape_of(config), pace, plan, play, progress)


def size_up(config, pace, plan, gpus):
    play = lambda actors, updates: simulate(config, pace, actors, updates)  # noqa: E731
    return pool_sizes.size_up(run_shape_of(config), pace, plan, play, gpus)


def silent(what):
    return None


def test_no_pool_is_cheaper_than_the_one_that_is_marked():
    config, plan = wan("dmd.steps=30"), PlanConfig(updates=15)
    found = sizes(config, PACE, plan, silent)
    best, gpus = cheapest(found), [size.rollout_gpus for size in found]
    assert gpus == sorted(set(gpus)) and {best.rollout_gpus - 1, best.rollout_gpus + 1} <= set(gpus)
    every = [size_up(config, PACE, plan, n).gpu_days for n in range(best.rollout_gpus - 5, best.rollout_gpus + 6)]
    assert best.gpu_days <= 1.01 * min(every)
    assert best.rates.learner_idle_share < 0.15 and best.rates.rollout_idle_share < 0.15


def test_only_the_pools_that_are_asked_for_are_looked_at():
    lines = []
    found = sizes(wan(), PACE, PlanConfig(updates=5, rollout_gpus=[30, 3]), lines.append)
    assert [size.rollout_gpus for size in found] == [3, 30] and len(lines) == 2


@pytest.mark.parametrize(("cluster", "ranks", "most"), [("h100_8", 2, 6), ("h100_32", 8, 24), ("h100_64_spot", 8, 56)])
def test_a_preset_leaves_its_own_pool_and_not_one_gpu_more(cluster, ranks, most):
    config = wan(f"cluster={cluster}", f"cluster.learner_ranks={ranks}")
    assert largest_pool(config.cluster, config.stages) == most == config.cluster.rollout_actors
    assert (
        placement.excess(config.cluster, placement.roles(config)) is None
        and pool_excess(config.cluster, config.stages, most) is None
    )
    assert pool_excess(config.cluster, config.stages, most + 1).startswith(f"{ranks} learner, {most + 1} rollout")
    assert largest_pool(wan().cluster, wan().stages) is None, "without cluster.gpus nobody knows"


def test_pools_that_the_cluster_could_never_hold_are_not_looked_at():
    config, slow = wan("cluster=h100_32", "dmd.steps=10"), replace(PACE, block_s=9.0)
    found = [size.rollout_gpus for size in sizes(config, slow, PlanConfig(updates=3), silent)]
    assert max(found) == 24 and balanced_gpus(run_shape_of(config), slow) > 24
    lines = []
    with pytest.raises(ConfigError) as error:
        sizes(config, slow, PlanConfig(updates=3, rollout_gpus=[8, 25]), lines.append)
    assert (error.value.key, error.value.value) == ("plan.rollout_gpus", 25)
    assert re.findall(r"\d+", error.value.problem)[:2] == ["8", "25"]
    full = wan("cluster=h100_8")
    with pytest.raises(ConfigError) as error:
        sizes(full, PACE, PlanConfig(updates=3), lines.append)
    assert (error.value.key, error.value.value) == ("cluster.gpus", 8) and "plan.learner_gpus" in error.value.fix
    assert re.findall(r"\d+", error.value.problem)[:3] == ["8", "1", "16"]
    assert lines == [], "said before the first is played through"


def test_what_is_not_played_through_goes_on_as_what_was():
    config = wan()
    whole, part = (size_up(config, PACE, PlanConfig(updates=n), 10) for n in (60, 30))
    assert whole.seconds_of(whole.steps) == simulate(config, PACE, 10, 60).ended_s[-1]
    assert part.seconds_of(part.steps) == pytest.approx(whole.seconds_of(whole.steps), rel=0.05)


def test_a_growing_horizon_is_played_through_to_the_end():
    grows = wan("rollout.curriculum=[[0,42],[40,402]]")
    seen = size_up(grows, PACE, PlanConfig(updates=5), 10).seen
    assert len(seen.ended_s) == 60
    short, long = seen.ended_s[30] - seen.ended_s[10], seen.ended_s[59] - seen.ended_s[49]
    assert long / 10 > 1.5 * short / 20


@pytest.mark.parametrize("gpus", [4, 40])
def test_a_budget_buys_the_updates_that_cost_it(gpus):
    size = size_up(wan(), PACE, PlanConfig(updates=30), gpus)
    assert size.gpu_days == pytest.approx((8 + gpus) * size.seconds_of(size.steps) / 86400)
    assert size.updates_in(size.gpu_days + 1e-9) == 60 and size.updates_in(0.0) == 0
    for days in (0.1 * size.gpu_days, 0.7 * size.gpu_days, 9 * size.gpu_days):
        bought, seconds = size.updates_in(days), days * 86400 / (8 + gpus)
        assert bought == 0 or size.seconds_of(bought) <= seconds
        assert size.seconds_of(bought + 1) > seconds


def test_gpus_hold_whole_actors_only():
    half, three = wan("cluster.actor_gpus=0.5"), wan("cluster.actor_gpus=3")
    assert size_up(half, PACE, PlanConfig(updates=5), 3).seen.actors == 6
    assert size_up(three, PACE, PlanConfig(updates=5), 8).seen.actors == 2
    with pytest.raises(ValueError, match=r"^plan.rollout_gpus=2: "):
        size_up(three, PACE, PlanConfig(updates=5), 2)
    assert min(size.rollout_gpus for size in sizes(three, PACE, PlanConfig(updates=5), silent)) >= 3


@pytest.mark.parametrize(("share", "each"), [(1.0, 1), (0.75, 1), (0.5, 2), (0.3, 3), (2.0, 0.5), (0.0, 1)])
def test_a_gpu_takes_whole_processes_as_ray_places_them(share, each):
    role = placement.Role("rollout", 9, 1, share)
    assert placement.processes_per_gpu(role) == each
    if 0 < share <= 1:
        assert placement.placed([role], [placement.Node(64, 1, {})]) == {"rollout": each}
