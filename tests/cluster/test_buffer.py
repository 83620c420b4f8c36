import random
import statistics
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.buffer import WindowBuffer
from models.rollout import Rollout, WindowPlan


@dataclass(frozen=True)
class Sample:
    rollout: int
    index: int
    role: str
    start: int = 0
    attempt: int = 0


def rollout(i, roles, starts=None):
    starts = starts or [0] * len(roles)
    return Rollout(
        i, 0, "", 0, 96, tuple(WindowPlan(role, start, 0) for role, start in zip(roles, starts, strict=True))
    )


def samples_of(rollouts):
    return [Sample(r.id, i, plan.role, plan.start) for r in rollouts for i, plan in enumerate(r.windows)]


def filled(rollouts):
    buffer = WindowBuffer(1000, seed=0)
    buffer.expect(rollouts)
    for sample in samples_of(rollouts):
        buffer.put(sample)
    return buffer


def outcomes(buffer):
    return buffer.counts["taken"] + buffer.counts["cancelled"] + buffer.depth + len(buffer.pending)


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 5))
def test_every_dispatched_window_comes_out_exactly_once_in_whatever_order_it_arrives(random, rollouts, windows):
    dispatched = [rollout(r, [random.choice(["student", "critic"]) for _ in range(windows)]) for r in range(rollouts)]
    buffer = WindowBuffer(1000, seed=0)
    for one in dispatched:
        buffer.expect([one])
    samples = samples_of(dispatched)
    out, coming = [], random.sample(samples, len(samples))
    while coming or buffer.depth:
        if coming and random.random() < 0.7:
            buffer.put(coming.pop())
        out += buffer.take(random.choice(["student", "critic"]), 1) or []
        assert outcomes(buffer) == buffer.counts["dispatched"]
    assert Counter(out) == Counter(samples)
    assert buffer.counts["dispatched"] == buffer.counts["delivered"] == buffer.counts["taken"] == len(samples)


@given(st.randoms(use_true_random=False))
def test_the_order_of_taking_does_not_depend_on_the_order_of_arrival(random):
    dispatched = [rollout(i, ["student"] * 8) for i in range(4)]
    buffer = WindowBuffer(1000, seed=0)
    buffer.expect(dispatched)
    samples = samples_of(dispatched)
    for sample in random.sample(samples, len(samples)):
        buffer.put(sample)
    assert buffer.take("student", 32) == filled(dispatched).take("student", 32)


def test_a_batch_holds_windows_from_everywhere_even_when_the_learner_waits_for_every_one():
    """A starved learner that took what is there would see early windows, then late ones."""
    draw, spreads = random.Random(0), []
    buffer = WindowBuffer(1000, seed=0)
    for i in range(0, 80, 8):
        dispatched = [rollout(r, ["student"] * 8, [draw.randrange(29) for _ in range(8)]) for r in range(i, i + 8)]
        buffer.expect(dispatched)
        for sample in sorted(samples_of(dispatched), key=lambda sample: sample.start):
            buffer.put(sample)
            if taken := buffer.take("student", 8):
                spreads.append(statistics.pstdev(sample.start for sample in taken))
    assert statistics.mean(spreads) > 0.8 * statistics.pstdev(range(29))


def test_no_window_is_passed_over_for_one_of_a_later_dispatch():
    buffer = filled([rollout(0, ["student"] * 4)])
    later = [rollout(1, ["student"] * 4)]
    buffer.expect(later)
    for sample in samples_of(later):
        buffer.put(sample)
    assert {sample.rollout for sample in buffer.take("student", 4)} == {0}


def test_a_window_that_was_not_expected_or_comes_twice_is_refused():
    buffer = filled([rollout(0, ["student"])])
    with pytest.raises(ValueError, match="window 0 of rollout 0"):
        buffer.put(Sample(0, 0, "student"))
    with pytest.raises(ValueError, match="window 1 of rollout 7"):
        buffer.put(Sample(7, 1, "student"))


def test_a_rollout_that_is_dispatched_twice_is_refused():
    buffer = WindowBuffer(1000, seed=0)
    buffer.expect([rollout(3, ["student"])])
    with pytest.raises(ValueError, match=r"rollouts \[3\] were dispatched twice"):
        buffer.expect([rollout(3, ["student"])])


def test_what_is_dispatched_and_what_waits_never_exceeds_the_capacity():
    buffer = WindowBuffer(4, seed=0)
    two, three = [rollout(0, ["student"] * 2)], [rollout(1, ["student"] * 3)]
    assert buffer.has_room(two) and buffer.has_room(three)
    buffer.expect(two)
    assert buffer.has_room([rollout(2, ["critic"] * 2)]) and not buffer.has_room(three)
    for sample in samples_of(two):
        buffer.put(sample)
    assert not buffer.has_room(three), "a delivered window still takes its place"
    buffer.take("student", 2)
    assert buffer.has_room(three)


def test_too_few_windows_of_a_role_are_left_where_they_are():
    buffer = filled([rollout(0, ["student", "critic"])])
    assert buffer.take("student", 2) is None
    assert buffer.depth == 2


def test_cancelled_windows_are_counted_and_never_come_back():
    buffer = filled([rollout(0, ["student", "critic"])])
    buffer.expect([rollout(1, ["student"])])
    buffer.cancel()
    assert buffer.counts["cancelled"] == 3
    assert outcomes(buffer) == 3
    with pytest.raises(ValueError, match="window 0 of rollout 1"):
        buffer.put(Sample(1, 0, "student"))
