import random
import statistics
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.buffer_config import BufferConfig
from cluster.supply.buffer import MAX_REFILLS, TooOld, WindowBuffer
from models.records import Rollout, WindowPlan


@dataclass(frozen=True)
class Sample:
    rollout: int
    index: int
    role: str
    start: int = 0
    attempt: int = 0
    version: int = 0
    age: int = 0
    weight: float = 1.0


def rollout(i, roles, starts=None):
    starts = starts or [0] * len(roles)
    return Rollout(
        i, 0, "", 0, 96,
        tuple(WindowPlan(role, start, 0, j) for j, (role, start) in enumerate(zip(roles, starts, strict=True))),
    )  # fmt: skip


def new_buffer(windows=1000, windows_per_update=8, **changes):
    return WindowBuffer(BufferConfig(**{"windows": windows, "policy": "weight"} | changes), 0, windows_per_update)


def no_age(sample):
    return 0


def samples_of(rollouts):
    return [Sample(r.id, i, plan.role, plan.start) for r in rollouts for i, plan in enumerate(r.windows)]


def filled(rollouts):
    buffer = new_buffer()
    buffer.expect(rollouts)
    for sample in samples_of(rollouts):
        buffer.put(sample)
    return buffer


def outcomes(buffer):
    return buffer.counts["taken"] + buffer.counts["cancelled"] + buffer.depth + len(buffer.pending)


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 5))
def test_every_dispatched_window_comes_out_exactly_once_in_whatever_order_it_arrives(random, rollouts, windows):
    dispatched = [rollout(r, [random.choice(["student", "critic"]) for _ in range(windows)]) for r in range(rollouts)]
    buffer = new_buffer()
    for one in dispatched:
        buffer.expect([one])
    samples = samples_of(dispatched)
    out, coming = [], random.sample(samples, len(samples))
    while coming or buffer.depth:
        if coming and random.random() < 0.7:
            buffer.put(coming.pop())
        out += buffer.take(random.choice(["student", "critic"]), 1, no_age) or []
        assert outcomes(buffer) == buffer.counts["dispatched"]
    assert Counter(out) == Counter(samples)
    assert buffer.counts["dispatched"] == buffer.counts["delivered"] == buffer.counts["taken"] == len(samples)


@given(st.randoms(use_true_random=False))
def test_the_order_of_taking_does_not_depend_on_the_order_of_arrival(random):
    dispatched = [rollout(i, ["student"] * 8) for i in range(4)]
    buffer = new_buffer()
    buffer.expect(dispatched)
    samples = samples_of(dispatched)
    for sample in random.sample(samples, len(samples)):
        buffer.put(sample)
    assert buffer.take("student", 32, no_age) == filled(dispatched).take("student", 32, no_age)


def test_a_batch_holds_windows_from_everywhere_even_when_the_learner_waits_for_every_one():
    """A starved learner that took what is there would see early windows, then late ones."""
    draw, spreads = random.Random(0), []
    buffer = new_buffer()
    for i in range(0, 80, 8):
        dispatched = [rollout(r, ["student"] * 8, [draw.randrange(29) for _ in range(8)]) for r in range(i, i + 8)]
        buffer.expect(dispatched)
        for sample in sorted(samples_of(dispatched), key=lambda sample: sample.start):
            buffer.put(sample)
            if taken := buffer.take("student", 8, no_age):
                spreads.append(statistics.pstdev(sample.start for sample in taken))
    assert statistics.mean(spreads) > 0.8 * statistics.pstdev(range(29))


def test_no_window_is_passed_over_for_one_of_a_later_dispatch():
    buffer = filled([rollout(0, ["student"] * 4)])
    later = [rollout(1, ["student"] * 4)]
    buffer.expect(later)
    for sample in samples_of(later):
        buffer.put(sample)
    assert {sample.rollout for sample in buffer.take("student", 4, no_age)} == {0}


def test_a_window_that_was_not_expected_or_comes_twice_is_refused():
    buffer = filled([rollout(0, ["student"])])
    with pytest.raises(ValueError, match=r"\b0\b.*\b0\b"):
        buffer.put(Sample(0, 0, "student"))
    with pytest.raises(ValueError, match=r"\b1\b.*\b7\b"):
        buffer.put(Sample(7, 1, "student"))


def test_a_rollout_that_is_dispatched_twice_is_refused():
    buffer = new_buffer()
    buffer.expect([rollout(3, ["student"])])
    with pytest.raises(ValueError, match=r"\[3\]"):
        buffer.expect([rollout(3, ["student"])])


def test_what_is_dispatched_and_what_waits_never_exceeds_the_capacity():
    buffer = new_buffer(4)
    two, three = [rollout(0, ["student"] * 2)], [rollout(1, ["student"] * 3)]
    assert buffer.has_room(two) and buffer.has_room(three)
    buffer.expect(two)
    assert buffer.has_room([rollout(2, ["critic"] * 2)]) and not buffer.has_room(three)
    for sample in samples_of(two):
        buffer.put(sample)
    assert not buffer.has_room(three), "a delivered window still takes its place"
    buffer.take("student", 2, no_age)
    assert buffer.has_room(three)


def test_too_few_windows_of_a_role_are_left_where_they_are():
    buffer = filled([rollout(0, ["student", "critic"])])
    assert buffer.take("student", 2, no_age) is None
    assert buffer.depth == 2


def test_cancelled_windows_are_counted_and_never_come_back():
    buffer = filled([rollout(0, ["student", "critic"])])
    buffer.expect([rollout(1, ["student"])])
    assert buffer.cancel() == buffer.counts["cancelled"] == 3
    assert outcomes(buffer) == 3
    with pytest.raises(ValueError, match=r"\b0\b.*\b1\b"):
        buffer.put(Sample(1, 0, "student"))


def asked_again(buffer):
    """The windows that came too old, each now expected of the attempt that is named here."""
    asked = []
    while buffer.refills:
        i, index = buffer.refills.popleft()
        role = next(role for role, keys in buffer.order.items() if (i, index) in keys)
        attempt = 1 + buffer.counts["asked_again"]
        buffer.expect_again(Rollout(i, attempt, "", 0, 96, (WindowPlan(role, 0, 0, index),)))
        asked.append((i, index, role, attempt))
    return asked


def deliver(buffer, rollouts, version=0):
    for sample in samples_of(rollouts):
        if buffer.expects(sample.rollout, sample.index, sample.attempt):
            buffer.put(replace(sample, version=version))


def test_windows_say_their_age_and_with_policy_weight_count_less_for_every_update_beyond_the_bound():
    buffer = new_buffer(policy="weight", max_age=2, decay=0.5)
    buffer.expect([rollout(0, ["student"] * 4)])
    for index, version in enumerate((9, 8, 7, 5)):
        buffer.put(Sample(0, index, "student", version=version))
    taken = buffer.take("student", 4, lambda sample: 10 - sample.version)
    assert {w.age: w.weight for w in taken} == {1: 1.0, 2: 1.0, 3: 0.5, 5: 0.125}


def test_policy_drop_asks_for_a_window_that_is_too_old_again_with_the_start_that_was_drawn_for_it():
    buffer = new_buffer(policy="drop", max_age=2)
    dispatched = [rollout(0, ["student"] * 4, [0, 3, 6, 9])]
    buffer.expect(dispatched)
    deliver(buffer, dispatched, version=0)
    assert buffer.take("student", 2, lambda sample: 3 - sample.version) is None
    assert set(buffer.refills) <= {(0, i) for i in range(4)} and buffer.counts["dropped"] == 4
    assert not any(buffer.expects(0, i, 0) for i in range(4)), "nobody's, until somebody is asked"
    for i, index, role, attempt in asked_again(buffer):
        buffer.put(Sample(i, index, role, 3 * index, attempt, version=3))
    taken = buffer.take("student", 4, lambda sample: 3 - sample.version)
    assert sorted(w.start for w in taken) == [0, 3, 6, 9]
    assert buffer.counts["dispatched"] == buffer.counts["taken"] == 4
    assert buffer.counts["delivered"] == 8


@given(st.randoms(use_true_random=False))
def test_dropping_never_changes_which_starts_come_out(random):
    """Every start that was drawn comes out once, however often it was too old: the law of starts is not bent."""
    buffer = new_buffer(policy="drop", max_age=2)
    dispatched = [rollout(r, ["student"] * 4, [random.randrange(29) for _ in range(4)]) for r in range(6)]
    for one in dispatched:
        buffer.expect([one])
    starts = {(r.id, p.index): p.start for r in dispatched for p in r.windows}
    now, out, coming = 0, [], [(*where, "student", 0) for where in starts]
    while len(out) < len(starts):
        coming = random.sample(coming, len(coming)) + asked_again(buffer)
        for one in coming[: random.randrange(1, 9)]:
            i, index, role, attempt = one
            buffer.put(Sample(i, index, role, starts[i, index], attempt, version=now))
            coming.remove(one)
        taken = buffer.take("student", 1, lambda sample, now=now: now - sample.version) or []
        out += taken
        now += bool(taken) and random.random() < 0.3
    assert Counter((w.rollout, w.index) for w in out) == Counter(list(starts))
    assert all(w.start == starts[w.rollout, w.index] and w.age <= 2 for w in out)


def test_a_window_that_is_too_old_every_time_stops_the_run_and_names_the_key():
    buffer = new_buffer(policy="drop", max_age=2)
    buffer.expect([rollout(0, ["student"])])
    with pytest.raises(TooOld, match=r"buffer\.max_age = 2"):
        attempt = 0
        for _ in range(MAX_REFILLS + 1):
            buffer.put(Sample(0, 0, "student", attempt=attempt))
            buffer.take("student", 1, lambda sample: 3)
            ((_, _, _, attempt),) = asked_again(buffer)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_policy_wait_never_hands_out_a_window_that_is_older_than_the_bound(max_age, batch, windows, seed):
    """Dispatched whenever there is room, delivered at once with the version of the dispatch, taken by whole updates."""
    roles = ["student", "critic", "critic", "critic"]
    buffer = new_buffer(policy="wait", max_age=max_age, windows_per_update=4 * batch)
    rollouts, turn = 0, 0
    for update in range(40):
        while True:
            one = rollout(rollouts, [roles[(turn + i) % 4] for i in range(4 * windows)])
            if not buffer.has_room([one]):
                break
            buffer.expect([one])
            deliver(buffer, [one], version=update)
            rollouts, turn = rollouts + 1, turn + 4 * windows
        for role in roles:
            for window in buffer.take(role, batch, lambda sample, update=update: update - sample.version) or []:
                assert window.age <= max_age


def test_a_restored_buffer_hands_out_the_same_windows_in_the_same_order():
    one, other = new_buffer(), new_buffer()
    dispatched = [rollout(0, ["student"] * 4), rollout(1, ["critic", "student"])]
    one.expect(dispatched)
    samples = samples_of(dispatched)
    for sample in samples[:3]:
        one.put(sample)
    other.restore(one.state(), list(one.waiting.values()))
    for buffer in (one, other):
        for sample in samples[3:]:
            buffer.put(sample)
    assert one.take("student", 5, no_age) == other.take("student", 5, no_age)
    assert one.state() == other.state()


def test_a_window_of_an_attempt_that_was_given_up_is_refused():
    buffer = new_buffer()
    lost = rollout(0, ["student"])
    buffer.expect([lost])
    buffer.expect_again(replace(lost, attempt=1))
    with pytest.raises(ValueError, match=r"\b0\b.*\b0\b"):
        buffer.put(Sample(0, 0, "student", attempt=0))
    buffer.put(Sample(0, 0, "student", attempt=1))


@given(st.randoms(use_true_random=False), st.sampled_from(["drop", "weight"]))
def test_a_plan_is_complete_exactly_when_all_of_the_next_windows_wait(random, policy):
    buffer = new_buffer(policy=policy, max_age=1)
    ages, coming = {}, []
    for step in range(60):
        if random.random() < 0.3:
            made = rollout(step, random.choices(["student", "critic"], k=4))
            buffer.expect([made])
            coming += [Sample(step, plan.index, plan.role) for plan in made.windows]
        if coming and random.random() < 0.8:
            sample = coming.pop(random.randrange(len(coming)))
            buffer.put(sample)
            ages[sample.rollout, sample.index] = random.choice([0, 0, 0, 2])
        role, n = random.choice(["student", "critic"]), random.randint(1, 3)
        following = list(buffer.order[role])[:n]
        waiting = len(following) == n and all(where in buffer.waiting for where in following)
        assert buffer.complete(role, n) == waiting
        if random.random() < 0.3:
            buffer.take(role, n, lambda sample: ages[sample.rollout, sample.index])
        coming += [Sample(i, index, role, 0, attempt) for i, index, role, attempt in asked_again(buffer)]
