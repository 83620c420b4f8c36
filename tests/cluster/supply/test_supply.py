"""The laws of the supply, with actors that only pretend: no network, no process, any order of events."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import chisquare

from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from cluster.supply.supply import BAD_AT_LEAST, TooManyBad
from cluster.supply.wire import BadWindow
from models.records import CRITIC, STUDENT, Window
from tests.fakes.simulated_supply import World, deliver, saved
from tests.fakes.small_runs import pretended, small


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("policy", "max_age"), [("wait", 12), ("drop", 12), ("drop", 3), ("weight", 2)])
def test_every_window_comes_exactly_once_and_of_one_attempt_whatever_is_killed_and_when(seed, policy, max_age):
    world = World(small(policy=policy, max_age=max_age), random.Random(seed))
    for _ in range(600):
        world.act()
        world.account()
    keys = [(w.rollout, w.index) for w in world.taken]
    assert len(keys) == len(set(keys)), "a window was taken twice"
    for window in world.taken:
        frames = torch.cat([window.context, window.latents, window.noisy])
        assert set(frames.unique().tolist()) == {float(window.attempt)}, "a window mixes two attempts"


@pytest.mark.parametrize("seed", range(8))
def test_after_a_rollback_the_surviving_timeline_has_every_window_once_too(seed):
    config = small()
    world = World(config, random.Random(seed))
    for _ in range(150):
        world.act()
    state = saved(world.supply.state())
    then = list(world.taken), world.turn, world.update
    for _ in range(60):
        world.act()  # lost with the rollback
    world.rolled_back(state, *then)
    for _ in range(300):
        world.act()
        world.account()
    keys = Counter((w.rollout, w.index) for w in world.taken)
    assert max(keys.values(), default=0) <= 1, "a window was trained on twice"
    assert world.supply.buffer.counts["taken"] == len(world.taken)


def test_positions_stay_uniform_for_each_role_under_streaming_drops_and_kills():
    config = small(policy="drop", max_age=3)
    world = World(config, random.Random(0))
    while len(world.taken) < 2000:
        world.act()
    assert world.supply.buffer.counts["dropped"] > 50 and world.supply.buffer.counts["asked_again"] > 100
    for role in (STUDENT, CRITIC):
        starts = Counter(w.start for w in world.taken if w.role == role)
        assert set(starts) == set(range(0, 19, 3))
        assert chisquare([starts[start] for start in range(0, 19, 3)]).pvalue > 1e-4, starts


def test_by_priority_more_windows_come_from_where_videos_stray_and_none_is_lost_to_kills():
    config = small(policy="drop", max_age=3)
    config.window.law = "priority(0.3)"
    world = World(config, random.Random(0), make=partial(pretended, stray=lambda index: float(index >= 8)))
    while len(world.taken) < 2000:
        world.act()
        world.account()
    starts = Counter(w.start for w in world.taken[1000:])
    assert starts[18] > 4 * starts[0] > 0 and set(starts) == set(range(0, 19, 3))


def test_a_request_is_answered_with_the_same_windows_however_often_it_is_made():
    world = World(small(), random.Random(1))
    while not world.taken:
        world.act()
    first, again = world.taken[-2:], world.supply.take(world.number - 1, CRITIC, 2)
    assert [(w.rollout, w.index, w.attempt) for w in again] == [(w.rollout, w.index, w.attempt) for w in first]
    assert again is world.supply.take(world.number - 1, CRITIC, 2)
    assert world.supply.buffer.counts["taken"] == 2


@pytest.fixture
def half_made():
    """A dispatch of which an actor has streamed everything but was stopped before its first window, and that window."""
    config = small()
    supply = make_supply(stage_spec("dmd", config))
    for version in range(9):
        supply.versions.publish(version, version)
    dispatch = supply.next()
    for item in pretended(config, dispatch, 0):
        if isinstance(item, Window):
            return supply, dispatch, item
        deliver(supply, dispatch, item)
    raise AssertionError("no window came")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda w: {"latents": w.latents[:, :, 1:], "noisy": w.noisy[:, :, 1:], "context": w.context[:, :, 1:]},
            "shape",
        ),
        (lambda w: {"latents": w.latents[3:], "noisy": w.noisy[3:]}, "shape"),
        (
            lambda w: {
                "context": w.context.new_zeros(len(w.context) + 3, *w.context.shape[1:]),
                "versions": (0, *w.versions),
            },
            "shape",
        ),
        (lambda w: {"prompt": "another"}, "plan"),
        (lambda w: {"seed": w.seed + 1}, "plan"),
        (lambda w: {"latents": w.latents.int()}, "dtype"),
        (lambda w: {"noisy": w.noisy.half()}, "dtype"),
        (lambda w: {"latents": w.latents + torch.nan}, "not_finite"),
        (lambda w: {"noisy": w.noisy + torch.inf}, "not_finite"),
        (lambda w: {"versions": (99,) * len(w.versions)}, "version"),
        (lambda w: {"versions": w.versions[1:]}, "version"),
        (lambda w: {"versions": tuple(range(len(w.versions)))}, "version"),
        (lambda w: {"latents": w.latents + 1}, "splice"),
        (lambda w: {"image": w.latents[0]}, "image"),
        (lambda w: {"start": w.start + 3}, "plan"),
        (lambda w: {"role": "ode"}, "plan"),
        (lambda w: {"index": 77}, "plan"),
        (lambda w: {"rollout": 77}, "plan"),
        (lambda w: {"attempt": 1}, "plan"),
    ],
)
def test_a_window_that_is_not_what_was_asked_for_is_refused_by_name_and_made_again(half_made, change, reason):
    supply, dispatch, window = half_made
    with pytest.raises(BadWindow) as refused:
        deliver(supply, dispatch, replace(window, **change(window)))
    assert refused.value.reason == reason
    supply.refuse(refused.value)
    supply.give_back(dispatch, afresh=True)
    again = supply.next()
    assert {r.attempt for r in again.rollouts} == {1} and not again.made
    assert supply.metrics()["windows/refused"] == supply.metrics()[f"windows/refused_{reason}"] == 1


def test_more_bad_windows_than_allowed_stop_the_run_with_the_reason(half_made):
    supply, _, _ = half_made
    bad = BadWindow("not_finite", "window 3 of rollout 2: latents has NaN")
    for _ in range(BAD_AT_LEAST - 1):
        supply.refuse(bad)
    with pytest.raises(TooManyBad, match=r"(?s)^5 .*buffer\.bad_share = 0\.1.*latents"):
        supply.refuse(bad)


def test_a_lost_video_is_continued_from_its_blocks_as_the_same_attempt_and_made_again_if_so_configured(half_made):
    supply, dispatch, window = half_made
    supply.give_back(dispatch)
    again = supply.next()
    assert {r.attempt for r in again.rollouts} == {0} and again.made
    assert (again.made[-1].index + 1) * 3 < window.start + 12, "the block that ends a missing window is made again"
    supply.rollout.continued = False
    supply.give_back(again)
    afresh = supply.next()
    assert {r.attempt for r in afresh.rollouts} == {1} and not afresh.made


def test_only_what_is_missing_is_asked_for_again():
    config = small()
    supply = make_supply(stage_spec("dmd", config))
    supply.versions.publish(0, 0)
    dispatch = supply.next()
    delivered = set()
    for item in pretended(config, dispatch, 0):
        deliver(supply, dispatch, item)
        if isinstance(item, Window):
            delivered.add((item.rollout, item.index))
        if len(delivered) == 5:
            break
    supply.give_back(dispatch)
    asked = {(r.id, plan.index): plan for r in supply.next().rollouts for plan in r.windows}
    everything = {(r.id, plan.index): plan for r in dispatch.rollouts for plan in r.windows}
    assert asked == {key: plan for key, plan in everything.items() if key not in delivered}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: {"x0": b.x0[1:]}, "shape"),
        (lambda b: {"x0": b.x0 * torch.nan}, "not_finite"),
        (lambda b: {"inputs": {3: b.x0 * torch.inf}}, "not_finite"),
        (lambda b: {"version": 99}, "version"),
        (lambda b: {"index": b.index + 1}, "splice"),
        (lambda b: {"x0": b.x0.int()}, "dtype"),
    ],
)
def test_a_block_that_no_other_actor_should_go_on_from_is_refused(change, reason):
    config = small()
    supply = make_supply(stage_spec("dmd", config))
    supply.versions.publish(0, 0)
    dispatch = supply.next()
    block = next(iter(pretended(config, dispatch, 0)))
    with pytest.raises(BadWindow) as refused:
        deliver(supply, dispatch, replace(block, **change(block)))
    assert refused.value.reason == reason and not dispatch.made


def test_a_request_that_was_answered_and_forgotten_is_never_answered_with_other_windows():
    world = World(small(), random.Random(2))
    while world.number < 4:
        world.act()
    with pytest.raises(AssertionError, match=r"\b0\b"):
        world.supply.take(0, CRITIC, 2)
