"""What is asked for in stage grpo: where videos are forked, into what, and when the sentinels look."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from actors.dispatchers import GroupDispatcher, SentinelTurns
from actors.prompts import TrainingPrompts
from actors.rollout_config import GroupConfig, RolloutConfig
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.records import GRPO, SENTINEL, GroupPlan, Rollout
from models.worlds.tiny_prompts import SENTINEL_PROMPTS, TRAINING_PROMPTS

many = settings(max_examples=30, deadline=None)
BETWEEN = 10
"""Forked videos between two looks of the sentinels."""


def dispatcher(
    batch: int = 4,
    seed: int = 0,
    law: str = "uniform",
    looks: int = 6,
    rollout: dict | None = None,
    prompts: Sequence[str] = TRAINING_PROMPTS,
    earliest: int = 0,
    **group,
) -> GroupDispatcher:
    rollouts = RolloutConfig(batch=batch, **({"frames": 48} | (rollout or {})))
    return GroupDispatcher(
        StudentConfig(), rollouts, law, GroupConfig(**({"forks": 1} | group)),
        SentinelTurns(SENTINEL_PROMPTS, looks, 24, BETWEEN), prompts, seed, earliest,
    )  # fmt: skip


def batches(source: GroupDispatcher, count: int, update: int = 0) -> list[list[Rollout]]:
    """What the supply asks for, one dispatch after the other."""
    asked, first = [], 0
    while first < count:
        asked.append(source.rollouts(first, update))
        first += len(asked[-1])
    return asked


def forks(source: GroupDispatcher, count: int, update: int = 0) -> list[GroupPlan]:
    asked = [rollout for batch in batches(source, count, update) for rollout in batch]
    return [plan for rollout in asked for plan in rollout.windows if plan.role == GRPO]


@many
@given(
    blocks=st.integers(4, 20), length=st.integers(1, 4), seed=st.integers(0, 2**40), update=st.integers(0, 99),
    law=st.sampled_from(["uniform", "beta(1, 4)"]),
)  # fmt: skip
def test_no_group_reaches_past_the_end_of_its_video_whatever_the_horizon_of_the_moment(
    blocks, length, seed, update, law
):
    rollout = {"frames": 3 * blocks, "curriculum": [[0, 12], [50, 3 * blocks]]}
    source = dispatcher(seed=seed, law=law, rollout=rollout, frames=3 * length)
    asked = [r for batch in batches(source, 16, update) for r in batch if r.windows[0].role == GRPO]
    assert {r.frames for r in asked} == {12 if update < 50 else 3 * blocks}
    for each in asked:
        (plan,) = each.windows
        assert plan.start % 3 == 0 and 0 <= plan.start <= each.frames - plan.frames and plan.frames == 3 * length


def test_forks_are_uniform_over_every_place_that_leaves_room_for_a_group():
    starts = Counter(plan.start for plan in forks(dispatcher(), 2000))
    assert set(starts) == set(range(0, 37, 3))
    assert chisquare([starts[start] for start in range(0, 37, 3)]).pvalue > 1e-4


def test_forks_leave_room_before_them_for_what_reaches_back_behind_the_members():
    source = dispatcher(earliest=9, frames=3, rollout={"frames": 24, "horizon": "sampled"})
    starts = Counter(plan.start for plan in forks(source, 1000))
    assert set(starts) == set(range(9, 22, 3))
    assert {plan.start for plan in forks(dispatcher(earliest=9, frames=3, law="prefix(1)"), 100)} == {9}


def test_forks_obey_the_law_of_windows():
    assert {plan.start for plan in forks(dispatcher(law="prefix(2)"), 300)} == set(range(0, 13, 3))


def test_a_group_as_long_as_its_video_is_of_whole_videos():
    assert {(plan.start, plan.frames) for plan in forks(dispatcher(frames=48), 100)} == {(0, 48)}


@many
@given(batch=st.integers(1, 7), seed=st.integers(0, 2**40), number=st.integers(0, 3000))
def test_the_same_seed_and_number_ask_for_the_same_video_in_whatever_batch(batch, seed, number):
    source = dispatcher(batch, seed)
    for each in source.rollouts(number):
        assert dispatcher(1, seed).rollouts(each.id) == [each]


@many
@given(batch=st.integers(1, 12), looks=st.integers(1, 9))
def test_sentinels_look_before_every_so_many_groups_and_are_never_mixed_with_them(batch, looks):
    asked = batches(dispatcher(batch, looks=looks), 3 * (looks + BETWEEN))
    rollouts = [rollout for together in asked for rollout in together]
    assert [rollout.id for rollout in rollouts] == list(range(len(rollouts)))
    roles = [rollout.windows[0].role for rollout in rollouts]
    assert roles[: 3 * (looks + BETWEEN)] == ([SENTINEL] * looks + [GRPO] * BETWEEN) * 3
    assert all(len(together) <= batch and len({r.windows[0].role for r in together}) == 1 for together in asked)


def test_sentinels_look_at_the_same_prompts_with_the_same_noise_each_time():
    asked = [rollout for batch in batches(dispatcher(), 48) for rollout in batch]
    looks = [[(r.prompt, r.seed, r.frames, r.windows) for r in asked[first : first + 6]] for first in (0, 16, 32)]
    assert looks[0] == looks[1] == looks[2]
    assert [prompt for prompt, *_ in looks[0]] == list(SENTINEL_PROMPTS)
    assert len({seed for _, seed, *_ in looks[0]}) == 6
    for _, _, frames, (plan,) in looks[0]:
        assert (frames, plan.start, plan.frames, plan.members, plan.transitions) == (24, 0, 24, 1, ())


def test_more_looks_than_prompts_see_them_again_with_other_noise():
    count = len(SENTINEL_PROMPTS)
    asked = [rollout for batch in batches(dispatcher(looks=count + 2), count + 2) for rollout in batch]
    assert asked[0].prompt == asked[count].prompt and asked[0].seed != asked[count].seed


def test_groups_train_on_no_watched_prompt_and_on_every_other():
    asked = [r for batch in batches(dispatcher(batch=50), 3000) for r in batch if r.windows[0].role == GRPO]
    assert {rollout.prompt for rollout in asked} == set(TRAINING_PROMPTS)
    assert not set(TRAINING_PROMPTS) & set(SENTINEL_PROMPTS)
    assert len({rollout.seed for rollout in asked}) == len(asked)


@pytest.mark.parametrize("batch", [1, 4])
def test_every_prompt_of_a_file_comes_once_an_epoch_whatever_the_sentinels_look_at(batch):
    texts = TrainingPrompts([f"prompt {i}" for i in range(7)], seed=3)
    asked = [r.prompt for one in batches(dispatcher(batch, prompts=texts), 200) for r in one if r.prompt in texts.texts]
    assert len(asked) > 100
    for epoch in range(len(asked) // 7):
        assert sorted(asked[7 * epoch :][:7]) == sorted(texts)


def test_one_transition_is_drawn_evenly_or_as_often_as_asked_and_all_are_all():
    drawn = Counter(plan.transitions for plan in forks(dispatcher(), 1500))
    assert set(drawn) == {(0,), (1,), (2,)} and chisquare(list(drawn.values())).pvalue > 1e-4
    drawn = Counter(plan.transitions for plan in forks(dispatcher(transition_shares=[0.0, 2.0, 6.0]), 1500))
    assert set(drawn) == {(1,), (2,)} and drawn[1,] + drawn[2,] == drawn.total()
    assert chisquare([drawn[1,], drawn[2,]], [drawn.total() / 4, drawn.total() * 3 / 4]).pvalue > 1e-4
    assert {plan.transitions for plan in forks(dispatcher(transitions="all", noise="first"), 50)} == {(0, 1, 2)}


def test_where_a_video_is_forked_does_not_depend_on_what_its_group_shares_or_trains():
    plans = [
        forks(dispatcher(noise=noise, transitions=transitions, members=members), 100)
        for noise, transitions, members in (("one", "one", 8), ("first", "all", 4), ("fresh", "one", 2))
    ]
    assert [p.start for p in plans[0]] == [p.start for p in plans[1]] == [p.start for p in plans[2]]


@pytest.mark.parametrize(
    ("noise", "shared"),
    [
        ("one", {(0,): (0, 2, 3), (1,): (0, 1, 3), (2,): (0, 1, 2)}),
        ("first", {(t,): (0,) for t in range(3)}),
        ("fresh", {(t,): () for t in range(3)}),
    ],
)
def test_a_group_shares_all_noise_but_its_transitions_or_the_first_or_none(noise, shared):
    """The noise of transition t is drawn on the way to denoising step t + 1."""
    assert {plan.transitions: plan.shared for plan in forks(dispatcher(noise=noise), 200)} == shared


def test_a_law_of_the_users_own_that_forks_past_the_end_is_refused():
    source = dispatcher()
    source.law = lambda starts, window_frames, horizon_frames, generator: 39
    with pytest.raises(ConfigError) as caught:
        source.rollouts(6)
    assert caught.value.key == "window.law" and "39" in str(caught.value)


def test_a_sampled_horizon_is_spread_over_all_lengths_that_hold_a_group():
    source = dispatcher(batch=200, rollout={"horizon": "sampled"})
    asked = [r for batch in batches(source, 3000) for r in batch if r.windows[0].role == GRPO]
    frames = Counter(rollout.frames for rollout in asked)
    assert set(frames) == set(range(12, 49, 3))
    assert chisquare(list(frames.values())).pvalue > 1e-4
    assert all(r.windows[0].start + 12 <= r.frames for r in asked)
    assert torch.tensor([r.windows[0].start for r in asked]).float().mean() < 13  # uniform over 48 frames: 18


def test_a_rollout_is_forked_several_times_each_where_the_law_says():
    asked = batches(dispatcher(forks=3), 60)
    forked = [rollout for batch in asked for rollout in batch if rollout.windows[0].role == GRPO]
    assert all([plan.index for plan in rollout.windows] == [0, 1, 2] for rollout in forked)
    assert len({plan.start for rollout in forked for plan in rollout.windows}) > 8
