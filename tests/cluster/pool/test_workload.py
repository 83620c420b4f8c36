"""What the pool did, second by second: the states of its slots, and the numbers that come of them."""

import random
from collections import Counter

import pytest
import torch

from cluster.pool.rollout_process import Delivery
from cluster.pool.slots import SlotState
from cluster.pool.workload import Workload
from cluster.runs.trace import Span
from cluster.supply.wire import seal
from models.records import MadeBlock, Progress, Window
from tests.fakes.timed_slots import timed_slots

SHARES = ("busy", "starting", "idle")


def pool_of(actors):
    clock, meter, slots = timed_slots(actors)
    return clock, meter, slots, Workload(slots, meter)


def delivery(item=None, *block_s):
    return Delivery(
        seal(item or Progress(1, "solver step"))[0], [Span("rollout", "block", 0.0, seconds) for seconds in block_s]
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_shares_are_those_of_a_diary_kept_second_by_second(seed):
    """Each second every slot is idle, starting (no process, or nothing made yet) or busy; intervals end anywhere."""
    draw = random.Random(seed)
    clock, _, slots, workload = pool_of(3)
    doing, diary = dict.fromkeys(range(3), "starting"), Counter()
    for second in range(1, 400):
        slot = draw.choice(list(slots))
        if slot.state is SlotState.STARTING:
            slots.change(slot, state=SlotState.IDLE, replacing=False)
            doing[slot.number] = "idle"
        elif slot.state is SlotState.IDLE:
            slots.assign(slot, 1)
            doing[slot.number] = "busy" if slot.warm else "starting"
        elif draw.random() < 0.4:
            slots.receive(slot, [])
            doing[slot.number] = "busy"
        elif draw.random() < 0.5:
            slots.replace(slot, "died")
            slots.finish(slot)
            doing[slot.number] = "starting"
        else:
            slots.finish(slot)
            doing[slot.number] = "idle"
        clock.now = float(second)
        diary.update(doing.values())
        if draw.random() < 0.2:
            metrics = workload.metrics()
            for what in SHARES:
                assert metrics[f"rollout/{what}_share"] == pytest.approx(diary[what] / diary.total()), what
            diary.clear()


def test_shares_stay_shares_when_the_pool_grows_and_shrinks_within_an_interval():
    clock, _, slots, workload = pool_of(3)
    clock.now = 10.0
    slots.fit(1)
    metrics = workload.metrics()
    assert all(0 <= metrics[f"rollout/{what}_share"] <= 1 for what in SHARES)
    assert sum(metrics[f"rollout/{what}_share"] for what in SHARES) == pytest.approx(1)
    slots.change(next(iter(slots)), state=SlotState.IDLE, replacing=False)
    slots.fit(4)
    clock.now = 20.0
    assert workload.metrics()["rollout/starting_share"] == pytest.approx(0.75)
    slots.fit(0)
    assert workload.metrics()["rollout/actors"] == 0


def test_bytes_are_those_of_the_tensors_by_kind_and_counted_in_one_interval_only():
    _, _, _, workload = pool_of(1)
    latents = torch.zeros(6, 3, 2, 2)
    window = Window(0, 0, 0, "critic", "", 0, 0, 0, (0,), context=latents[:3], latents=latents, noisy=latents)
    block = MadeBlock(0, 0, torch.zeros(2, 3, 3, 2, 2), {})
    for item in (window, block, block):
        workload.receive(delivery(item))
    workload.bytes_out += seal(window)[0].nbytes
    workload.weight_bytes = torch.zeros(10, dtype=torch.bfloat16).nbytes
    for _ in range(3):
        workload.pulls += 1
    metrics = workload.metrics()
    assert metrics["bytes/windows_in"] == metrics["bytes/windows_out"] == (3 + 6 + 6) * 12 * 4
    assert metrics["bytes/blocks_in"] == 2 * 2 * 3 * 12 * 4
    assert metrics["bytes/weights_out"] == 3 * 20
    again = workload.metrics()
    assert not any(again[name] for name in again if name.startswith("bytes/")) and again["weights/pulls"] == 0
