"""The benchmarks count what they say they count. How fast this machine is, is no law."""

import asyncio
from dataclasses import dataclass

from benchmarks import control_plane
from benchmarks.decoupling import Measured, block_s, lock_step, run_alone, run_config, starts_p_value, streaming
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from models.records import CRITIC, STUDENT
from tests.fakes.small_runs import smallest_run


def test_streaming_takes_every_window_of_the_first_rollouts_once_and_none_before_its_time():
    config = run_config(actors=5)
    run = run_alone(streaming(config, warm_up=0, updates=2))
    drawn = {
        (r.id, w.index): w
        for i in range(8)
        for r in make_dispatcher(stage_spec("dmd", config)).rollouts(i)
        for w in r.windows
    }
    assert len(run.taken) == len(drawn) == 2 * config.dmd.batch_size * (1 + config.dmd.critic_updates)
    assert {(w.rollout, w.index): (w.role, w.start) for w in run.taken} == {
        where: (plan.role, plan.start) for where, plan in drawn.items()
    }
    assert min(run.lateness) >= 0.999, "a window was there before its last block"
    assert 0 < run.compute_s <= run.elapsed_s
    assert run.first_s >= run.predicted_first_s


def test_actors_take_up_newer_weights_between_the_blocks_of_a_rollout():
    run = run_alone(streaming(run_config(actors=5), warm_up=0, updates=3))
    assert all(list(window.versions) == sorted(window.versions) for window in run.taken)
    assert any(len(set(window.versions)) > 1 for window in run.taken), "no window spans two versions"


def test_the_lock_step_loop_never_overlaps_rollouts_and_training():
    config = run_config(actors=5)
    updates_per_s, ceiling = run_alone(lock_step(config, rounds=1))
    last = max(
        plan.start
        for i in range(5)
        for r in make_dispatcher(stage_spec("dmd", config)).rollouts(i)
        for plan in r.windows
    )
    rollouts_s = (last + config.window.frames) / config.student.block_frames * block_s(config)
    assert 1 / updates_per_s >= rollouts_s, "an update of five rollouts cannot come before the longest of them is made"
    assert ceiling > 1


@dataclass(frozen=True)
class Placed:
    rollout: int
    role: str
    start: int


def taken_under(law):
    config = run_config(actors=5)
    config.window.law = law
    rollouts = [r for i in range(200) for r in make_dispatcher(stage_spec("dmd", config)).rollouts(i)]
    return Measured(config, taken=[Placed(r.id, plan.role, plan.start) for r in rollouts for plan in r.windows])


def test_the_p_value_tells_even_starts_from_starts_that_favour_the_beginning():
    for role in (STUDENT, CRITIC):
        assert starts_p_value([taken_under("uniform")], role) > 1e-4 > starts_p_value([taken_under("beta(1, 4)")], role)


def test_windows_of_rollouts_at_the_edges_of_a_run_are_not_counted():
    even, config = taken_under("uniform"), run_config(actors=5)
    edges = [Placed(i, CRITIC, 0) for i in range(config.cluster.rollout_actors) for _ in range(500)]
    edges += [Placed(200 + i, CRITIC, 0) for i in range(500)]
    assert starts_p_value([Measured(config, taken=even.taken + edges)], CRITIC) == starts_p_value([even], CRITIC)


def test_every_plan_of_the_control_plane_is_met_by_all_ranks_and_no_latency_is_negative():
    config = smallest_run(actors=64)
    run = asyncio.run(control_plane.measure(config, 0.0, 0.05))
    assert run.windows > 0
    assert len(run.takes_s) % (config.dmd.batch_size // control_plane.RANK_WINDOWS * 6) == 0
    assert min(run.latencies_s) >= 0 and min(run.takes_s) >= 0
