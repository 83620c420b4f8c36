"""A slot from its first process to its end, and what the meter is told of it."""

import random

import pytest

from cluster.pool.scale_down import Place
from cluster.pool.slots import SlotState
from tests.fakes.timed_slots import timed_slots


def brought_up(slots):
    for slot in slots:
        slots.change(slot, place=Place(f"node {slot.number}", {}, ()))
        slots.change(slot, state=SlotState.IDLE, replacing=False)
    return list(slots)


def test_the_example_of_the_module_a_slot_that_is_wanted_again_keeps_its_process():
    _, _, slots = timed_slots(3)
    for slot in brought_up(slots):
        slots.assign(slot, 1)
    slots.fit(2)
    (leaver,) = [slot for slot in slots if slot.leaving]
    assert leaver.state is SlotState.RETIRING and len(slots) == 3
    leaver.informed = True
    assert slots.fit(3) == [] and leaver.state is SlotState.RECALLED
    slots.change(leaver, state=SlotState.STARTING, informed=False)
    slots.finish(leaver)
    assert leaver.state is SlotState.STARTING and leaver.place is not None and not leaver.informed
    assert slots.lost == 0 and not slots.pool.replaced


def test_a_slot_that_is_wanted_again_before_its_actor_knows_is_at_work_as_before():
    _, _, slots = timed_slots(2)
    for slot in brought_up(slots):
        slots.assign(slot, 1)
    slots.fit(1)
    slots.fit(2)
    assert all(slot.state is SlotState.WORKING for slot in slots)


@pytest.mark.parametrize("state", [SlotState.DRAINING, SlotState.RECALLED, SlotState.RETIRING])
def test_a_process_that_is_lost_while_it_leaves_is_replaced_unless_its_slot_is_not_wanted(state):
    _, _, slots = timed_slots(1)
    (slot,) = brought_up(slots)
    slots.assign(slot, 1)
    slot.state = state
    slots.replace(slot, "died")
    slots.finish(slot)
    wanted = state is not SlotState.RETIRING
    assert (slot.state is SlotState.STARTING) == wanted and (slot.state is SlotState.GONE) != wanted
    assert len(slots) == len(slots.pool.slots) == slots.lost == wanted


def test_a_stage_that_begins_finds_every_slot_starting_and_none_that_was_not_wanted():
    _, meter, slots = timed_slots(4)
    working = brought_up(slots)
    for slot in working:
        slots.assign(slot, 1)
    slots.fit(3)
    slots.clear({slot.place.node for slot in working[:1]})
    for slot in working:
        slots.finish(slot)  # as a driver that is cancelled
    slots.settle()
    assert len(slots) == 3 and {slot.state for slot in slots} == {SlotState.STARTING}
    assert meter.levels["running"] == 0 and meter.levels["starting"] == 3


@pytest.mark.parametrize("seed", range(8))
def test_the_levels_of_the_meter_are_those_of_the_slots_whatever_happens(seed):
    """Hours are those of whole GPUs from the node to the end; GPUs are shared by up to three."""
    draw = random.Random(seed)
    clock, meter, slots = timed_slots(4)
    bill = 0
    for second in range(1, 400):
        if len(slots):
            slot = draw.choice(list(slots))
            match draw.randrange(8):
                case 0 if slot.place is None:
                    node, width = draw.randrange(2), draw.choice([0, 1, 1, 2])
                    gpus = tuple(f"{node}/{gpu}" for gpu in draw.sample(range(3), width))
                    slots.change(slot, place=Place(str(node), {}, gpus))
                case 1 | 2 if slot.place is not None and slot.state is SlotState.STARTING:
                    slots.change(slot, state=SlotState.IDLE, replacing=False)
                case 3 if slot.state is SlotState.IDLE:
                    slots.assign(slot, 2)
                case 4 if slot.at_work:
                    slots.receive(slot, [draw.random()])
                    slots.accept(slot, "Window")
                    slot.informed = slot.leaving
                case 5 if slot.running:
                    slots.replace(slot, "died")
                    slots.finish(slot)
                case 6:
                    slots.clear({str(draw.randrange(2))})
                case 7 if slot.at_work:
                    if slot.state is SlotState.RECALLED:
                        slots.change(slot, state=SlotState.STARTING, informed=False)
                    elif slot.leaving:
                        slots.replace(slot, "left")
                    slots.finish(slot)
        if draw.random() < 0.1:
            slots.fit(draw.randrange(9))
        if draw.random() < 0.02:
            slots.settle()
        clock.now = float(second)
        placed = [slot.place.gpus for slot in slots if slot.place is not None]
        bill += len({gpu for gpus in placed for gpu in gpus}) + sum(not gpus for gpus in placed)
        assert meter.totals()["held"] / 3600 == pytest.approx(bill / 3600)
        for level in ("running", "replacing", "busy", "starting"):
            assert meter.levels[level] == sum(slot.levels()[level] for slot in slots), level
        assert sorted(slots.by_number) == sorted(slots.pool.slots)


def test_an_actors_seconds_do_not_count_the_first_block_of_its_process_nor_its_waits():
    clock, meter, slots = timed_slots(1)
    (slot,) = brought_up(slots)
    for number in range(20):
        slots.assign(slot, 5)
        clock.now += 100.0 if number == 0 else 2.0  # the first block of a process comes late, once
        slots.receive(slot, [])
        slots.accept(slot, "MadeBlock")
        for _ in range(5):
            clock.now += 1.0
            slots.accept(slot, "Window")
        slots.finish(slot)
        clock.now += 30.0  # waits for room
        measured = meter.measure(1, 64, 0.0)
        assert measured.actor_s == pytest.approx(1.4, abs=0.41 if number < 3 else 0.11)
    assert measured.actor_s == pytest.approx(1.4) and measured.dispatch_s == pytest.approx(7.0)


def test_an_actor_is_too_slow_against_the_others_median_and_one_alone_never_is():
    _, _, slots = timed_slots(3)
    first, second, third = brought_up(slots)
    for slot in slots:
        slots.assign(slot, 1)
        slots.receive(slot, [1000.0] * 8)
    assert not slots.too_slow(first, factor=2), "its first blocks compile"
    slots.receive(first, [50.0] * 5)
    assert not slots.too_slow(first, factor=10)
    slots.receive(second, [4.0] * 5)
    slots.receive(third, [6.0] * 4 + [1000.0])
    assert slots.too_slow(first, factor=9) and not slots.too_slow(first, factor=11)
    assert not slots.too_slow(third, factor=2), "one hiccup among its blocks"
    slots.replace(first, "is slower")
    assert not slots.too_slow(first, factor=2), "its place was taken by another"
    assert slots.lost == 1
