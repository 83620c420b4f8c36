"""The coordinator in stage grpo without Ray: actors and reward processes that only pretend."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
import torch

from cluster.pool.coordinator import Coordinator
from cluster.pool.rollout_process import Delivery
from cluster.runs.stage_spec import stage_spec
from cluster.runs.trace import Span
from models.records import GRPO, SENTINEL, Group
from tests.fakes.simulated_supply import opened, sealed
from tests.fakes.small_runs import StandingPool, pretended_groups, small_grpo


class PretendPool(StandingPool):
    """Streams without pause; the first group goes through `spoil`."""

    def __init__(self, config, spoil):
        super().__init__(slots=2)
        self.config, self.spoil = config, spoil

    async def stream(self, slot, epoch, dispatch):
        for item in pretended_groups(self.config, dispatch, 0):
            await asyncio.sleep(0)
            if isinstance(item, Group) and item.role == GRPO and self.spoil is not None:
                spoil, self.spoil = self.spoil, None
                item = spoil(item)
            yield Delivery(sealed(item), [])


class Judge:
    """In place of the reward pool: notes what it is asked to score."""

    def __init__(self):
        self.asked = []

    async def score(self, group, first):
        self.asked.append(opened(group))
        await asyncio.sleep(0)
        return replace(group, scores={"exposure_drift": [[0.5]] * group.shape("latents")[0]})

    def fit(self, actors, nodes):
        self.fitted = (actors, nodes)

    def drain_spans(self):
        return [Span("reward 0", "score", 0.0, 1.0)]


def learned(spoil, rounds):
    """The groups of some rounds, and who made and judged them."""

    async def learn():
        config = small_grpo()
        pool, judge = PretendPool(config, spoil), Judge()
        coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
        coordinator.reward_pool = lambda *parts: judge
        epoch = await coordinator.begin(stage_spec("grpo", config))
        coordinator.supply.versions.publish(0, 0)
        coordinator.weights.version, coordinator.weights.reference = 0, "weights"
        await coordinator.supervisor.wake()
        taken = await coordinator.take(epoch, 0, SENTINEL, 2, 0, 1)
        for number in range(1, rounds + 1):
            taken += await coordinator.take(epoch, number, GRPO, 2, 0, 1)
        return [opened(header) for header in taken], pool, judge, coordinator

    return asyncio.run(asyncio.wait_for(learn(), 60))


def test_groups_reach_the_learner_with_their_scores_and_each_was_scored_once():
    taken, pool, judge, coordinator = learned(None, 3)
    assert len(taken) == 8 and {group.role for group in taken[:2]} == {SENTINEL}
    assert all(group.scores == {"exposure_drift": [[0.5]] * group.members} for group in taken)
    asked = Counter(group.rollout for group in judge.asked)
    assert set(asked.values()) == {1} and {group.rollout for group in taken} <= set(asked)
    assert not pool.replaced
    assert asyncio.run(coordinator.report({}))[1][-1] == Span("reward 0", "score", 0.0, 1.0)


def test_the_reward_pool_is_told_how_many_rollout_processes_there_are_and_where():
    async def resized():
        config = small_grpo()
        pool, judge = PretendPool(config, None), Judge()
        actors, coordinator = len(pool.slots), Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
        coordinator.reward_pool = lambda *parts: judge
        await coordinator.begin(stage_spec("grpo", config))
        before = judge.fitted
        await coordinator.resize(before[0] + 2)
        while sum(slot.place is not None for slot in coordinator.slots) < before[0] + 2:
            await asyncio.sleep(0)
        await coordinator.resize(1)
        return actors, before, judge.fitted, {slot.place.node for slot in coordinator.slots}

    actors, before, (left, nodes), all_nodes = asyncio.run(asyncio.wait_for(resized(), 60))
    assert before == (actors, set()) and left == 1
    assert len(nodes) == 1 and nodes <= all_nodes


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda g: replace(g, latents=g.latents[:, :5]), "shape"),
        (lambda g: replace(g, latents=g.latents * torch.nan), "not_finite"),
        (lambda g: replace(g, attempt=3), "plan"),
        (lambda g: replace(g, transitions=(9,)), "plan"),
    ],
)
def test_a_bad_group_is_refused_before_it_is_scored_and_made_again_by_another_actor(spoil, reason):
    taken, pool, judge, coordinator = learned(spoil, 3)
    assert len({(group.rollout, group.index) for group in taken}) == 8
    metrics = asyncio.run(coordinator.metrics())
    assert metrics["windows/refused"] == metrics[f"windows/refused_{reason}"] == 1
    assert sum(pool.replaced.values()) == 1
    assert all(torch.isfinite(group.latents).all() for group in judge.asked)
    assert all(group.latents.shape[1] == (24 if group.role == SENTINEL else 12) for group in judge.asked)
    assert all(group.transitions != (9,) and group.attempt != 3 for group in judge.asked)
