"""The controller in simulated worlds: exact costs, actors that take a while to start, and any input at all."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.autoscale.controller import QUIET, Controller, Measurements
from cluster.config.autoscale_config import AutoscaleConfig
from cluster.config.cluster_config import ClusterConfig
from cluster.config.rules import check_autoscale
from cluster.planning.pool_balance import pool_size
from models.errors import ConfigError

SEEN = Measurements(
    size=4, starting=0, running=4.0, idle=0.0, replacing=0.0, scoring=0.0, waiting_share=0.0, windows_per_s=1.0,
    actor_s=4.0, learner_s=1.0, learnt_s=20.0, dispatch_s=10.0, fits=1000, gpu_hours=0.0, whole=True, warm=True,
)  # fmt: skip


def config(**keys):
    return AutoscaleConfig(
        **{"enabled": True, "maximum": 64, "measured_s": 20.0, "grow_after_s": 30.0, "shrink_after_s": 60.0} | keys
    )


class World:
    """Rates of a learner and a pool in steady state; `most` windows per second come through whatever is between."""

    def __init__(self, keys, size, actor_s, learner_s, starts_s=15.0, learner_cost=1.0, most=math.inf):
        self.controller, self.keys = Controller(keys, learner_cost), keys
        self.size, self.actor_s, self.learner_s, self.starts_s, self.most = size, actor_s, learner_s, starts_s, most
        self.there_s = [-math.inf] * size
        """When each actor is there."""
        self.now, self.hours, self.history, self.sizes = 0.0, 0.0, [], [size]

    def measured(self):
        there = sum(at <= self.now for at in self.there_s)
        rate = min(there / self.actor_s, 1 / self.learner_s, self.most)
        made_s = there / self.most if self.most <= there / self.actor_s else self.actor_s
        return replace(
            SEEN, size=self.size, starting=self.size - there, running=float(there), windows_per_s=rate,
            waiting_share=max(0.0, round(1 - rate * self.learner_s, 9)), idle=max(0.0, there - rate * made_s),
            actor_s=made_s, learner_s=self.learner_s, dispatch_s=6 * self.actor_s, gpu_hours=self.hours,
        )  # fmt: skip

    def run(self, seconds, kills=()):
        """`kills`: seconds at which half of the actors are lost; their successors start at once."""
        end, kills = self.now + seconds, list(kills)
        while self.now < end:
            if kills and self.now >= kills[0]:
                kills.pop(0)
                for i in range(self.size // 2):
                    self.there_s[i] = self.now + self.starts_s
            decision = self.controller.decide(self.now, self.measured())
            self.history.append(decision)
            if decision.size > self.size:
                self.there_s += [self.now + self.starts_s] * (decision.size - self.size)
            else:
                self.there_s = sorted(self.there_s)[: decision.size]
            self.size = decision.size
            self.sizes.append(self.size)
            self.now += self.keys.every_s
            self.hours += self.size * self.keys.every_s / 3600
        return self

    @property
    def turns(self):
        """How often the size changed its direction."""
        ways = [after > before for before, after in pairwise(self.sizes) if after != before]
        return sum(a != b for a, b in pairwise(ways))

    @property
    def changes(self):
        return sum(before != after for before, after in pairwise(self.sizes))


costs = st.floats(0.05, 20)
sizes = st.integers(1, 64)


@given(size=sizes, actor_s=costs, learner_s=costs, starts_s=st.floats(0, 50))
@settings(deadline=None, max_examples=25)
def test_with_exact_costs_the_pool_becomes_what_the_formula_says_without_turning_back(
    size, actor_s, learner_s, starts_s
):
    keys = config(gain=0.0, waiting_share=0.0)
    world = World(keys, size, actor_s, learner_s, starts_s).run(4000)
    needed = min(64, pool_size(actor_s, 1, learner_s, 1))
    assert abs(world.size - needed) <= (0 if size <= needed else 1)
    assert world.size >= needed, "the learner is starved"
    assert world.turns == 0 and world.changes <= 7
    assert set(world.sizes[-100:]) == {world.size}


@given(size=sizes, actor_s=costs, learner_s=costs, gain=st.floats(0, 1), waiting=st.floats(0, 0.3), spare=costs)
@settings(deadline=None, max_examples=25)
def test_an_actor_more_than_the_pool_would_not_be_worth_it_and_one_less_would_starve_the_learner(
    size, actor_s, learner_s, gain, waiting, spare
):
    keys = config(gain=gain, waiting_share=waiting)
    world = World(keys, size, actor_s, learner_s, learner_cost=spare).run(4000)
    n = world.size

    def rate(actors):
        return min(actors / actor_s, 1 / learner_s)

    def share(actors):
        """What one more actor brings, as a share of the updates per GPU-hour without it."""
        return (rate(actors + 1) - rate(actors)) / (rate(actors) / (spare + actors))

    starves = 1 - rate(n) * learner_s > waiting + 1e-9
    assert not starves or n == 64 or share(n) < gain + 1e-6, "a worthwhile actor is missing"
    if n < size:
        assert n == 1 or share(n - 1) >= gain - 1e-6, "an actor too many was left"
    assert set(world.sizes[-100:]) == {n}


@given(
    size=sizes, actor_s=costs, learner_s=costs, low=st.integers(1, 10), more=st.integers(0, 30), at=st.floats(0, 999)
)
@settings(deadline=None, max_examples=25)
def test_the_pool_is_never_outside_its_bounds_and_for_the_loss_of_half_of_it_not_larger_than_needed(
    size, actor_s, learner_s, low, more, at
):
    keys = config(minimum=low, maximum=low + more)
    size = min(max(size, low), low + more)
    world = World(keys, size, actor_s, learner_s).run(1500)
    before = world.size
    world.run(1500, kills=[1500 + at])
    assert all(low <= size <= low + more for size in world.sizes)
    needed = min(max(low, pool_size(actor_s, 1, learner_s, 1)), low + more)
    assert before <= world.size <= max(before, needed) and world.turns == 0


measurements = st.builds(
    Measurements, size=st.integers(1, 40), starting=st.integers(0, 10), running=st.floats(0, 40), idle=st.floats(0, 9),
    replacing=st.floats(0, 9), scoring=st.floats(0, 1), waiting_share=st.floats(0, 1), windows_per_s=st.floats(0, 100),
    actor_s=st.none() | st.floats(1e-3, 1e3), learner_s=st.none() | st.floats(1e-3, 1e3), learnt_s=st.floats(0, 500),
    dispatch_s=st.floats(0, 500),
    fits=st.integers(1, 100), gpu_hours=st.floats(0, 20), whole=st.booleans(), warm=st.booleans(),
)  # fmt: skip


@given(st.lists(st.tuples(measurements, st.floats(0, 500)), max_size=40), st.integers(2, 5))
def test_whatever_is_measured_the_size_stays_in_its_bounds_and_grows_by_its_factor_at_most(looks, low):
    keys = config(minimum=low, maximum=20, gpu_hours=10.0)
    controller, now, size = Controller(keys, 2.0), 0.0, low
    for measured, seconds in looks:
        now += seconds
        decision = controller.decide(now, replace(measured, size=size))
        assert low <= decision.size <= 20
        assert decision.size <= math.ceil(size * keys.growth)
        assert measured.gpu_hours < 10 or decision.size == low
        size = decision.size


@given(measurements)
@settings(deadline=None, max_examples=25)
def test_under_an_input_that_never_changes_the_size_comes_to_rest(measured):
    keys = config(maximum=40)
    controller, size, sizes = Controller(keys, 2.0), measured.size, []
    for look in range(400):
        shown = replace(measured, size=size, running=float(size), starting=0, whole=True, warm=True)
        size = controller.decide(10.0 * look, shown).size
        sizes.append(size)
    changes = [after > before for before, after in pairwise(sizes) if after != before]
    assert len(changes) <= 8 and sum(a != b for a, b in pairwise(changes)) <= 2
    assert set(sizes[200:]) == {size}


def test_where_something_else_holds_the_run_back_a_growth_that_brings_nothing_is_undone_once_and_for_all():
    world = World(config(), 2, actor_s=8.0, learner_s=1.0, most=0.25).run(6000)
    assert max(world.sizes) == 4 and world.size == 2, world.sizes
    assert world.changes == 2
    undone = next(decision for decision in world.history if decision.kind == "gain")
    assert all(fact in undone.reason for fact in (" 2 ", " 4 ", " 0%", "autoscale.gain"))


def test_a_learner_that_slows_down_is_no_sign_that_the_last_actors_brought_nothing():
    world = World(config(), 2, actor_s=40.0, learner_s=1.0)
    while world.size == 2:
        world.run(10)
    world.learner_s, world.actor_s = 8.0, 400.0  # fewer windows than before, and the learner still waits
    world.run(1000)
    assert "gain" not in {decision.kind for decision in world.history} and world.size > 2


def test_when_the_costs_change_what_was_learnt_about_sizes_is_forgotten():
    world = World(config(), 2, actor_s=8.0, learner_s=1.0, most=0.25).run(3000)
    assert world.size == 2
    world.most, world.actor_s = math.inf, 6.0
    world.run(3000)
    assert world.size == 6


def test_a_learner_that_becomes_slow_lets_the_pool_shrink_and_one_that_becomes_fast_lets_it_grow_again():
    world = World(config(), 1, actor_s=8.0, learner_s=1.0).run(1000)
    assert world.size == 8
    world.learner_s = 4.0
    world.run(1000)
    assert world.size == 2
    world.learner_s = 1.0
    world.run(1000)
    assert world.size == 8 and world.turns == 2


def test_cool_downs_lie_between_changes():
    world = World(config(shrink_after_s=600.0), 1, actor_s=1.0, learner_s=0.05, starts_s=0.0).run(300)
    changes = [i for i, (a, b) in enumerate(pairwise(world.sizes)) if a != b]
    assert world.size == 20 and all(b - a >= 3 for a, b in pairwise(changes))
    world.learner_s = 1.0
    began = world.now
    world.run(1000)
    shrunk = next(i for i, (a, b) in enumerate(pairwise(world.sizes)) if b < a)
    assert world.size == 1 and shrunk * world.keys.every_s - 30 * changes[-1] / 3 >= 500 and began == 300


def test_a_spent_budget_leaves_the_minimum_and_says_so():
    world = World(config(minimum=2, gpu_hours=1.0), 2, actor_s=8.0, learner_s=1.0).run(4000)
    assert max(world.sizes) == 8 and world.size == 2
    assert "autoscale.gpu_hours" in world.history[-1].reason and world.history[-1].kind not in QUIET
    assert world.hours - 1.0 < 4000 * 2 / 3600


def test_a_pool_that_loses_processes_all_the_time_is_not_shrunk_below_what_replaces_them():
    seen = replace(SEEN, size=12, running=10.0, idle=4.0, actor_s=6.0, replacing=1.4)
    controller = Controller(config())
    controller.decide(0.0, seen)
    assert controller.decide(100.0, seen).size == 6 + 2
    calm = Controller(config())
    calm.decide(0.0, seen)
    assert calm.decide(100.0, replace(seen, replacing=0.0)).size == 6


@pytest.mark.parametrize(
    ("seen", "bound"),
    [
        ({"fits": 4}, "buffer.windows and buffer.max_age"),
        ({"idle": 2.0}, "buffer.windows and buffer.max_age"),
        ({"size": 64, "running": 64.0, "actor_s": 99.0}, "autoscale.maximum"),
    ],
)
def test_a_starving_learner_whose_pool_must_not_grow_is_told_which_key_holds_it(seen, bound):
    starving = replace(SEEN, **{"waiting_share": 0.6, "actor_s": 10.0} | seen)
    controller = Controller(config())
    controller.decide(0.0, starving)
    decision = controller.decide(200.0, starving)
    assert decision.size == starving.size and decision.kind not in QUIET
    assert bound in decision.reason


def test_where_rewards_hold_a_starving_learner_back_the_pool_does_not_grow_and_says_who():
    starving = replace(SEEN, waiting_share=0.6, actor_s=40.0, scoring=0.97)
    controller = Controller(config())
    decisions = [controller.decide(10.0 * look, starving) for look in range(50)]
    assert {decision.size for decision in decisions} == {starving.size}
    assert decisions[-1].kind not in QUIET and all(
        fact in decisions[-1].reason for fact in ("97%", "cluster.reward_actors")
    )
    assert controller.decide(1000.0, replace(starving, scoring=0.5)).size > starving.size


@pytest.mark.parametrize("missing", [{"whole": False}, {"actor_s": None}, {"learner_s": None}])
def test_nothing_is_decided_before_enough_was_measured(missing):
    controller = Controller(config())
    for look in range(50):
        assert controller.decide(10.0 * look, replace(SEEN, waiting_share=0.9, **missing)).size == 4


def test_a_learner_that_is_still_loading_shrinks_no_pool():
    controller = Controller(config())
    loading = replace(SEEN, idle=4.0, learner_s=100.0, warm=False)
    assert {controller.decide(10.0 * look, loading).size for look in range(50)} == {4}


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"minimum": 0}, "minimum"),
        ({"minimum": 9, "maximum": 8}, "minimum"),
        ({"gain": -0.1}, "gain"),
        ({"growth": 1.0}, "growth"),
        ({"gpu_hours": 0.0}, "gpu_hours"),
        ({"waiting_share": 1.0}, "waiting_share"),
        ({"measured_s": 100.0}, "grow_after_s"),
        ({"every_s": math.inf}, "every_s"),
        ({"every_s": 0.01}, "every_s"),
    ],
)
def test_keys_that_make_no_sense_are_refused_by_name(keys, key):
    with pytest.raises(ConfigError) as refused:
        AutoscaleConfig(**keys)
    assert refused.value.key == f"autoscale.{key}"


@pytest.mark.parametrize(
    ("cluster", "half", "key"),
    [
        ({"kind": "inline"}, None, "autoscale.enabled"),
        ({"weight_transport": "collective"}, None, "cluster.weight_transport"),
        ({}, "learner_only", "debug.learner_only"),
        ({"rollout_actors": 17}, None, "cluster.rollout_actors"),
    ],
)
def test_a_pool_that_cannot_size_itself_is_refused(cluster, half, key):
    with pytest.raises(ConfigError) as refused:
        check_autoscale(AutoscaleConfig(enabled=True), ClusterConfig(**cluster), half)
    assert refused.value.key == key
    check_autoscale(AutoscaleConfig(), ClusterConfig(**cluster), half)
