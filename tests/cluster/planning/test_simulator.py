"""The rehearsed stage against the run's own coordinator, both in simulated time, and the laws of two halves."""

import asyncio
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rollout_config import RolloutConfig, WindowConfig
from actors.student_actor import blocks_kept
from cluster.config.buffer_config import BufferConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.run_config import Config
from cluster.planning.pool_balance import made_share, pool_size
from cluster.planning.simulator import Pace, simulate
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from cluster.supply.buffer import TooOld
from learner.stage_config import DmdConfig
from models.network_config import StudentConfig
from models.records import CRITIC, STUDENT
from tests.fakes.simulated_pool import SimulatedCoordinator, SimulatedPool, no_weights
from tests.fakes.virtual_time import run_in_no_time


def stage(actors=3, seed=0, batch=1, frames=60, critic=5, size=2, law="uniform", **buffer):
    """Rollouts of five horizons and twenty blocks, six windows in each, and updates of twelve windows."""
    return Config(
        seed=seed,
        student=StudentConfig(height=4, width=4, horizon_frames=12, attention_frames=12),
        rollout=RolloutConfig(frames=frames, batch=batch, windows=6),
        window=WindowConfig(frames=12, burn_in_frames=9, law=law),
        dmd=DmdConfig(batch_size=size, critic_updates=critic),
        buffer=BufferConfig(**{"windows": 96} | buffer),
        cluster=ClusterConfig(rollout_actors=actors, timeout_s=1e9),
    )


def pace(block_s=1.0, cut_s=0.0, student_s=5.01, critic_s=2.003, publish_s=0.257):
    return Pace(block_s, cut_s, student_s, critic_s, publish_s)


class PullingPool(SimulatedPool):
    """As real actors do, takes up the newest weights before every block, also before the first of a dispatch."""

    coordinator = None

    async def stream(self, slot, *dispatched):
        if slot in self.versions:
            self._pull(None, slot)
        async for delivery in super().stream(slot, *dispatched):
            yield delivery

    def _pull(self, epoch, slot):
        self.versions[slot] = self.coordinator.weights.version


async def coordinated(config, pace, updates):
    """(end of each update, seconds waited in it, mean age of its windows) of the loop of train.py."""
    clock = asyncio.get_running_loop().time
    coordinator = SimulatedCoordinator(config, pace.block_s, pool=PullingPool)
    coordinator.pool.coordinator = coordinator
    epoch = await coordinator.begin(stage_spec("dmd", config))
    await coordinator.publish(epoch, 0, 0, [no_weights(0, 0)])
    began, number, seen = clock(), 0, []
    for update in range(1, updates + 1):
        waited_s, ages = 0.0, []
        for role, seconds in [(CRITIC, pace.critic_s)] * config.dmd.critic_updates + [(STUDENT, pace.student_s)]:
            asked = clock()
            headers = await coordinator.take(epoch, number, role, config.dmd.batch_size, 0, 1)
            waited_s += clock() - asked
            ages += [header.age for header in headers]
            number += 1
            await asyncio.sleep(seconds)
        await asyncio.sleep(pace.publish_s)
        await coordinator.publish(epoch, update, update, [no_weights(update, update)])
        seen.append((clock() - began, waited_s, statistics.mean(ages)))
    first_s = min(coordinator.available.values()) - began
    return first_s, *zip(*seen, strict=True)


@pytest.mark.parametrize(
    ("config", "block_s"),
    [
        (stage(actors=1), 1.0),
        (stage(actors=3, seed=1), 1.0),
        (stage(actors=7, seed=2), 0.3),
        (stage(actors=40), 1.0),
        (stage(actors=4, batch=2, windows=48), 1.7),
        (stage(actors=5, batch=3, critic=3, size=4, windows=40, law="beta(1, 4)"), 1.3),
        (stage(actors=9, windows=24), 3.1),
        (stage(actors=8, policy="weight", max_age=1), 0.7),
        (stage(actors=9, policy="drop", max_age=6), 1.9),
    ],
)
def test_a_rehearsal_goes_as_the_runs_own_coordinator_does_in_simulated_time(config, block_s):
    paced = pace(block_s)
    first_s, ended_s, waited_s, ages = run_in_no_time(coordinated(config, paced, 25))
    seen = simulate(config, paced, config.cluster.rollout_actors, 25)
    assert seen.first_window_s == pytest.approx(first_s)
    assert seen.ended_s == pytest.approx(ended_s, rel=1e-6)
    assert seen.waited_s == pytest.approx(waited_s, abs=1e-4)
    assert seen.ages == pytest.approx(ages)


stages = st.builds(
    stage,
    seed=st.integers(0, 5),
    batch=st.integers(1, 3),
    frames=st.sampled_from([12, 24, 60]),
    critic=st.integers(1, 5),
    size=st.integers(1, 3),
    law=st.sampled_from(["uniform", "beta(1, 4)", "prefix(1)"]),
    windows=st.integers(36, 200),
    max_age=st.integers(10, 14),
)
paces = st.builds(
    pace,
    block_s=st.floats(0.1, 10),
    cut_s=st.floats(0, 3),
    student_s=st.floats(0.1, 20),
    critic_s=st.floats(0.1, 20),
    publish_s=st.floats(0, 2),
)
AT_ONCE = Pace(block_s=1.0, cut_s=0.0, student_s=1e-9, critic_s=1e-9, publish_s=0.0)


def not_before(some, others):
    return all(a >= b - 1e-6 * abs(b) for a, b in zip(some, others, strict=True))


@settings(max_examples=25)
@given(stages, paces, st.integers(1, 12), st.integers(1, 4))
def test_more_actors_never_make_an_update_later(config, paced, actors, more):
    few, many = (simulate(config, paced, n, 12) for n in (actors, actors + more))
    assert not_before(few.ended_s, many.ended_s)


@settings(max_examples=25)
@given(stages, paces, st.integers(1, 12))
def test_neither_half_goes_faster_than_it_would_alone_and_shares_are_shares(config, paced, actors):
    seen = simulate(config, paced, actors, 12)
    alone_s = paced.update_s(config.dmd.critic_updates)
    assert not_before(seen.ended_s, [alone_s * (i + 1) for i in range(12)])
    unbounded = stage(
        seed=config.seed, batch=config.rollout.batch, frames=config.rollout.frames, critic=config.dmd.critic_updates,
        size=config.dmd.batch_size, law=config.window.law, windows=10**6, max_age=10**6,
    )  # fmt: skip
    pool_alone = Pace(paced.block_s, paced.cut_s, 1e-12, 1e-12, 0.0)
    assert not_before(seen.ended_s, simulate(unbounded, pool_alone, actors, 12).ended_s)
    for warm_up in (0, 5):
        assert 0 <= seen.settled(warm_up).learner_idle_share <= 1 and 0 <= seen.settled(warm_up).rollout_idle_share <= 1
        computing = 1 - seen.settled(warm_up).learner_idle_share
        assert computing == pytest.approx(seen.settled(warm_up).updates_per_s * alone_s), (
            "the learner waits or computes"
        )


@pytest.mark.parametrize(("batch", "law"), [(1, "uniform"), (3, "uniform"), (1, "beta(1, 4)")])
def test_a_starved_learner_gets_what_the_actors_make_until_their_last_windows(batch, law):
    config = stage(batch=batch, law=law, windows=10**4, max_age=10**4)
    dispatch_s = (
        made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window)
        * config.rollout.frames
        / config.student.block_frames
        * AT_ONCE.block_s
    )
    seen = simulate(config, AT_ONCE, 4, 150)
    assert seen.settled(10).windows_per_s == pytest.approx(4 * batch * config.rollout.windows / dispatch_s, rel=0.03)
    assert seen.settled().rollout_idle_share < 1e-6 and seen.settled().learner_idle_share > 0.999


def test_a_pool_of_the_size_that_is_planned_keeps_the_learner_busy_and_three_quarters_of_it_do_not():
    config, paced = stage(windows=10**3, max_age=16), pace()
    dispatch_s = (
        made_share(make_dispatcher(stage_spec("dmd", config)), config.rollout, config.window)
        * config.rollout.frames
        / config.student.block_frames
        * paced.block_s
    )
    actors = pool_size(dispatch_s, 6, paced.update_s(5), config.samples_per_update("dmd"))
    assert simulate(config, paced, actors + 1, 120).settled(20).learner_idle_share < 0.03
    few = actors * 3 // 4
    short = 1 - few * 6 * paced.update_s(5) / (dispatch_s * config.samples_per_update("dmd"))
    assert simulate(config, paced, few, 120).settled(20).learner_idle_share == pytest.approx(short, abs=0.03)


def test_what_the_buffer_cannot_hold_is_not_made():
    """Two rollouts' room: more actors than two are never at work, and one window that is late holds all others up."""
    wide, narrow = stage(windows=10**4, max_age=10**4), stage(windows=18, max_age=10**4)
    assert (
        simulate(wide, pace(3.0), 6, 60).settled(10).updates_per_s
        > 1.5 * simulate(narrow, pace(3.0), 6, 60).settled(10).updates_per_s
    )
    assert simulate(narrow, pace(3.0), 6, 60).settled(10).rollout_idle_share > 0.5


def test_windows_come_when_their_last_block_is_made_and_those_before_them_are_cut():
    config, paced = stage(seed=3, batch=2), Pace(0.7, 0.31, 1e-9, 1e-9, 0.0)
    windows = [plan for rollout in make_dispatcher(stage_spec("dmd", config)).rollouts(0) for plan in rollout.windows]
    # The last of the first dispatch's windows, behind all cuts, is what the first whole update waits for.
    last_s = max(plan.start + 12 for plan in windows) // 3 * 0.7 + 0.31 * sum(plan.start > 0 for plan in windows)
    first = min(plan.start for plan in windows)
    seen = simulate(config, paced, 1, 1)
    assert seen.ended_s == pytest.approx([last_s])
    assert seen.first_window_s == pytest.approx((first + 12) // 3 * 0.7 + 0.31 * (first > 0))


def test_a_late_window_is_as_old_as_its_oldest_block():
    config, paced = stage(frames=60), pace(block_s=4.0)
    seen = simulate(config, paced, 12, 60)
    span_s = blocks_kept(config.student, config.window) * paced.block_s
    assert seen.settled(20).mean_age > 0.5 * span_s * seen.settled(20).updates_per_s


def test_an_age_that_no_window_can_keep_stops_the_rehearsal_as_it_would_the_run():
    """Thirty actors feed an update a second or so, and a window's blocks take ten."""
    config = stage(policy="drop", max_age=1, windows=400)
    with pytest.raises(TooOld, match=r"buffer\.max_age"):
        simulate(config, pace(block_s=1.0, student_s=0.5, critic_s=0.1, publish_s=0.0), 30, 400)
