"""Advantages against their formulas written slowly, one group and one window at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.losses.advantages import combine, reward_to_go, standardise
from learner.policy_config import SCOPES

many = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 9999)
FLOOR = 1e-3
NAN = float("nan")


def rewards(seed: int, failing: float = 0.0, shape: tuple[int, int, int] = (3, 5, 4)) -> Tensor:
    """Rewards [P G W] of unlike groups; a share of them failed."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.2 + 3 * torch.rand(shape[0], 1, 1, generator=generator)
    values = 5 + size * torch.randn(*shape, generator=generator)
    return values.masked_fill(torch.rand(*shape, generator=generator) < failing, NAN)


def slow_reward_to_go(values: np.ndarray, gamma: float) -> np.ndarray:
    result = np.full(values.shape, np.nan)
    for p, g, w in np.ndindex(*values.shape):
        if np.isnan(values[p, g, w]):
            continue
        result[p, g, w] = 0.0
        for later in range(w, values.shape[2]):
            siblings = [value for value in values[p, :, later] if not np.isnan(value)]
            own = values[p, g, later]
            if siblings:
                result[p, g, w] += gamma ** (later - w) * (np.mean(siblings) if np.isnan(own) else own)
    return result


def slow_standardise(values: np.ndarray, scope: str, floor: float) -> np.ndarray:
    """Advantages, NaN where masked."""
    result = np.full(values.shape, np.nan)
    for w in range(values.shape[2]):
        groups = {}
        for p in range(values.shape[0]):
            members = [g for g in range(values.shape[1]) if not np.isnan(values[p, g, w])]
            if len(members) >= 2:
                groups[p] = members
        deviations = {p: values[p, groups[p], w] - np.mean(values[p, groups[p], w]) for p in groups}
        for p, members in groups.items():
            spreads = {
                "group": np.sqrt(np.mean(deviations[p] ** 2)),
                "batch": np.sqrt(np.mean(np.concatenate(list(deviations.values())) ** 2)),
                "max": max(np.sqrt(np.mean(deviation**2)) for deviation in deviations.values()),
            }
            for member, deviation in zip(members, deviations[p], strict=True):
                result[p, member, w] = deviation / max(spreads[scope], floor)
    return result


@many
@given(seed=seeds, gamma=st.sampled_from([0.0, 0.5, 0.8, 1.0]), failing=st.sampled_from([0.0, 0.3, 0.8]))
def test_the_reward_to_go_equals_its_sum_written_slowly(seed, gamma, failing):
    values = rewards(seed, failing)
    expected = slow_reward_to_go(values.double().numpy(), gamma)
    np.testing.assert_allclose(reward_to_go(values, gamma), expected, rtol=1e-12)


@many
@given(seed=seeds)
def test_gamma_0_is_local_and_gamma_1_sums_what_is_still_to_come(seed):
    values = rewards(seed, failing=0.3)
    assert torch.equal(reward_to_go(values, 0.0).nan_to_num(7.0), values.double().nan_to_num(7.0))
    complete = rewards(seed).double()
    torch.testing.assert_close(reward_to_go(complete, 1.0)[..., 0], complete.sum(dim=2))
    torch.testing.assert_close(reward_to_go(complete, 1.0)[..., 2], complete[..., 2] + complete[..., 3])


@many
@given(seed=seeds, later=st.floats(-9, 9))
def test_a_window_does_not_answer_for_what_came_before_it(seed, later):
    values = rewards(seed)
    changed = values.clone()
    changed[:, :, :2] = later
    assert torch.equal(reward_to_go(changed, 0.8)[..., 2:], reward_to_go(values, 0.8)[..., 2:])


@many
@given(seed=seeds, scope=st.sampled_from(SCOPES), failing=st.sampled_from([0.0, 0.3, 0.8]))
def test_advantages_equal_their_formula_written_slowly(seed, scope, failing):
    values = rewards(seed, failing)
    result = standardise(values, scope, FLOOR)
    expected = slow_standardise(values.double().numpy(), scope, FLOOR)
    np.testing.assert_array_equal(result.valid, ~np.isnan(expected))
    np.testing.assert_allclose(result.values, np.nan_to_num(expected), rtol=1e-9, atol=1e-12)


@many
@given(seed=seeds, scope=st.sampled_from(SCOPES), failing=st.sampled_from([0.0, 0.3]))
def test_a_groups_advantages_have_mean_0_and_what_is_masked_is_0(seed, scope, failing):
    result = standardise(rewards(seed, failing), scope, FLOOR)
    torch.testing.assert_close(result.values.sum(dim=1), torch.zeros(3, 4, dtype=torch.float64), atol=1e-9, rtol=0)
    assert not result.values[~result.valid].any()


@many
@given(seed=seeds)
def test_the_scope_says_whose_spread_is_one(seed):
    values = rewards(seed)
    own = {scope: standardise(values, scope, FLOOR).values.square().mean(dim=1) for scope in SCOPES}
    one = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(own["group"], one.expand(3, 4))
    torch.testing.assert_close(own["batch"].mean(dim=0), one)
    torch.testing.assert_close(own["max"].amax(dim=0), one)


@many
@given(seed=seeds, scope=st.sampled_from(SCOPES), offset=st.floats(-10, 10), scale=st.floats(0.1, 10))
def test_neither_a_groups_level_nor_the_unit_of_the_reward_shows(seed, scope, offset, scale):
    values = rewards(seed, failing=0.2).double()
    levels = offset * torch.arange(3.0)[:, None, None]
    expected = standardise(values, scope, 1e-9).values
    torch.testing.assert_close(standardise(scale * values + levels, scope, 1e-9).values, expected, rtol=1e-6, atol=1e-6)


@many
@given(seed=seeds, scope=st.sampled_from(SCOPES))
def test_a_member_that_failed_changes_nothing_for_its_siblings(seed, scope):
    """Their advantages are those of a smaller group, and not those of a group whose member scored 0."""
    values = rewards(seed, shape=(1, 5, 4))
    failed = values.clone()
    failed[0, 3] = NAN
    without = combine({"a": values[:, [0, 1, 2, 4]]}, {"a": 1.0}, 0.8, scope, FLOOR, 5.0)
    result = combine({"a": failed}, {"a": 1.0}, 0.8, scope, FLOOR, 5.0)
    torch.testing.assert_close(result.values[:, [0, 1, 2, 4]], without.values)
    assert not result.values[:, 3].any() and not result.valid[:, 3].any()
    scored_0 = combine({"a": values.index_fill(1, torch.tensor(3), 0.0)}, {"a": 1.0}, 0.8, scope, FLOOR, 5.0)
    assert not torch.allclose(result.values[:, [0, 1, 2, 4]], scored_0.values[:, [0, 1, 2, 4]])


def test_a_window_that_failed_moves_no_advantage_of_the_windows_before_it():
    """Members differ in the first window only; one lacks its last, which would be worth a lot."""
    values = torch.tensor([[[1.0, 9.0], [2.0, 9.0], [3.0, NAN]]])
    result = combine({"a": values}, {"a": 1.0}, 1.0, "group", FLOOR, 5.0)
    spread = math.sqrt(2 / 3)
    torch.testing.assert_close(result.values[0, :, 0], torch.tensor([-1.0, 0.0, 1.0]).double() / spread)
    assert result.valid.tolist() == [[[True, True], [True, True], [True, False]]]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_constant_group_has_advantage_0_and_is_counted(scope):
    values = rewards(0, shape=(4, 5, 2))
    values[1] = 0.1
    values[2, :, 1] = -3.0
    result = standardise(values, scope, FLOOR)
    torch.testing.assert_close(result.values[1], torch.zeros(5, 2, dtype=torch.float64))
    assert result.zero_spread == 3 / 8
    assert result.valid.all() and result.flat.tolist() == [[False] * 2, [True] * 2, [False, True], [False] * 2]


def test_a_spread_below_the_floor_is_not_blown_up_to_one():
    values = torch.tensor([[[0.0], [1e-6]]])
    result = standardise(values, "group", FLOOR)
    torch.testing.assert_close(result.values.flatten(), torch.tensor([-5e-4, 5e-4], dtype=torch.float64))
    assert result.zero_spread == 1.0


def test_the_largest_spread_protects_a_group_of_near_equals():
    values = torch.stack([torch.linspace(0, 1, 4), torch.linspace(0, 0.01, 4)])[..., None]
    alone, beside = (standardise(values, scope, FLOOR).values for scope in ("group", "max"))
    torch.testing.assert_close(alone[0], alone[1])
    torch.testing.assert_close(beside[1], 0.01 * beside[0])


@pytest.mark.parametrize("survivors", [0, 1])
def test_a_group_of_fewer_than_two_is_masked_and_not_counted(survivors):
    values = rewards(1, shape=(2, 4, 1))
    values[0, survivors:] = NAN
    result = combine({"a": values}, {"a": 1.0}, 0.8, "max", FLOOR, 5.0)
    assert not result.valid[0].any() and not result.values[0].any() and result.valid[1].all()
    alone = combine({"a": values[1:]}, {"a": 1.0}, 0.8, "max", FLOOR, 5.0)
    torch.testing.assert_close(result.values[1], alone.values[0])
    assert result.zero_spread == 0.0


def test_a_batch_in_which_everything_failed_is_masked_whole():
    result = combine({"a": torch.full((2, 3, 2), NAN)}, {"a": 1.0}, 0.8, "max", FLOOR, 5.0)
    assert not result.valid.any() and not result.values.any() and result.zero_spread == 0.0
    assert math.isnan(result.rewards["a"].mean)


@many
@given(seed=seeds, scope=st.sampled_from(SCOPES), gamma=st.sampled_from([0.0, 0.8, 1.0]), clip=st.sampled_from([1, 9]))
def test_rewards_are_standardised_one_by_one_then_weighted_summed_and_clipped(seed, scope, gamma, clip):
    scores = {"flow": rewards(seed, failing=0.2), "exposure": 100 * rewards(seed + 1, failing=0.1)}
    weights = {"flow": 1.0, "exposure": 0.5}
    result = combine(scores, weights, gamma, scope, FLOOR, clip)
    failed = np.isnan(scores["flow"].numpy()) | np.isnan(scores["exposure"].numpy())
    expected = 0.0
    for name, weight in weights.items():
        to_go = slow_reward_to_go(scores[name].double().numpy(), gamma)
        expected = expected + weight * slow_standardise(np.where(failed, np.nan, to_go), scope, FLOOR)
    np.testing.assert_array_equal(result.valid, ~np.isnan(expected))
    np.testing.assert_allclose(result.values, np.nan_to_num(expected).clip(-clip, clip), rtol=1e-9, atol=1e-12)


def test_the_reward_with_the_largest_numbers_does_not_win():
    scores = {"small": torch.tensor([[[0.0], [1.0]]]), "large": torch.tensor([[[1000.0], [0.0]]])}
    result = combine(scores, {"small": 1.0, "large": 1.0}, 0.8, "group", FLOOR, 5.0)
    torch.testing.assert_close(result.values, torch.zeros(1, 2, 1, dtype=torch.float64))


def test_a_window_counts_where_every_reward_with_a_weight_has_a_number():
    whole = rewards(0, shape=(1, 4, 2))
    holed = rewards(1, shape=(1, 4, 2))
    holed[0, 2, 1] = NAN
    weighted = combine({"a": whole, "b": holed}, {"a": 1.0, "b": 1.0}, 0.8, "group", FLOOR, 5.0)
    assert (~weighted.valid).nonzero().tolist() == [[0, 2, 1]]
    silent = combine({"a": whole, "b": holed}, {"a": 1.0, "b": 0.0}, 0.8, "group", FLOOR, 5.0)
    assert silent.valid.all()
    torch.testing.assert_close(silent.values, combine({"a": whole}, {"a": 1.0}, 0.8, "group", FLOOR, 5.0).values)


def test_a_group_is_without_signal_only_where_every_reward_is_flat():
    flat, varied = torch.zeros(2, 4, 1), rewards(0, shape=(2, 4, 1))
    half = varied.clone()
    half[0] = 1.0
    both = {"a": 1.0, "b": 1.0}
    assert combine({"a": flat, "b": varied}, both, 0.8, "max", FLOOR, 5.0).zero_spread == 0.0
    result = combine({"a": flat, "b": half}, both, 0.8, "max", FLOOR, 5.0)
    assert result.zero_spread == 0.5
    assert [result.rewards[name].zero_spread for name in "ab"] == [1.0, 0.5]


@many
@given(seed=seeds)
def test_statistics_are_those_of_the_numbers_as_they_were_given(seed):
    scores = rewards(seed, failing=0.3)
    result = combine({"a": scores}, {"a": 2.0}, 0.8, "max", FLOOR, 5.0).rewards["a"]
    assert result.mean == pytest.approx(np.nanmean(scores.double().numpy()))
    assert result.std == pytest.approx(np.nanstd(scores.double().numpy()))


def test_an_infinite_reward_is_refused():
    with pytest.raises(AssertionError, match="infinite"):
        combine({"a": torch.tensor([[[1.0], [float("inf")]]])}, {"a": 1.0}, 0.8, "max", FLOOR, 5.0)
