from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.dispatchers import StudentDispatcher, TeacherDispatcher
from actors.prompts import TrainingPrompts
from actors.rollout_config import RolloutConfig, WindowConfig
from models.errors import ConfigError
from models.network_config import StudentConfig
from models.records import CRITIC, ODE, STUDENT, WindowPlan
from models.worlds.tiny_prompts import PROMPTS

many = settings(max_examples=30, deadline=None)
shapes = st.builds(
    dict, frames=st.integers(4, 20).map(lambda blocks: 3 * blocks), batch=st.integers(1, 5), windows=st.integers(1, 9)
)


def dispatcher(
    rollout: dict | None = None, critic_updates: int = 3, seed: int = 0, law: str = "uniform", gradient_step="last"
) -> StudentDispatcher:
    window = WindowConfig(law=law, frames=12, gradient_step=gradient_step)
    rollouts = RolloutConfig(**(rollout or {"frames": 48, "batch": 4, "windows": 8}))
    return StudentDispatcher(StudentConfig(), rollouts, window, critic_updates, PROMPTS, seed)


def plans(source: StudentDispatcher, rollouts: int) -> list[WindowPlan]:
    return [plan for i in range(rollouts) for plan in source.rollouts(i * source.rollout.batch)[0].windows]


def p_value(counts: torch.Tensor, expected: torch.Tensor, freedom: int) -> float:
    """Probability of a chi-square at least as large if `expected` were the law."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.float64), statistic / 2).item()


@many
@given(shape=shapes, seed=st.integers(0, 2**40), first=st.integers(0, 10_000))
def test_the_same_seed_and_number_ask_for_the_same_rollout_in_whatever_batch(shape, seed, first):
    batch = dispatcher(shape, seed=seed).rollouts(first)
    assert [rollout.id for rollout in batch] == list(range(first, first + shape["batch"]))
    alone = dispatcher(shape | {"batch": 1}, seed=seed)
    alone.rollouts(first + 77)  # what was asked before does not matter
    assert batch == [alone.rollouts(rollout.id)[0] for rollout in batch]


def test_other_seeds_and_numbers_ask_for_other_videos():
    videos = [rollout.seed for seed in range(3) for rollout in dispatcher(seed=seed).rollouts(0)]
    assert len(set(videos)) == len(videos)


@many
@given(shape=shapes, seed=st.integers(0, 99), law=st.sampled_from(["uniform", "beta(1, 4)", "prefix(1)", "stratified"]))
def test_every_start_is_block_aligned_and_every_window_inside_the_rollout(shape, seed, law):
    source = dispatcher(shape, seed=seed, law=law)
    for rollout in source.rollouts(0):
        assert rollout.frames == shape["frames"] and len(rollout.windows) == shape["windows"]
        for plan in rollout.windows:
            assert plan.start % 3 == 0 and 0 <= plan.start <= rollout.frames - 12


@many
@given(critic_updates=st.integers(1, 6), windows=st.integers(1, 9), batches=st.integers(1, 5))
def test_roles_come_in_the_ratio_of_the_updates_over_any_whole_number_of_turns(critic_updates, windows, batches):
    turns = 1 + critic_updates
    source = dispatcher({"frames": 48, "batch": turns, "windows": windows}, critic_updates)
    drawn = [
        plan.role for batch in range(batches) for rollout in source.rollouts(batch * turns) for plan in rollout.windows
    ]
    assert Counter(drawn) == {STUDENT: batches * windows, CRITIC: batches * windows * critic_updates}


@pytest.mark.parametrize("role", [STUDENT, CRITIC])
def test_starts_asked_for_are_uniform_over_every_position_for_each_role_apart(role):
    starts = [plan.start for plan in plans(dispatcher(), 500) if plan.role == role]
    counts = torch.tensor([starts.count(start) for start in range(0, 37, 3)], dtype=torch.float64)
    assert p_value(counts, counts.sum().expand(13) / 13, freedom=12) > 1e-4


@pytest.mark.parametrize("law", ["uniform", "beta(1, 4)"])
def test_where_a_window_starts_does_not_depend_on_its_role(law):
    drawn = plans(dispatcher(law=law, seed=1), 500)
    starts = sorted({plan.start for plan in drawn})
    table = torch.tensor(
        [[sum(p.role == role and p.start == start for p in drawn) for start in starts] for role in (STUDENT, CRITIC)],
        dtype=torch.float64,
    )
    table = table[:, table.sum(0) >= 40]  # the approximation needs a few of each
    expected = table.sum(0) * table.sum(1, keepdim=True) / table.sum()
    assert table.shape[1] >= 5 and p_value(table, expected, freedom=table.shape[1] - 1) > 1e-4


def test_the_gradient_step_is_the_last_or_drawn_evenly():
    assert {plan.step for plan in plans(dispatcher(), 20)} == {3}
    steps = [plan.step for plan in plans(dispatcher(gradient_step="drawn"), 200)]
    counts = torch.tensor([steps.count(step) for step in range(4)], dtype=torch.float64)
    assert p_value(counts, counts.sum().expand(4) / 4, freedom=3) > 1e-4


def test_every_prompt_is_asked_for():
    source = dispatcher({"frames": 48, "batch": 50, "windows": 1})
    prompts = Counter(rollout.prompt for i in range(20) for rollout in source.rollouts(50 * i))
    assert set(prompts) == set(PROMPTS)


@many
@given(batch=st.integers(1, 7), count=st.integers(1, 30), seed=st.integers(0, 99), epochs=st.integers(1, 3))
def test_every_prompt_of_a_file_comes_once_in_each_epoch_of_rollouts_in_a_seeded_order(batch, count, seed, epochs):
    texts = TrainingPrompts([f"prompt {i}" for i in range(count)], seed)
    rollout = RolloutConfig(frames=48, batch=batch, windows=1)
    sources = (
        StudentDispatcher(StudentConfig(), rollout, WindowConfig(frames=12), 3, texts, seed),
        TeacherDispatcher(StudentConfig(), rollout, range(10_000), texts, seed),
    )
    for source in sources:
        asked = [r.prompt for first in range(0, epochs * count, batch) for r in source.rollouts(first)]
        for epoch in range(epochs):
            assert sorted(asked[epoch * count :][:count]) == sorted(texts)
        assert [source.rollouts(i)[0].prompt for i in range(epochs * count)] == asked[: epochs * count]


def test_the_order_of_a_files_prompts_is_another_with_another_seed_and_in_another_epoch():
    def order(seed: int, first: int) -> list[str]:
        texts = TrainingPrompts([f"prompt {i}" for i in range(50)], seed)
        rollout = RolloutConfig(frames=48, batch=50, windows=1)
        source = StudentDispatcher(StudentConfig(), rollout, WindowConfig(frames=12), 3, texts, seed=7)
        return [asked.prompt for asked in source.rollouts(first)]

    orders = [order(seed, first) for seed in (0, 1) for first in (0, 50)]
    assert len({tuple(one) for one in orders}) == 4


def test_a_trajectory_of_the_teacher_is_one_horizon_long_and_depends_on_seed_and_number_alone():
    def source(batch: int) -> TeacherDispatcher:
        rollout = RolloutConfig(frames=48, batch=batch, windows=8)
        return TeacherDispatcher(StudentConfig(horizon_frames=9), rollout, range(1000), PROMPTS, seed=5)

    batch = source(3).rollouts(6)
    assert batch == [source(1).rollouts(i)[0] for i in (6, 7, 8)]
    assert {(rollout.frames, rollout.windows) for rollout in batch} == {(9, (WindowPlan(ODE, 0, 0, 0),))}
    assert len({rollout.seed for rollout in batch}) == 3


def test_no_other_trajectories_are_made_than_those_that_are_asked_for():
    whole = TeacherDispatcher(StudentConfig(), RolloutConfig(batch=4), range(10), PROMPTS, seed=5)
    assert [len(whole.rollouts(first)) for first in (0, 4, 8, 10)] == [4, 4, 2, 0]
    some = TeacherDispatcher(StudentConfig(), RolloutConfig(batch=4), [1, 5, 6, 8, 9], PROMPTS, seed=5)
    again = [rollout for first in (0, 4, 5) for rollout in some.rollouts(first)]
    assert again == [whole.rollouts(i)[0] for i in (1, 5, 6, 8, 9)]


def test_a_law_of_the_users_own_that_draws_a_start_outside_the_rollout_is_refused():
    source = dispatcher({"frames": 48})
    source.law = lambda starts, window_frames, horizon_frames, generator: 1
    with pytest.raises(ConfigError) as caught:
        source.rollouts(0)
    assert caught.value.key == "window.law" and "start 1," in str(caught.value)


def test_a_sampled_horizon_is_block_aligned_and_spread_over_all_lengths_that_hold_a_window():
    source = dispatcher({"frames": 48, "batch": 200, "windows": 2, "horizon": "sampled"})
    rollouts = source.rollouts(0)
    frames = Counter(rollout.frames for rollout in rollouts)
    assert set(frames) == set(range(12, 49, 3))
    assert all(plan.start + 12 <= rollout.frames for rollout in rollouts for plan in rollout.windows)
    counts = torch.tensor([frames[n] for n in range(12, 49, 3)], dtype=torch.float64)
    assert p_value(counts, counts.sum().expand(13) / 13, freedom=12) > 1e-4


def test_a_curriculum_lengthens_the_horizon_with_the_students_updates():
    source = dispatcher({"frames": 48, "batch": 2, "windows": 2, "curriculum": [[0, 12], [10, 24], [20, 48]]})
    horizons = [{rollout.frames for rollout in source.rollouts(0, update)} for update in (0, 9, 10, 19, 20, 500)]
    assert horizons == [{12}, {12}, {24}, {24}, {48}, {48}]


@pytest.mark.parametrize("curriculum", [[[1, 12]], [[0, 12], [0, 24]], [[0, 96]], [[0]], [[0, 12], [9, 24], [5, 48]]])
def test_a_curriculum_that_cannot_be_followed_is_refused(curriculum):
    with pytest.raises(ConfigError) as caught:
        RolloutConfig(frames=48, curriculum=curriculum)
    assert caught.value.key == "rollout.curriculum"


def test_stratified_trains_the_student_on_every_position_equally_often():
    source = dispatcher({"frames": 96, "batch": 1, "windows": 8}, law="stratified")
    found = [plan.start for plan in plans(source, 1500) if plan.role == STUDENT]
    counts = torch.tensor([found.count(start) for start in range(0, 85, 3)], dtype=torch.float64)
    assert p_value(counts, torch.full((29,), len(found) / 29, dtype=torch.float64), 28) > 1e-4
