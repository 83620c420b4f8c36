"""How much a clip moves, by another flow than the one that is trained on: a sentinel, not a reward to train with.

After VBench's dynamic degree: the fastest 5 % of a frame against 6 pixels at 256, at 8 frames per second. VBench asks
RAFT and counts the pairs above; here Farneback's flow is asked, and the count is soft, so that slowing down is seen
before a pair falls below.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy
import torch
from torch import Tensor

from rewards.flow.optical_flow import grey_frames
from rewards.reward import Clip
from rewards.reward_config import RewardConfig

TOP_SHARE = 0.05
THRESHOLD = 6.0 / 256
"""Of a frame's shorter side."""


def dynamics(speed: Tensor, shorter_side: int) -> Tensor:
    """Mean over pairs of s^2 / (s^2 + threshold^2), in [0, 1): `speed` [N] in pixels; one half at the threshold."""
    threshold = THRESHOLD * shorter_side
    return (speed.square() / (speed.square() + threshold**2)).mean()


class DynamicDegree:
    """`dynamics` of frames that lie reward.dynamic_stride apart; NaN for a clip of fewer."""

    needs = frozenset({"pixels"})
    scope = "window"

    def __init__(self, config: RewardConfig):
        self._stride, self._upsample = config.dynamic_stride, config.upsample

    def __call__(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([self._score(clip) for clip in clips])

    def _score(self, clip: Clip) -> Tensor:
        grey = grey_frames(clip.pixels, self._upsample)[:: self._stride]
        if len(grey) < 2:
            return torch.tensor(torch.nan)
        speeds = [_fastest(first, second) for first, second in pairwise(grey)]
        return dynamics(torch.tensor(speeds), min(grey.shape[1:]))


def _fastest(first: numpy.ndarray, second: numpy.ndarray) -> float:
    """Mean length of Farneback's flow over the fastest pixels of a pair of frames [h w]."""
    flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    length = torch.from_numpy(numpy.hypot(flow[..., 0], flow[..., 1])).flatten()
    return length.topk(max(1, round(TOP_SHARE * len(length)))).values.mean().item()
