"""What ranks get of a plan, from a coordinator without Ray."""

import asyncio

import torch

from cluster.runs.stage_spec import stage_spec
from models.records import CRITIC
from tests.fakes.simulated_pool import SimulatedCoordinator, no_weights
from tests.fakes.simulated_supply import opened
from tests.fakes.small_runs import smallest_run


async def begun(config, state=None):
    coordinator = SimulatedCoordinator(config, 0.0)
    epoch = await coordinator.begin(stage_spec("dmd", config), state)
    if state is None:
        await coordinator.publish(epoch, 0, 0, [no_weights(0, 0)])
    return coordinator, epoch


async def taken(coordinator, epoch, number, ranks):
    shares = [await coordinator.take(epoch, number, CRITIC, 16, rank, ranks) for rank in range(ranks)]
    return [opened(header) for share in shares for header in share]


def assert_same(some, others):
    assert [(w.rollout, w.index, w.attempt) for w in some] == [(w.rollout, w.index, w.attempt) for w in others]
    for a, b in zip(some, others, strict=True):
        assert torch.equal(a.latents, b.latents) and torch.equal(a.noisy, b.noisy) and a.age == b.age


def test_ranks_share_a_plan_out_and_asking_again_gives_the_same():
    async def run():
        coordinator, epoch = await begun(smallest_run(64))
        whole = await taken(coordinator, epoch, 0, ranks=1)
        assert_same(await taken(coordinator, epoch, 0, ranks=4), whole)
        following = await taken(coordinator, epoch, 1, ranks=2)
        assert_same(await taken(coordinator, epoch, 0, ranks=1), whole)
        assert not {(w.rollout, w.index) for w in whole} & {(w.rollout, w.index) for w in following}

    asyncio.run(run())


def test_windows_that_waited_in_a_checkpoint_are_handed_out_like_those_that_just_came():
    async def run():
        config = smallest_run(64)
        coordinator, epoch = await begun(config)
        await taken(coordinator, epoch, 0, ranks=1)
        while not coordinator.supply.buffer.complete(CRITIC, 16):
            await asyncio.sleep(0)
        state = await coordinator.state()
        resumed, resumed_epoch = await begun(config, state)
        assert_same(await taken(resumed, resumed_epoch, 0, ranks=2), await taken(coordinator, epoch, 1, ranks=2))

    asyncio.run(run())


def test_what_the_coordinator_holds_of_windows_ends_with_them():
    async def run():
        coordinator, epoch = await begun(smallest_run(64))
        for number in range(8):
            await taken(coordinator, epoch, number, ranks=2)
            assert coordinator.supply.plans.keys() == {max(0, number - 1), number}
            held = {(s.rollout, s.index) for plan in coordinator.supply.plans.values() for s in plan}
            assert not held & coordinator.supply.buffer.waiting.keys()

    asyncio.run(run())
