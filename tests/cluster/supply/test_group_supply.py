"""The supply's laws for groups, and what is refused before anybody scores it; actors only pretend."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from cluster.runs.factory import make_supply
from cluster.runs.stage_spec import stage_spec
from cluster.supply.ledger import RewardFails
from cluster.supply.wire import BadWindow
from models.records import GRPO, SENTINEL, Group, GroupPlan
from tests.fakes.simulated_supply import World, deliver, opened, restored, saved, sealed, validated
from tests.fakes.small_runs import mark, pretended_groups, small_grpo


class GroupWorld(World):
    """Sentinels look, three rounds follow; groups come with a score each, and their reference is what it should be."""

    requests = [(SENTINEL, 2, False)] + [(GRPO, 2, True)] * 3

    def __init__(self, config, random):
        super().__init__(config, random, "grpo", self.scored)

    def scored(self, config, dispatch, version):
        for item in pretended_groups(config, dispatch, version):
            yield self.with_scores(dispatch, item) if isinstance(item, Group) else item

    def with_scores(self, dispatch, group):
        header = validated(self.supply, dispatch, group)
        assert_is_opening(self.supply.reference(dispatch, header), group)
        return replace(group, scores={"exposure_drift": [[1.0]] * group.members})


def assert_is_opening(reference, group):
    """The first horizon of the group's own video and attempt, as far as it was made before the fork."""
    blocks = min(group.start, 12) // 3
    shown = [frame.unique().item() for block in reference for frame in opened(block).x0[0]]
    assert shown == [group.rollout + group.attempt / 8 + block / 1024 for block in range(blocks) for _ in range(3)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("policy", "max_age"), [("wait", 8), ("drop", 8), ("drop", 2), ("weight", 2)])
def test_every_group_comes_exactly_once_with_its_own_past_and_opening_whatever_is_killed_and_when(
    seed, policy, max_age
):
    world = GroupWorld(small_grpo(policy=policy, max_age=max_age), random.Random(seed))
    for _ in range(400):
        world.act()
        world.account()
    keys = [(g.rollout, g.index) for g in world.taken]
    assert len(keys) == len(set(keys)) > 20, "a group was taken twice"
    for group in world.taken:
        asked = world.supply.dispatcher.rollouts(group.rollout)[0]
        (plan,) = asked.windows
        assert (group.prompt, group.seed, group.start) == (asked.prompt, asked.seed, plan.start)
        first = (group.start - len(group.context)) // 3
        shown = [block.unique().item() for block in group.context.split(3)] if len(group.context) else []
        owner = replace(asked, attempt=group.attempt)
        assert shown == [mark(owner, first + i) for i in range(len(shown))], "a group mixes videos or attempts"


@pytest.mark.parametrize("seed", range(8))
def test_after_a_rollback_with_groups_in_flight_every_group_comes_once_too(seed):
    config = small_grpo()
    world = GroupWorld(config, random.Random(seed))
    for _ in range(150):
        world.act()
    state = saved(world.supply.state())
    then = list(world.taken), world.turn, world.update
    plans = {i: rollout.windows for i, rollout in world.supply.open.items()}
    for _ in range(60):
        world.act()  # lost with the rollback
    world.rolled_back(state, *then)
    assert {i: rollout.windows for i, rollout in world.supply.open.items()} == plans
    assert all(isinstance(plan, GroupPlan) for windows in plans.values() for plan in windows) and plans
    for _ in range(200):
        world.act()
        world.account()
    keys = Counter((g.rollout, g.index) for g in world.taken)
    assert max(keys.values()) == 1, "a group was trained on twice"
    assert world.supply.buffer.counts["taken"] == len(world.taken)


def forking(config):
    """A supply and its first dispatch that forks."""
    supply = make_supply(stage_spec("grpo", config))
    for version in range(9):
        supply.versions.publish(version, version)
    watched = supply.next()
    assert {rollout.windows[0].role for rollout in watched.rollouts} == {SENTINEL}
    return supply, supply.next()


def made_until(supply, dispatch, wanted):
    """Deliver until an item that `wanted` holds for, which is returned in place of being delivered."""
    for item in pretended_groups(small_grpo(), dispatch, 0):
        if wanted(item):
            return item
        deliver(supply, dispatch, item)
    raise AssertionError("it never came")


def late_group(item):
    return isinstance(item, Group) and item.start > 12


def test_a_lost_video_is_continued_from_its_blocks_with_its_opening_and_afresh_without_either():
    supply, dispatch = forking(small_grpo())
    group = made_until(supply, dispatch, late_group)
    opening = [opened(block).x0 for block in dispatch.first]
    assert len(opening) == 4
    supply.give_back(dispatch)
    again = supply.next()
    assert {r.attempt for r in again.rollouts} == {0}
    assert again.made[-1].index == group.start // 3 - 1, "the fork is where its video stands"
    rows = [dispatch.rollouts.index(next(r for r in dispatch.rollouts if r.id == m.id)) for m in again.rollouts]
    assert all(torch.equal(opened(block).x0, x0[rows]) for block, x0 in zip(again.first, opening, strict=True))
    assert_is_opening(supply.reference(again, sealed(group)), group)
    supply.give_back(again, afresh=True)
    afresh = supply.next()
    assert {r.attempt for r in afresh.rollouts} == {1} and not afresh.made and not afresh.first


def test_a_video_that_forks_at_its_beginning_is_made_again_when_it_is_lost():
    supply = make_supply(stage_spec("grpo", small_grpo()))
    supply.versions.publish(0, 0)
    dispatch = supply.next()
    supply.give_back(dispatch)
    again = supply.next()
    assert {r.attempt for r in again.rollouts} == {1} and {r.id for r in again.rollouts} == {0, 1}


def test_a_group_that_was_delivered_is_not_asked_for_again():
    supply, dispatch = forking(small_grpo())
    first = made_until(supply, dispatch, lambda item: isinstance(item, Group))
    deliver(supply, dispatch, first)
    supply.give_back(dispatch)
    assert {r.id for r in supply.next().rollouts} == {r.id for r in dispatch.rollouts} - {first.rollout}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: {"latents": g.latents[:1]}, "shape"),
        (lambda g: {"latents": g.latents[:, :9]}, "shape"),
        (lambda g: {"noisy": g.noisy[..., 1:]}, "shape"),
        (lambda g: {"states": g.states[:, :0]}, "shape"),
        (lambda g: {"samples": g.samples[:, 0]}, "shape"),
        (lambda g: {"behaviour": g.behaviour.repeat(1, 2, 1, 1, 1, 1)}, "shape"),
        (lambda g: {"context": g.context[3:], "versions": g.versions[1:]}, "shape"),
        (lambda g: {"transitions": (7,)}, "plan"),
        (lambda g: {"start": g.start - 3}, "plan"),
        (lambda g: {"role": SENTINEL}, "plan"),
        (lambda g: {"prompt": "another"}, "plan"),
        (lambda g: {"seed": g.seed + 1}, "plan"),
        (lambda g: {"index": 7}, "plan"),
        (lambda g: {"rollout": 77}, "plan"),
        (lambda g: {"attempt": 1}, "plan"),
        (lambda g: {"versions": g.versions[1:]}, "version"),
        (lambda g: {"versions": (99,) * len(g.versions)}, "version"),
        (lambda g: {"versions": tuple(range(len(g.versions)))}, "version"),
        (lambda g: {"behaviour": g.behaviour * torch.nan}, "not_finite"),
        (lambda g: {"samples": g.samples + torch.inf}, "not_finite"),
        (lambda g: {"latents": g.latents * torch.nan}, "not_finite"),
        (lambda g: {"states": g.states.int()}, "dtype"),
        (lambda g: {"images": g.latents[:, 0]}, "image"),
        (lambda g: {"context": g.context + 1}, "splice"),
        (lambda g: {"context": g.context.roll(3, 0)}, "splice"),
    ],
)
def test_a_group_that_is_not_what_was_asked_for_is_refused_by_name_before_anybody_scores_it(change, reason):
    supply, dispatch = forking(small_grpo())
    group = made_until(supply, dispatch, late_group)
    with pytest.raises(BadWindow) as refused:
        validated(supply, dispatch, replace(group, **change(group)))
    assert refused.value.reason == reason
    validated(supply, dispatch, group)


def test_a_group_with_a_past_that_nobody_streamed_is_refused_as_a_splice():
    supply, dispatch = forking(small_grpo())
    group = made_until(supply, dispatch, late_group)
    dispatch.made.clear()
    with pytest.raises(BadWindow) as refused:
        supply.validate(dispatch, sealed(group))
    assert refused.value.reason == "splice"


def test_a_group_of_another_videos_past_is_refused_as_a_splice():
    supply, dispatch = forking(small_grpo())
    group = made_until(supply, dispatch, late_group)
    row = next(i for i, rollout in enumerate(dispatch.rollouts) if rollout.id != group.rollout)
    other = torch.cat([opened(block).x0[row] for block in dispatch.made])[-len(group.context) :]
    with pytest.raises(BadWindow) as refused:
        supply.validate(dispatch, sealed(replace(group, context=other)))
    assert refused.value.reason == "splice"


def test_missing_scores_are_counted_kept_by_a_checkpoint_and_stop_the_run_above_their_rate():
    config = small_grpo()
    supply, dispatch = forking(config)
    group = made_until(supply, dispatch, lambda item: isinstance(item, Group))
    half = {"exposure_drift": [[math.nan], [0.25]]}
    supply.keep(dispatch, sealed(replace(group, scores=half)))
    assert supply.metrics()["reward/exposure_drift/failed"] == 1
    again = make_supply(stage_spec("grpo", config), restored(saved(supply.state())))
    assert again.metrics()["reward/exposure_drift/failed"] == 1
    (kept,) = map(opened, again.buffer.waiting.values())
    assert kept.scores.keys() == half.keys() and math.isnan(kept.scores["exposure_drift"][0][0])
    assert kept.scores["exposure_drift"][1] == [0.25]
    for name in ("context", "latents", "noisy", "states", "samples", "behaviour"):
        assert torch.equal(getattr(kept, name), getattr(group, name))
    with pytest.raises(RewardFails, match=r"exposure_drift .*50% .*\b50\b.*reward\.max_failure_rate"):
        for _ in range(24):
            again.scores.note(half)


def test_the_opening_is_one_horizon_long_however_far_the_video_goes():
    supply, dispatch = forking(small_grpo())
    made_until(supply, dispatch, late_group)
    assert [block.index for block in dispatch.first] == [0, 1, 2, 3]
    assert all(block.kind == "MadeBlock" for block in dispatch.first)
