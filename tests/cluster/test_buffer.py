from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.buffer import WindowBuffer


@dataclass(frozen=True)
class Sample:
    rollout: int
    index: int
    role: str
    attempt: int = 0
    start: int = 0


def filled(samples):
    buffer = WindowBuffer(len(samples), seed=0)
    buffer.expect([(s.rollout, s.index) for s in samples])
    for sample in samples:
        buffer.put(sample)
    return buffer


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 5))
def test_every_dispatched_window_comes_out_exactly_once_in_whatever_order_it_arrives(random, rollouts, windows):
    samples = [Sample(r, i, random.choice(["student", "critic"])) for r in range(rollouts) for i in range(windows)]
    buffer = WindowBuffer(len(samples), seed=0)
    buffer.expect([(s.rollout, s.index) for s in samples])
    out, coming = [], random.sample(samples, len(samples))
    while coming or buffer.depth:
        if coming and random.random() < 0.7:
            buffer.put(coming.pop())
        out += buffer.take(random.choice(["student", "critic"]), 1) or []
    assert Counter(out) == Counter(samples)
    assert buffer.counts["dispatched"] == buffer.counts["delivered"] == buffer.counts["taken"] == len(samples)


def test_a_window_that_was_not_expected_or_comes_twice_is_refused():
    buffer = filled([Sample(0, 0, "student")])
    with pytest.raises(ValueError, match="window 0 of rollout 0"):
        buffer.put(Sample(0, 0, "student"))
    with pytest.raises(ValueError, match="window 1 of rollout 7"):
        buffer.put(Sample(7, 1, "student"))


def test_what_is_dispatched_and_what_waits_never_exceeds_the_capacity():
    buffer = WindowBuffer(4, seed=0)
    assert buffer.has_room(4) and not buffer.has_room(5)
    buffer.expect([(0, 0), (0, 1), (0, 2)])
    assert buffer.has_room(1) and not buffer.has_room(2)
    buffer.put(Sample(0, 0, "student"))
    assert not buffer.has_room(2), "a delivered window still takes its place"
    buffer.take("student", 1)
    assert buffer.has_room(2)


def test_too_few_windows_of_a_role_are_left_where_they_are():
    buffer = filled([Sample(0, 0, "student"), Sample(0, 1, "critic")])
    assert buffer.take("student", 2) is None
    assert buffer.depth == 2


def test_windows_leave_in_an_order_that_does_not_follow_their_arrival():
    samples = [Sample(0, i, "student") for i in range(64)]
    taken = filled(samples).take("student", 8)
    assert [s.index for s in taken] != list(range(8))


def test_cancelled_windows_are_counted():
    buffer = filled([Sample(0, 0, "student"), Sample(0, 1, "critic")])
    buffer.pending.add((1, 0))
    buffer.cancel()
    assert buffer.counts["cancelled"] == 3
    assert buffer.depth == 0 and not buffer.pending
