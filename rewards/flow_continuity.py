"""Motion goes on, evenly: the reward that a frozen video cannot win.

Every pure reward of smoothness is maximised by standing still. So motion is held against a floor, which the same
prompt's first seconds set; and it is invalid flow, not only fast flow, that noise and cuts are known by.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rewards.clip import Clip
from rewards.flow.flow_motion import Motion, motion
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
    """Floor x evenness x validity, in [0, 1], of motion [T-1] in pixels and of its invalid share [T-1].

    With L = log(smoothed(moved) + offset): floor is the mean motion of the last pairs over that share of
    `reference_motion`, at most 1; evenness is exp(-(max|dL| - spike_free)+ - jerk_scale * mean|dL|), 1 for a single
    pair; validity is 1 - mean(invalid).
    """
    floor = (moved[-floor_pairs:].mean() / (floor_share * reference_motion)).clamp(max=1)
    change = (smoothed(moved, smooth_pairs) + offset).log().diff().abs()
    valid = floor * (1 - invalid.mean())
    if not len(change):
        return valid
    return valid * torch.exp(-(change.max() - spike_free).clamp(min=0) - jerk_scale * change.mean())


def smoothed(moved: Tensor, pairs: int) -> Tensor:
    """`moved` [N], each the mean of its `pairs` nearest; fewer at the ends."""
    centred = {"kernel_size": pairs, "stride": 1, "padding": pairs // 2, "count_include_pad": False}
    return functional.avg_pool1d(moved[None], **centred)[0]


class FlowContinuity:
    """`continuity_of` a clip's flow against its bar, or else its reference's flow."""

    needs = frozenset({"flow", "reference"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self._config = config

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([self._score(clip) for clip in clips])

    def _motion(self, clip: Clip) -> Motion:
        assert clip.flow is not None, "the scorer computes the flow of clips and references"
        return motion(clip.flow, self._config)

    def _score(self, clip: Clip) -> Tensor:
        if clip.reference is None:
            return torch.tensor(torch.nan)
        moved, invalid = clip.once(self._motion)
        expected = torch.cat([bar.once(self._motion)[0] for bar in clip.bar or (clip.reference,)])
        if not len(moved) or not len(expected):
            return torch.tensor(torch.nan)
        config = self._config
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
