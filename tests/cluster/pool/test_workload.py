"""What the pool did, second by second."""

import random
from collections import Counter

import pytest
import torch

from cluster.pool.rollout_process import Delivery
from cluster.pool.workload import Workload
from cluster.runs.trace import Span
from cluster.supply.wire import wrap
from cluster.weights.version import WeightsVersion
from models.records import MadeBlock, Progress, Window

SHARES = ("busy", "starting", "idle")


def delivery(item=None, *block_s):
    return Delivery(
        wrap(item or Progress(1, "solver step")), [Span("rollout", "block", 0.0, seconds) for seconds in block_s]
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_shares_are_those_of_a_diary_kept_second_by_second(seed):
    """Each second every slot is idle, starting (a dispatch, nothing made yet) or busy; intervals end anywhere."""
    draw, now = random.Random(seed), [0.0]
    slots = [0, 1, 2]
    workload = Workload(slots, clock=lambda: now[0])
    doing, made, diary = dict.fromkeys(slots, "idle"), set(), Counter()
    for second in range(1, 400):
        slot = draw.choice(slots)
        if doing[slot] == "idle":
            workload.busy(slot)
            doing[slot] = "busy" if slot in made else "starting"
        elif draw.random() < 0.4:
            workload.received(slot, delivery())
            doing[slot] = "busy"
            made.add(slot)
        else:
            if draw.random() < 0.5:
                workload.lost(slot, "died")
                made.discard(slot)
            workload.idle(slot)
            doing[slot] = "idle"
        now[0] = float(second)
        diary.update(doing.values())
        if draw.random() < 0.2:
            metrics = workload.metrics()
            for what in SHARES:
                assert metrics[f"rollout/{what}_share"] == pytest.approx(diary[what] / diary.total()), what
            diary.clear()


def test_shares_stay_shares_when_the_pool_grows_and_shrinks_within_an_interval():
    now, slots = [0.0], [0]
    workload = Workload(slots, clock=lambda: now[0])
    for slot in (0, 1, 2):
        workload.busy(slot)
    now[0] = 10.0
    slots[:] = [1]
    metrics = workload.metrics()
    assert all(0 <= metrics[f"rollout/{what}_share"] <= 1 for what in SHARES)
    assert sum(metrics[f"rollout/{what}_share"] for what in SHARES) == pytest.approx(1)
    slots[:] = [0, 1, 2, 3]
    now[0] = 20.0
    assert workload.metrics()["rollout/starting_share"] == pytest.approx(0.75)
    slots[:] = []
    for slot in (0, 1, 2):
        workload.idle(slot)
    assert workload.metrics()["rollout/actors"] == 0


def test_bytes_are_those_of_the_tensors_by_kind_and_counted_in_one_interval_only():
    workload = Workload([0])
    latents = torch.zeros(6, 3, 2, 2)
    window = Window(0, 0, 0, "critic", "", 0, 0, 0, (0,), context=latents[:3], latents=latents, noisy=latents)
    block = MadeBlock(0, 0, torch.zeros(2, 3, 3, 2, 2), {})
    workload.busy(0)
    for item in (window, block, block):
        workload.received(0, delivery(item))
    workload.handed_out([wrap(window)])
    workload.published(WeightsVersion(0, {"w": torch.zeros(10, dtype=torch.bfloat16)}))
    for _ in range(3):
        workload.pulled()
    metrics = workload.metrics()
    assert metrics["bytes/windows_in"] == metrics["bytes/windows_out"] == (3 + 6 + 6) * 12 * 4
    assert metrics["bytes/blocks_in"] == 2 * 2 * 3 * 12 * 4
    assert metrics["bytes/weights_out"] == 3 * 20
    again = workload.metrics()
    assert not any(again[name] for name in again if name.startswith("bytes/")) and again["weights/pulls"] == 0


def test_an_actor_is_too_slow_against_the_others_median_and_one_alone_never_is():
    workload = Workload([0, 1, 2])
    for slot in (0, 1, 2):
        workload.busy(slot)
    workload.received(0, delivery(None, *[50.0] * 5))
    assert not workload.too_slow(0, factor=10)
    workload.received(1, delivery(None, *[4.0] * 5))
    workload.received(2, delivery(None, *[6.0] * 4, 1000.0))
    assert workload.too_slow(0, factor=9) and not workload.too_slow(0, factor=11)
    assert not workload.too_slow(2, factor=2), "one hiccup among its blocks"
    workload.lost(0, "is slower")
    assert not workload.too_slow(0, factor=2), "its place was taken by another"
    assert workload.metrics()["rollout/actors_lost"] == 1
