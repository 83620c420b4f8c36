"""Compute advantages from rewards [P G W]: P groups of G members, whose segments have W windows.

NaN is a reward that failed. It never becomes a number: the member is left out at that window, and neither its siblings
nor its own other windows notice. All statistics are population statistics, in float64.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from learner.policy_config import SCOPES


class Standardized(NamedTuple):
    """Holds values in units of their groups' spread."""

    values: Tensor
    """[P G W], 0 where masked; the mean over a group's valid members is 0."""
    valid: Tensor
    """[P G W] bool: counts. Groups with fewer than two numbers at a window do not count there."""
    flat: Tensor
    """[P W] bool: the group counts at that window, but its own spread is below the floor."""

    @property
    def zero_spread(self) -> float:
        """Return the share of flat groups among those that count; 0 where none counts."""
        return _share(self.flat, self.valid.any(dim=1))


class RewardStatistics(NamedTuple):
    """Summarises one reward over a batch, before reward-to-go, normalisation and weight."""

    mean: float
    """Mean of the scores; NaN where there is none."""
    std: float
    """Standard deviation of the scores; NaN where there is none."""
    zero_spread: float
    """Share of groups whose reward-to-go has a spread below the floor."""


class Advantages(NamedTuple):
    """Holds the advantages of a batch of groups, and statistics of its rewards."""

    values: Tensor
    """[P G W], 0 where masked, within +-clip."""
    valid: Tensor
    """[P G W] bool: counts."""
    zero_spread: float
    """Share of groups, among those that count, in which every reward is flat: nothing is learned from them."""
    rewards: dict[str, RewardStatistics]
    """Statistics by reward, those of weight 0 too."""


def reward_to_go(rewards: Tensor, gamma: float) -> Tensor:
    """Return the sum over windows u >= w of gamma^(u - w) rewards[u], [P G W].

    A window's errors stay in later context. A later window that failed counts as the mean of its valid siblings there,
    which moves no advantage: leaving it out of the sum would score it 0. A window that failed itself stays NaN.
    """
    rewards = rewards.double()
    mean = rewards.nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)  # all failed: 0 for all of them
    filled = torch.where(rewards.isnan(), mean, rewards)
    windows = torch.arange(rewards.shape[2], device=rewards.device)
    ahead = windows[:, None] - windows
    discount = torch.where(ahead >= 0, torch.tensor(gamma, dtype=torch.float64) ** ahead.clamp_min(0), 0.0)
    return (filled @ discount).masked_fill(rewards.isnan(), torch.nan)


def standardise(values: Tensor, scope: str, floor: float) -> Standardized:
    """Centre [P G W] on each group's valid members at each window, and divide by max(spread, floor).

    The spread is the standard deviation at that window of the group itself (`group`), of all groups pooled, each
    around its own mean (`batch`), or the largest of all groups (`max`). The last two keep a group of near equals from
    turning the noise of a reward into advantages as large as all others.
    """
    assert scope in SCOPES and floor > 0, (scope, floor)
    assert not values.isinf().any(), "a reward is infinite; a failed one is NaN"
    values = values.double()
    valid = ~values.isnan()
    valid = valid & (valid.sum(dim=1, keepdim=True) >= 2)
    count = valid.sum(dim=1, keepdim=True)
    centre = values.masked_fill(~valid, 0.0).sum(dim=1, keepdim=True) / count.clamp_min(1)
    deviation = (values - centre).masked_fill(~valid, 0.0)
    squares = deviation.square().sum(dim=1, keepdim=True)
    own = (squares / count.clamp_min(1)).sqrt()
    if scope == "batch":
        spread = (squares.sum(dim=0, keepdim=True) / count.sum(dim=0, keepdim=True).clamp_min(1)).sqrt()
    else:
        spread = own.amax(dim=0, keepdim=True) if scope == "max" else own
    flat = (own < floor) & (count > 0)
    return Standardized(deviation / spread.clamp_min(floor), valid, flat.squeeze(1))


def combine(
    scores: Mapping[str, Tensor], weights: Mapping[str, float], gamma: float, scope: str, floor: float, clip: float
) -> Advantages:
    """Combine rewards [P G W]: to go, standardised within groups, weighted; then summed and clipped to +-clip.

    A member counts at a window where every reward with a weight has a number: a sum that lacks one would compare it
    with siblings on other grounds. Rewards of weight 0 are reported and change nothing.
    """
    assert scores.keys() == weights.keys() and any(weights.values()), (list(scores), dict(weights))
    complete = torch.stack([~scores[name].isnan() for name, weight in weights.items() if weight]).all(dim=0)
    parts = {
        name: standardise(reward_to_go(values, gamma).masked_fill(~complete, torch.nan), scope, floor)
        for name, values in scores.items()
        if weights[name]
    }
    total = torch.stack([weights[name] * part.values for name, part in parts.items()]).sum(dim=0)
    flat = torch.stack([part.flat for part in parts.values()]).all(dim=0)
    valid = next(iter(parts.values())).valid
    statistics = {}
    for name, values in scores.items():
        numbers = values[~values.isnan()].double()
        mean = numbers.mean()  # NaN where there is none, without the warning of Tensor.std
        std = (numbers - mean).square().mean().sqrt()
        zero_spread = standardise(reward_to_go(values, gamma), scope, floor).zero_spread
        statistics[name] = RewardStatistics(float(mean), float(std), zero_spread)
    return Advantages(total.clamp(-clip, clip), valid, _share(flat, valid.any(dim=1)), statistics)


def _share(part: Tensor, total: Tensor) -> float:
    return float(part.sum() / total.sum()) if total.any() else 0.0
