"""Score continuous, even motion, alone and times the other factors of quality.

A pure reward of smoothness is maximised by a frozen video. So motion is compared with a floor, which the same prompt's
first seconds set; noise and cuts show in invalid flow, not only in fast flow.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rewards.cut import NoCut
from rewards.drift import ExposureDrift, SharpnessDrift
from rewards.flow.flow_motion import PairMotion, pair_motion
from rewards.reward import Clip, ClipReward
from rewards.reward_config import RewardConfig


def continuity_of(
    moved: Tensor,
    invalid: Tensor,
    reference_motion: Tensor,
    *,
    floor_share: float,
    floor_pairs: int,
    offset: float,
    smooth_pairs: int,
    spike_free: float,
    jerk_scale: float,
) -> Tensor:
    """Multiply floor, evenness and validity, each in [0, 1], of motion [T-1] in pixels and its invalid share [T-1].

    With L = log(smoothed(moved) + offset): floor is the mean motion of the last pairs over that share of
    `reference_motion`, at most 1; evenness is exp(-(max|dL| - spike_free)+ - jerk_scale * mean|dL|), 1 for a single
    pair; validity is 1 - mean(invalid).
    """
    floor = (moved[-floor_pairs:].mean() / (floor_share * reference_motion)).clamp(max=1)
    # The mean of the `smooth_pairs` nearest pairs; fewer at the ends.
    centred = {"kernel_size": smooth_pairs, "stride": 1, "padding": smooth_pairs // 2, "count_include_pad": False}
    change = (functional.avg_pool1d(moved[None], **centred)[0] + offset).log().diff().abs()
    valid = floor * (1 - invalid.mean())
    if not len(change):
        return valid
    return valid * torch.exp(-(change.max() - spike_free).clamp(min=0) - jerk_scale * change.mean())


class FlowContinuity(ClipReward):
    """Scores a clip's flow by `continuity_of`, against its `motion_reference` or else its reference."""

    needs = frozenset({"flow", "reference"})

    def _motion(self, clip: Clip) -> PairMotion:
        assert clip.flow is not None, "the scorer computes the flow of clips and references"
        return pair_motion(clip.flow, self.config)

    def score(self, clip: Clip) -> Tensor:
        if clip.reference is None:
            return torch.tensor(torch.nan)
        moved, invalid = clip.once(self._motion)
        expected = torch.cat([other.once(self._motion)[0] for other in clip.motion_reference or (clip.reference,)])
        if not len(moved) or not len(expected):
            return torch.tensor(torch.nan)
        config = self.config
        return continuity_of(
            moved,
            invalid,
            expected.mean().clamp(min=config.least_motion),
            floor_share=config.floor_share,
            floor_pairs=config.floor_pairs,
            offset=config.motion_offset,
            smooth_pairs=config.smooth_pairs,
            spike_free=config.spike_free,
            jerk_scale=config.jerk_scale,
        ).cpu()


class Continuity:
    """Multiplies even motion, exposure kept, sharpness kept and no cut, each in [0, 1]; NaN where one of them is NaN.

    A product, so that no factor can be bought with another.
    """

    needs = frozenset({"pixels", "flow", "reference"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self._factors = [factor(config) for factor in (FlowContinuity, ExposureDrift, SharpnessDrift, NoCut)]

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([factor(clips) for factor in self._factors]).prod(0)
