"""Which reward processes there are, as the rollout pool grows and shrinks; processes only pretend, on two nodes."""

import asyncio
from dataclasses import replace

import pytest
import torch

from cluster.pool.reward_pool import Answer, RewardPool
from cluster.runs.stage_spec import stage_spec
from models.records import GRPO, Group
from tests.fakes.simulated_supply import sealed
from tests.fakes.small_runs import small_grpo


class Calls:
    """A method of an actor: `remote` answers when the process is let go on."""

    def __init__(self, answer, gate=None):
        self.answer, self.gate = answer, gate

    async def remote(self, *_):
        if self.gate is not None:
            await self.gate.wait()
        return self.answer


class Process:
    def __init__(self, node):
        self.killed, self.gate = False, asyncio.Event()
        self.node, self.score = Calls(node), Calls(Answer({"continuity": [[0.5]] * 2}, {}, False), self.gate)


class Pretending(RewardPool):
    """Processes in turn on the nodes a and b."""

    def __init__(self, config):
        super().__init__(config.cluster, stage_spec("grpo", config).scorer, print)
        self.made = []

    def _new(self):
        self.made.append(Process("ab"[len(self.made) % 2]))
        return self.made[-1]

    @property
    def alive(self):
        return [process for process in self.made if not process.killed]


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr("cluster.pool.reward_pool.ray.kill", lambda process: setattr(process, "killed", True))
    config = small_grpo()
    return Pretending(replace(config, cluster=replace(config.cluster, reward_actors=4)))


async def busy(pool, count):
    """As many groups under way, each in a process of its own."""
    latents = torch.zeros(2, 12, 3, 12, 12)
    group = Group(0, 0, 0, GRPO, "a prompt", 0, 12, 3, (), (0,) * 4, latents[0], *[latents] * 5)
    tasks = [asyncio.create_task(pool.score(sealed(group), [])) for _ in range(count)]
    while len(pool.nodes) < count:
        await asyncio.sleep(0)
    return tasks


async def finished(pool, tasks):
    for process in pool.made:
        process.gate.set()
    scored = await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert all(group.scores == {"continuity": [[0.5]] * 2} for group in scored)


def test_there_are_as_many_as_rollout_processes_and_never_more_than_asked_for(pool):
    async def sized():
        pool.fit(2, ())
        assert not pool.made, "nobody is started before there is anything to score"
        await finished(pool, await busy(pool, 2))
        for actors, expected in ((3, 3), (9, 4), (1, 1), (2, 2)):
            pool.fit(actors, {"a", "b"})
            assert len(pool.alive) == pool.idle.qsize() == expected

    asyncio.run(sized())


def test_who_is_on_a_node_that_rollouts_have_left_leaves_first(pool):
    async def shrunk():
        pool.fit(4, ())
        await finished(pool, await busy(pool, 4))
        pool.fit(2, {"b"})

    asyncio.run(shrunk())
    assert {process.node.answer for process in pool.alive} == {"b"} and len(pool.alive) == 2


def test_who_is_at_work_leaves_with_its_scores_and_stays_where_it_is_wanted_again(pool):
    async def recalled():
        pool.fit(2, ())
        tasks = await busy(pool, 2)
        pool.fit(1, {"a", "b"})
        assert len(pool.alive) == 2 and pool.leaving == {1}
        pool.fit(2, {"a", "b"})
        assert not pool.leaving
        pool.fit(1, {"b"})
        assert pool.leaving == {0}
        await finished(pool, tasks)

    asyncio.run(recalled())
    assert [process.node.answer for process in pool.alive] == ["b"] and len(pool.made) == 2


def test_a_stage_that_ends_while_groups_are_scored_asks_for_no_other_process(pool):
    async def cancelled():
        pool.fit(2, ())
        tasks = await busy(pool, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(cancelled())
    assert not pool.alive and len(pool.made) == 2
