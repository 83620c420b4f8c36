"""The coordinator without Ray, over a pool that fails on command."""

import asyncio
from collections import Counter, defaultdict, deque
from dataclasses import replace

import pytest
import torch

from cluster.pool.coordinator import Coordinator
from cluster.pool.ray_pool import ActorLost
from cluster.pool.rollout_process import Delivery
from cluster.pool.slots import SlotState
from cluster.run_errors import Leaving, RunFailed, StageEnded
from cluster.runs.stage_spec import stage_spec
from cluster.runs.trace import Span
from cluster.supply.wire import Header
from models.records import CRITIC, STUDENT, MadeBlock, Window
from tests.fakes.simulated_supply import opened_plan, sealed
from tests.fakes.small_runs import StandingPool, pretended, run, small


class PretendPool(StandingPool):
    """Streams without pause, except where `troubles` say otherwise: one is taken up at every block of any slot."""

    def __init__(self, config, slots=2):
        super().__init__(slots)
        self.config = config
        self.troubles = deque()
        self.on_draining_nodes = set()
        self.version = 0
        self.block_s = defaultdict(lambda: 0.01)

    async def stream(self, slot, epoch, dispatch):
        for item in pretended(self.config, dispatch, version=self.version):
            await asyncio.sleep(0)
            if isinstance(item, MadeBlock) and self.troubles and not callable(self.troubles[0]):
                trouble = self.troubles.popleft()
                if trouble == "lost":
                    raise ActorLost("ActorDiedError")
                if trouble == "left":
                    return
            if isinstance(item, Window) and self.troubles and callable(self.troubles[0]):
                item = self.troubles.popleft()(item)
            yield Delivery(
                item if isinstance(item, Header) else sealed(item),
                [Span(f"rollout {slot}", "block", 0.0, self.block_s[slot])] if isinstance(item, MadeBlock) else [],
            )

    def replace(self, slot):
        super().replace(slot)
        self.block_s[slot] = 0.01

    def draining(self):
        return self.on_draining_nodes


async def begun(config, slots=2):
    pool = PretendPool(config, slots)
    coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
    epoch = await coordinator.begin(stage_spec("dmd", config))
    return coordinator, pool, epoch


async def learn(coordinator, epoch, config, requests, first=0):
    """Windows of so many requests, three of the critic to one of the student."""
    taken = []
    for number in range(first, first + requests):
        role = STUDENT if number % 4 == 3 else CRITIC
        taken += await opened_plan(coordinator, epoch, number, role, config.dmd.batch_size)
    return taken


def published(coordinator):
    """As after a publish of version 0."""
    coordinator.supply.versions.publish(0, 0)
    coordinator.weights.version, coordinator.weights.reference = 0, "weights"


@pytest.mark.parametrize("trouble", ["lost", "left"])
def test_windows_of_actors_that_are_lost_or_leave_come_exactly_once_from_others(trouble):
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config)
        pool.troubles.extend([trouble, None, None, None] * 10)
        published(coordinator)
        await coordinator.supervisor.wake()
        taken = await learn(coordinator, epoch, config, 40)
        assert sum(pool.replaced.values()) == 10
        keys = Counter((w.rollout, w.index) for w in taken)
        assert len(keys) == 80 and set(keys.values()) == {1}
        assert (await coordinator.metrics())["rollout/actors_lost"] == 10

    run(test())


def damaged(window):
    """Its bytes are not those that were sealed."""
    header = sealed(window)
    return replace(header, payload=sealed(replace(window, noisy=window.noisy + 1)).payload)


def lost(window):
    """Its node is gone with its bytes."""
    return replace(sealed(window), payload=None)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (lambda w: replace(w, latents=w.latents + torch.nan), "not_finite"),
        (lambda w: replace(w, latents=w.latents[:3], noisy=w.noisy[:3]), "shape"),
        (lambda w: replace(w, attempt=5), "plan"),
        (lambda w: replace(w, versions=(7,) * len(w.versions)), "version"),
    ],
)
def test_a_bad_window_is_counted_by_name_its_actor_replaced_and_training_goes_on(trouble, reason):
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config)
        pool.troubles.append(trouble)
        published(coordinator)
        await coordinator.supervisor.wake()
        taken = await learn(coordinator, epoch, config, 20)
        metrics = await coordinator.metrics()
        assert metrics["windows/refused"] == metrics[f"windows/refused_{reason}"] == 1
        assert len({(w.rollout, w.index) for w in taken}) == 40
        assert all(torch.isfinite(w.latents).all() for w in taken)
        _, news, _ = await coordinator.look()
        assert any("refused" in line for line in news), news

    run(test())


@pytest.mark.parametrize(("spoil", "outcome"), [(damaged, "refused_checksum"), (lost, "lost")])
def test_a_window_that_the_learner_cannot_open_is_counted_by_name_and_made_again_in_its_place(spoil, outcome):
    async def test():
        config = small()
        clean, _, epoch = await begun(config)
        published(clean)
        await clean.supervisor.wake()
        order = [(w.rollout, w.index) for w in await learn(clean, epoch, config, 20)]
        coordinator, pool, epoch = await begun(config)
        pool.troubles.extend([spoil] * 3)
        published(coordinator)
        await coordinator.supervisor.wake()
        taken = await learn(coordinator, epoch, config, 20)
        metrics = await coordinator.metrics()
        assert metrics[f"windows/{outcome}"] >= 1 and metrics["windows/taken"] == 40
        assert metrics["windows/refused"] == (metrics["windows/refused_checksum"] if outcome != "lost" else 0)
        assert [(w.rollout, w.index) for w in taken] == order
        ledger, _ = await coordinator.report({})
        assert [(w["rollout"], w["index"], w["attempt"]) for w in ledger] == [
            (w.rollout, w.index, w.attempt) for w in taken
        ]
        assert metrics["windows/delivered"] == 40 + metrics["buffer/depth"]
        assert coordinator.meter.totals()["taken"] == 40, "a request that was withdrawn counts once"

    run(test())


def test_when_most_windows_are_bad_the_learner_is_told_why():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=1)
        pool.troubles.extend([lambda w: replace(w, latents=w.latents + torch.nan)] * 50)
        published(coordinator)
        await coordinator.supervisor.wake()
        with pytest.raises(RunFailed, match=r"^5 .*buffer\.bad_share"):
            await learn(coordinator, epoch, config, 20)

    run(test())


def test_an_actor_that_loses_every_process_without_a_block_stops_the_run():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=1)
        pool.troubles.extend(["lost"] * 50)
        published(coordinator)
        await coordinator.supervisor.wake()
        with pytest.raises(RunFailed, match=r"^5 "):
            await learn(coordinator, epoch, config, 20)

    run(test())


def test_every_rank_gets_its_own_share_of_one_plan_and_the_same_again_when_it_asks_again():
    async def test():
        config = small()
        config.dmd.batch_size = 4
        coordinator, _, epoch = await begun(config)
        published(coordinator)
        await coordinator.supervisor.wake()
        keys = []
        for rank in (1, 0, 1, 0):
            headers = await coordinator.take(epoch, 0, CRITIC, 4, rank, 2)
            keys.append([(header.rollout, header.index) for header in headers])
        assert keys[0] == keys[2] and keys[1] == keys[3]
        assert len({*keys[0], *keys[1]}) == 4
        assert (await coordinator.metrics())["windows/taken"] == 4

    run(test())


def test_a_take_of_a_stage_that_is_over_is_refused():
    async def test():
        config = small()
        coordinator, _, epoch = await begun(config)
        await coordinator.begin(stage_spec("dmd", config))
        with pytest.raises(StageEnded):
            await coordinator.take(epoch, 0, CRITIC, 2, 0, 1)

    run(test())


def test_an_actor_on_a_draining_node_is_asked_to_leave():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config)
        slot = coordinator.slots.by_number[1]
        while slot.state is not SlotState.IDLE:
            await asyncio.sleep(0)
        coordinator.slots.assign(slot, 1)  # an idle one is replaced at once
        pool.on_draining_nodes = {"node 1"}
        published(coordinator)
        async with asyncio.timeout(30):
            with pytest.raises(Leaving):
                while True:
                    await coordinator.newer(epoch, 0, 0.1, 1)
        assert await coordinator.newer(epoch, None, 0.1, 0) == ("weights",)
        assert await coordinator.newer(epoch, 0, 0.1, 0) is None

    run(test())


def test_an_actor_much_slower_than_the_others_is_replaced_and_its_videos_continued():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config, slots=3)
        pool.block_s[1] = 1.0
        published(coordinator)
        await coordinator.supervisor.wake()
        taken = await learn(coordinator, epoch, config, 60)
        assert pool.replaced[1] == 1 and not pool.replaced[0] and not pool.replaced[2]
        assert len({(w.rollout, w.index) for w in taken}) == 120
        assert {w.attempt for w in taken} == {0}

    run(test())


def test_a_state_taken_in_the_middle_begins_a_stage_that_hands_out_the_rest():
    async def test():
        config = small()
        coordinator, _, epoch = await begun(config)
        published(coordinator)
        await coordinator.supervisor.wake()
        before = await learn(coordinator, epoch, config, 13)
        state = await coordinator.state()
        lost = await learn(coordinator, epoch, config, 9, first=13)
        epoch = await coordinator.begin(stage_spec("dmd", config), state)
        coordinator.supply.versions.publish(1, 3)
        coordinator.weights.version, coordinator.weights.reference = 1, "weights"
        await coordinator.supervisor.wake()
        after = await learn(coordinator, epoch, config, 27)
        keys = [(w.rollout, w.index) for w in before + after]
        assert len(keys) == len(set(keys)) == 80
        assert {(w.rollout, w.index) for w in lost} <= set(keys)
        assert (await coordinator.metrics())["windows/taken"] == 80

    run(test())


@pytest.mark.parametrize("max_age", [1, 2, 3])
def test_dropping_what_is_too_old_replaces_no_actor_and_refuses_nothing(max_age):
    async def test():
        config = small(policy="drop", max_age=max_age)
        coordinator, pool, epoch = await begun(config, slots=3)
        published(coordinator)
        await coordinator.supervisor.wake()
        for update in range(1, 8):
            await learn(coordinator, epoch, config, 4, first=4 * (update - 1))
            coordinator.supply.versions.publish(update, update)
            pool.version = update
        metrics = await coordinator.metrics()
        assert not pool.replaced and metrics["windows/refused"] == 0
        assert metrics["buffer/age_max"] <= max_age

    run(test())


def test_a_coordinator_that_was_started_again_tells_the_learner_to_begin_again():
    async def test():
        config = small()
        coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, PretendPool(config))
        for call in (coordinator.take(3, 0, CRITIC, 2, 0, 1), coordinator.state(), coordinator.publish(3, 0, 0, None)):
            with pytest.raises(StageEnded):
                await call

    run(test())


def test_a_plan_that_one_rank_has_is_given_to_the_others_even_if_the_pool_has_failed_since():
    async def test():
        config = small()
        coordinator, _, epoch = await begun(config)
        published(coordinator)
        await coordinator.supervisor.wake()
        await coordinator.take(epoch, 0, CRITIC, 2, 0, 2)
        coordinator.failure = "no-pool"
        assert len(await coordinator.take(epoch, 0, CRITIC, 2, 1, 2)) == 1
        with pytest.raises(RunFailed, match="no-pool"):
            await coordinator.take(epoch, 1, CRITIC, 2, 0, 2)

    run(test())


def test_of_a_draining_node_every_payload_that_is_still_needed_is_to_be_copied():
    async def test():
        config = small()
        coordinator, pool, epoch = await begun(config)
        published(coordinator)
        plan = await coordinator.take(epoch, 0, CRITIC, 2, 0, 1)
        supply = coordinator.supply
        pool.on_draining_nodes = {"node 7"}
        async with asyncio.timeout(30):
            while not hasattr(pool, "copied"):
                await asyncio.sleep(0.01)  # for the next poll of the watcher
        nodes, payloads = pool.copied
        dispatches = [*coordinator.supervisor.dispatches.values(), *supply.returned]
        blocks = [block for dispatch in dispatches for block in dispatch.made]
        assert nodes == {"node 7"} and supply.buffer.waiting
        held = {id(payload) for payload in payloads}
        assert held >= {id(header.payload) for header in (*plan, *supply.buffer.waiting.values(), *blocks)}

    run(test())


def test_a_watcher_of_nodes_that_gets_no_answer_says_so_asks_again_and_moves_idle_actors():
    async def test():
        config = small()
        pool = PretendPool(config)
        answers = iter([RuntimeError("busy-head")])

        def draining():
            for error in answers:
                raise error
            return {"node 1"}

        pool.draining = draining
        coordinator = Coordinator(config.cluster, config.autoscale, config.run_dir, pool)
        await coordinator.begin(stage_spec("dmd", config))
        async with asyncio.timeout(30):
            while not pool.replaced[1]:
                await asyncio.sleep(0.05)  # for the next poll of the watcher
        assert any("busy-head" in line for line in coordinator.news)

    run(test())
