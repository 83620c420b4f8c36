"""The composite: a product, so that no term can be paid for with another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.clip import Clip
from rewards.cut import NoCut
from rewards.drift import ExposureDrift, SharpnessDrift
from rewards.flow_continuity import FlowContinuity
from rewards.reward_config import RewardConfig


class Continuity:
    """Even motion x exposure kept x sharpness kept x no cut, each in [0, 1]; NaN where one of them cannot tell."""

    needs = frozenset({"pixels", "flow", "reference"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self._factors = [factor(config) for factor in (FlowContinuity, ExposureDrift, SharpnessDrift, NoCut)]

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([factor(clips) for factor in self._factors]).prod(0)
