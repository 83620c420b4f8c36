"""A pool that changes its size while it works: no window is lost or doubled, nobody waits for who is not there."""

import asyncio
import random
from collections import Counter

import pytest

from cluster.pool.coordinator import Coordinator
from cluster.pool.ray_pool import ActorLost, NoNode
from cluster.pool.rollout_process import Delivery
from cluster.pool.scale_down import Place
from cluster.pool.slots import SlotState
from cluster.run_errors import Leaving, RunFailed
from cluster.runs.factory import make_dispatcher
from cluster.runs.stage_spec import stage_spec
from models.records import CRITIC, STUDENT, MadeBlock
from tests.fakes.simulated_supply import opened, sealed
from tests.fakes.small_runs import StandingPool, pretended, run, small


class Pool(StandingPool):
    """Leaves a block after it was told to, as the weights tell it; `nodes` are there for so many slots."""

    def __init__(self, config, slots=2, nodes=None):
        super().__init__(slots)
        self.config, self.nodes, self.placed = config, nodes, set()
        self.came, self.coordinator, self.troubles = asyncio.Condition(), None, []
        self.notified, self.begun = set(), Counter()

    async def place(self, slot):
        if self.troubles:
            raise self.troubles.pop(0)
        async with self.came:
            await self.came.wait_for(lambda: self.nodes is None or len(self.placed | {slot}) <= self.nodes)
        self.placed.add(slot)
        return await super().place(slot)

    async def begin(self, slot, spec, epoch):
        self.begun[slot] += 1
        self.notified.discard(slot)

    def replace(self, slot):
        super().replace(slot)
        self.notified.discard(slot)

    def shrink(self, slot):
        super().shrink(slot)
        self.placed.discard(slot)

    async def stream(self, slot, epoch, dispatch):
        for item in pretended(self.config, dispatch, version=0):
            await asyncio.sleep(0)
            yield Delivery(sealed(item), [])
            if isinstance(item, MadeBlock):
                if slot in self.notified:
                    return
                try:
                    await self.coordinator.newer(epoch, 0, 0.0, slot)
                except Leaving:
                    self.notified.add(slot)


def slots_in(coordinator, *states):
    """Numbers of the slots in any of these states."""
    return {slot.number for slot in coordinator.slots if slot.state in states}


def retiring(coordinator):
    return slots_in(coordinator, SlotState.RETIRING)


def running(coordinator):
    return {slot.number for slot in coordinator.slots if slot.running}


def leaving(coordinator):
    return {slot.number for slot in coordinator.slots if slot.leaving}


def informed(coordinator):
    return {slot.number for slot in coordinator.slots if slot.informed}


async def begun(config, **given):
    pool = Pool(config, **given)
    coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
    pool.coordinator = coordinator
    epoch = await coordinator.begin(stage_spec("dmd", config))
    coordinator.supply.versions.publish(0, 0)
    coordinator.weights.version, coordinator.weights.reference = 0, "weights"
    await coordinator.supervisor.wake()
    return coordinator, pool, epoch


async def learn(coordinator, epoch, config, requests, first=0):
    taken = []
    for number in range(first, first + requests):
        role = STUDENT if number % 4 == 3 else CRITIC
        headers = await coordinator.take(epoch, number, role, config.dmd.batch_size, 0, 1)
        taken += [opened(header) for header in headers]
    return taken


@pytest.mark.parametrize("seed", range(4))
def test_windows_come_exactly_once_as_they_were_drawn_however_the_pool_grows_and_shrinks(seed):
    async def test():
        config, chance, taken = small(), random.Random(seed), []
        coordinator, pool, epoch = await begun(config)
        for number in range(60):
            if chance.random() < 0.5:
                before, size = len(pool.slots), chance.randrange(1, 7)
                await coordinator.resize(size)
                assert len(coordinator.slots.without_retiring) == size and pool.slots == sorted(
                    coordinator.slots.by_number
                )
                assert len(pool.slots) <= max(before, size), "who leaves is called back before others are made"
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            taken += await learn(coordinator, epoch, config, 1, first=number)
        keys = Counter((w.rollout, w.index) for w in taken)
        assert len(keys) == 120 and set(keys.values()) == {1}
        assert {w.attempt for w in taken} == {0}, "a video was begun again"
        drawn = {
            (rollout.id, plan.index): (plan.role, plan.start)
            for first in range(0, max(w.rollout for w in taken) + 1, config.rollout.batch)
            for rollout in make_dispatcher(stage_spec("dmd", config)).rollouts(first)
            for plan in rollout.windows
        }
        assert all(drawn[w.rollout, w.index] == (w.role, w.start) for w in taken)
        metrics = await coordinator.metrics()
        assert metrics["rollout/actors_lost"] == 0 and not pool.replaced, "a size is no loss"
        assert metrics["windows/asked_again"] == metrics["windows/refused"] == 0

    run(test())


def test_the_pool_has_the_size_that_was_asked_for_as_soon_as_those_who_leave_have_ended_their_block():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=6)
        await learn(coordinator, epoch, config, 4)
        await coordinator.resize(2)
        assert len(coordinator.slots.without_retiring) == 2
        await learn(coordinator, epoch, config, 12, first=4)
        assert len(pool.slots) == 2 and not leaving(coordinator)
        await coordinator.resize(5)
        assert len(pool.slots) == 5 and len(set(pool.slots)) == 5
        await learn(coordinator, epoch, config, 12, first=16)
        while running(coordinator) != set(pool.slots):
            await asyncio.sleep(0)

    run(test())


@pytest.mark.parametrize("notified", [True, False])
def test_who_was_to_leave_and_is_wanted_again_goes_on_where_it_is_and_counts_as_no_loss(notified):
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=4)
        while len(slots_in(coordinator, SlotState.WORKING)) < 4:
            await asyncio.sleep(0)
        await coordinator.resize(1)
        leavers = retiring(coordinator)
        assert len(leavers) == 3
        if notified:
            while informed(coordinator) != leavers:
                await asyncio.sleep(0)
        await coordinator.resize(3)
        back = leavers - retiring(coordinator)
        assert len(back) == 2 and pool.slots == [0, 1, 2, 3], "nobody new is asked for"
        assert slots_in(coordinator, SlotState.RECALLED) == (back if notified else set())
        taken = await learn(coordinator, epoch, config, 40)
        assert len({(w.rollout, w.index) for w in taken}) == 80 and {w.attempt for w in taken} == {0}
        assert len(pool.slots) == 3 and not leaving(coordinator) and not informed(coordinator)
        assert not pool.replaced and coordinator.slots.lost == 0
        assert {pool.begun[slot] for slot in back} == {2 if notified else 1}

    run(test())


def test_an_actor_that_was_replaced_while_ray_was_asked_for_draining_nodes_stays():
    async def test():
        config = small()
        coordinator, pool, _ = await begun(config, slots=2)
        await until_full(coordinator, 2)
        first, second = coordinator.slots.by_number.values()
        assert (first.place.node, second.place.node) == ("node 0", "node 1")
        second.place = Place("another node", {}, ())  # the process that was on `node 1` is lost meanwhile
        coordinator.slots.clear({"node 0", "node 1"})
        assert pool.replaced == {0: 1} and not leaving(coordinator)
        assert first.place is None, "the node of its successor is not known yet"

    run(test())


def test_a_pool_that_shrinks_leaves_whole_nodes_and_lets_one_go_that_drains_before_any_other():
    async def test():
        config = small()
        coordinator, pool, _ = await begun(config, slots=6)
        await until_full(coordinator, 6)
        for slot, node in enumerate("abbcca"):
            coordinator.slots.by_number[slot].place = Place(node, {}, ())
        coordinator.slots.assign(coordinator.slots.by_number[3], 1)
        coordinator.slots.clear({"c"})  # slot 4 has nothing to finish there
        assert pool.replaced == {4: 1}
        coordinator.slots.by_number[4].place = Place("d", {}, ())
        await coordinator.resize(5)
        assert retiring(coordinator) == {3}
        await coordinator.resize(2)
        left = {slot.place.node for slot in coordinator.slots.without_retiring}
        assert len(coordinator.slots.without_retiring) == 2 and len(left) == 1 and not left & {"c", "d"}

    run(test())


async def until_full(coordinator, actors):
    """Until every actor waits for room."""
    while slots_in(coordinator, SlotState.WORKING, SlotState.STARTING) or len(running(coordinator)) < actors:
        await asyncio.sleep(0)


def test_an_actor_that_waits_for_a_node_holds_up_nobody_and_is_given_up_first():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=1, nodes=1)
        await coordinator.resize(4)
        assert len(await learn(coordinator, epoch, config, 40)) == 80
        assert running(coordinator) == {0} and len(pool.slots) == 4
        assert coordinator.meter.measure(4, 64, 0.0).starting == 3
        await coordinator.resize(1)
        assert pool.slots == [0], "the one that works stays"
        assert len(await learn(coordinator, epoch, config, 20, first=40)) == 40
        pool.nodes = 3
        await coordinator.resize(3)
        await learn(coordinator, epoch, config, 20, first=60)
        assert len(running(coordinator)) == 3

    run(test())


def test_an_actor_that_dies_with_nothing_to_do_is_replaced_before_there_is_something():
    async def test():
        config = small()
        coordinator, pool, _ = await begun(config, slots=3)
        await until_full(coordinator, 3)
        pool.dead_with_nothing_to_do = {1}
        while coordinator.slots.lost < 1 or len(running(coordinator)) < 3:
            await asyncio.sleep(0.01)  # for the next poll of the watch
        assert pool.replaced == {1: 1}
        assert any("actor 1 " in line for line in coordinator.news)

    run(test())


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (ActorLost("ActorDiedError"), r"^5 .*ActorDiedError"),
        (NoNode("no-node"), r"actor 0 no-node"),
    ],
    ids=["processes that die as they start", "not a single node"],
)
def test_a_run_that_never_gets_a_process_stops_and_says_why(trouble, said):
    async def test():
        config = small()
        pool = Pool(config, slots=1)
        pool.troubles = [trouble] * 5
        coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
        epoch = await coordinator.begin(stage_spec("dmd", config))
        with pytest.raises(RunFailed, match=said):
            await coordinator.take(epoch, 0, CRITIC, 2, 0, 1)

    run(test())


def test_while_others_work_one_may_wait_for_its_node_for_ever_and_nothing_is_lost_by_it():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=1)
        await learn(coordinator, epoch, config, 4)
        pool.troubles = [NoNode("never got a node within 7 s")] * 12
        await coordinator.resize(2)
        await learn(coordinator, epoch, config, 40, first=4)
        assert pool.replaced[1] == 12 and len(running(coordinator)) == 2
        metrics = await coordinator.metrics()
        assert metrics["rollout/actors_unplaced"] == 12 and metrics["rollout/actors_lost"] == 0
        assert coordinator.meter.measure(2, 64, 0.0).replacing == 0, "nobody is replaced who never was there"
        line = "rollout actor 1 never got a node within 7 s (0 s so far); requesting it again"
        assert coordinator.news.count(line) == 12

    run(test())


def test_a_stage_that_begins_has_only_the_actors_that_are_wanted():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=5)
        await learn(coordinator, epoch, config, 3)
        await coordinator.resize(2)
        epoch = await coordinator.begin(stage_spec("dmd", config))
        assert len(pool.slots) == 2 and not retiring(coordinator)
        coordinator.supply.versions.publish(0, 0)
        coordinator.weights.version, coordinator.weights.reference = 0, "weights"
        await coordinator.supervisor.wake()
        assert len(await learn(coordinator, epoch, config, 20)) == 40

    run(test())


def test_a_slot_that_is_given_up_while_its_process_keeps_failing_to_start_stops_nothing():
    async def test():
        config = small()
        pool = Pool(config, slots=2)
        pool.coordinator = coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
        given_up = asyncio.Event()

        async def begin(slot, spec, epoch):
            if slot == 0:
                return
            if pool.replaced[1] == 4:
                await coordinator.resize(1)
                given_up.set()
            raise ActorLost("died as it started")

        pool.begin = begin
        await coordinator.begin(stage_spec("dmd", config))
        await given_up.wait()
        await asyncio.sleep(0)
        assert coordinator.failure is None and pool.slots == [0]

    run(test())
